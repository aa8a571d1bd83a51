"""Settings: what variables and a file say, what holds where nobody says anything, and refusals."""

import json
import os
import subprocess
import sys

import pytest

from mmekit import settings as settings_module
from mmekit.errors import SettingsError
from mmekit.settings import DJL_VERSION, Settings, published_image

ROLE = "arn:aws:iam::210987654321:role/sagemaker"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.aws of the user's
    return tmp_path


def test_nothing_has_to_be_set_for_the_local_target():
    settings = Settings()
    assert settings.target == "local"
    assert settings.region == "us-east-1"
    assert settings.role == "arn:aws:iam::123456789012:role/mmekit-local"
    assert settings.model_data_url == "s3://mmekit-local/mmekit/models/"
    assert settings.local_url == "http://127.0.0.1:8950"


def test_a_variable_sets_what_it_names(monkeypatch):
    monkeypatch.setenv("MME_BUCKET", "another-bucket")
    monkeypatch.setenv("MME_PREFIX", "deep/er/")
    assert Settings().model_data_url == "s3://another-bucket/deep/er/"


def test_an_empty_variable_sets_nothing(monkeypatch):
    monkeypatch.setenv("MME_ROLE", "")
    assert Settings().role.endswith("role/mmekit-local")


def test_a_file_is_found_above_the_working_folder_and_a_variable_overrules_it(folder, monkeypatch):
    (folder / ".env").write_text("MME_BUCKET=from-the-file\nMME_PREFIX=from-the-file\n")
    (folder / "notebooks").mkdir()
    monkeypatch.chdir(folder / "notebooks")
    monkeypatch.setenv("MME_PREFIX", "from-the-variable")
    assert Settings().model_data_url == "s3://from-the-file/from-the-variable/"


def test_a_file_above_the_root_of_the_project_is_not_read(folder, monkeypatch):
    (folder / ".env").write_text("MME_BUCKET=of-another-project\n")
    (folder / "project").mkdir()
    (folder / "project" / "pyproject.toml").touch()
    monkeypatch.chdir(folder / "project")
    assert Settings().bucket == "mmekit-local"


@pytest.mark.parametrize(
    ("variable", "value", "may_be"),
    [
        ("MME_TARGET", "azure", "local or aws"),
        ("MME_REGION", "Frankfurt", "eu-central-1"),
        ("MME_BUCKET", "My_Bucket", "lower-case"),
        ("MME_PREFIX", "/models", "without a slash before it"),
        ("MME_ENDPOINT_NAME", "my_endpoint", "letters, digits and hyphens"),
        ("MME_ROLE", "sagemaker", "the ARN of a role"),
        ("MME_INSTANCE_TYPE", "m5.large", "ml.m5.xlarge"),
        ("MME_INSTANCE_TYPE", "ml.c7gn.xlarge", "an x86 instance type"),
        ("MME_INSTANCE_TYPE", "ml.inf2.xlarge", "ml.g5.xlarge for a GPU"),
        ("MME_LOCAL_URL", "127.0.0.1:8950", "http://127.0.0.1:8950"),
        ("MME_LOCAL_URL", "http://localhost:abc", "http://127.0.0.1:8950"),
        ("MME_LOCAL_URL", "http://localhost:99999", "http://127.0.0.1:8950"),
        ("MME_BUCKET", "a..b", "single dots"),
        ("MME_BUCKET", "192.168.0.1", "no IP address"),
        ("MME_INSTANCE_TYPE", "ml.q9.xlarge", "that SageMaker has for endpoints"),
        ("MME_PREFIX", "models/../others", "without // and .."),
        ("MME_PREFIX", "models//others", "without // and .."),
        ("MME_PREFIX", "m" * 901, "at most 900 characters"),
        ("MME_SENTENCE_MODEL", " ", "the hub name"),
        ("MME_IMAGE_URI", "an image", "URI of a container image"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_variable_and_what_it_may_be(
    monkeypatch, variable, value, may_be
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert caught.value.where == variable
    assert repr(value) in caught.value.what
    assert may_be in caught.value.what
    assert "\n  remedy: " in str(caught.value)


def test_a_file_that_is_not_utf_8_is_named(folder):
    (folder / ".env").write_bytes(b"MME_BUCKET=caf\xe9\n")
    with pytest.raises(SettingsError, match="not UTF-8: byte 14 is 0xe9") as caught:
        Settings()
    assert caught.value.where == str(folder / ".env")


def test_a_profile_that_does_not_exist_matters_to_aws_alone(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nope")
    settings = Settings(instance_type="ml.c5.xlarge")
    assert settings.client("s3").meta.endpoint_url == "http://127.0.0.1:8950"
    assert settings.image_uri.endswith("-cpu-full")
    aws = Settings(target="aws", region="eu-central-1", role=ROLE)
    for ask in (lambda: aws.client("s3"), lambda: Settings(target="aws", role=ROLE)):
        with pytest.raises(SettingsError, match="nope") as caught:
            ask()
        assert caught.value.where == "AWS_PROFILE"


def test_a_profile_that_is_named_says_credentials_and_region(monkeypatch, tmp_path):
    config = tmp_path / "config"
    config.write_text(
        "[profile one]\nregion=eu-west-1\n[profile two]\nregion=ap-east-1\n"
        "aws_access_key_id=TWO\naws_secret_access_key=x\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "one")
    assert Settings(target="aws", role=ROLE).region == "eu-west-1"
    two = Settings(target="aws", role=ROLE, profile="two")
    assert two.region == "ap-east-1"
    keys = two.client("s3")._request_signer._credentials
    assert keys.access_key == "TWO"
    with pytest.raises(SettingsError, match="nope") as caught:
        Settings(target="aws", role=ROLE, profile="nope")
    assert caught.value.where == "profile"
    # Here it leads nowhere: a rehearsal has credentials of its own.
    assert Settings(profile="nope").client("s3").meta.region_name == "us-east-1"


def test_all_bad_values_are_named_at_once(monkeypatch):
    monkeypatch.setenv("MME_TARGET", "azure")
    monkeypatch.setenv("MME_PREFIX", "//")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert caught.value.where == "MME_TARGET, MME_PREFIX"


def test_on_aws_a_role_is_asked_for_by_whoever_reads_it_and_by_nobody_else():
    settings = Settings(target="aws", region="eu-central-1")
    assert settings.client("sagemaker-runtime").meta.region_name == "eu-central-1"
    with pytest.raises(SettingsError, match="MME_ROLE is not set") as caught:
        _ = settings.role
    assert "arn:aws:iam::" in caught.value.remedy
    with pytest.raises(SettingsError, match="MME_BUCKET is not set"):
        _ = settings.model_data_url
    assert settings.bucket_in("210987654321") == "sagemaker-eu-central-1-210987654321"
    assert Settings(target="aws", region="eu-central-1", bucket="mine").bucket == "mine"


def test_aws_needs_a_region_from_somewhere(monkeypatch):
    with pytest.raises(SettingsError, match="MME_REGION is not set"):
        Settings(target="aws", role=ROLE)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert Settings(target="aws", role=ROLE).region == "eu-west-1"


def test_on_aws_the_bucket_is_the_one_of_the_sdk_in_the_account_of_the_role():
    settings = Settings(target="aws", region="eu-central-1", role=ROLE)
    assert settings.bucket == "sagemaker-eu-central-1-210987654321"


@pytest.mark.parametrize(
    ("region", "registry"),
    [
        ("us-east-1", "763104351884.dkr.ecr.us-east-1.amazonaws.com"),
        ("eu-south-1", "692866216735.dkr.ecr.eu-south-1.amazonaws.com"),
        ("cn-north-1", "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_the_image_comes_from_the_registry_of_the_region(region, registry):
    image = Settings(region=region).image_uri
    assert image == f"{registry}/djl-inference:{DJL_VERSION}-cpu-full"


@pytest.mark.parametrize("instance", ["ml.g4dn.xlarge", "ml.g6e.2xlarge", "ml.p5.48xlarge"])
def test_a_gpu_instance_picks_the_gpu_image_and_nothing_else_changes(instance):
    cpu, gpu = Settings(), Settings(instance_type=instance)
    assert f":{DJL_VERSION}-lmi" in gpu.image_uri
    assert "-cu" in gpu.image_uri
    assert gpu.model_copy(update={"instance_type": cpu.instance_type}) == cpu


@pytest.mark.parametrize("instance", ["ml.t2.medium", "ml.m6i.large", "ml.c7i.4xlarge"])
def test_every_other_instance_picks_the_cpu_image(instance):
    assert Settings(instance_type=instance).image_uri.endswith("-cpu-full")


@pytest.mark.thorough
def test_the_gpu_image_is_the_one_that_the_sdk_of_sagemaker_names():
    program = (
        "from sagemaker.core import image_uris;"
        f"print(image_uris.retrieve('djl-lmi', 'ap-east-1', '{DJL_VERSION}'))"
    )
    sdk = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "AWS_DEFAULT_REGION": "ap-east-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = Settings(region="ap-east-1", instance_type="ml.g5.xlarge").image_uri
    assert ours == sdk.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("instance", ["ml.m5.xlarge", "ml.g5.xlarge"])
def test_the_images_that_are_known_without_the_sdk_are_its(instance, monkeypatch):
    pytest.importorskip("sagemaker.core")
    known = {
        region: published_image(region, instance)
        for region in settings_module._IMAGES["registries"]
    }
    assert len(known) == 16
    assert "us-east-1" in known
    monkeypatch.setattr(settings_module, "_IMAGES", {"registries": {}})
    assert {region: published_image(region, instance) for region in known} == known


def test_a_region_that_only_the_sdk_knows_names_the_extra(monkeypatch):
    monkeypatch.setattr(settings_module, "find_spec", lambda _: None)
    assert published_image("eu-central-1", "ml.m5.xlarge").startswith("763104351884.")
    with pytest.raises(SettingsError, match=r"pip install 'mmekit\[aws\]'"):
        published_image("ap-east-1", "ml.m5.xlarge")


def test_an_image_of_ones_own_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("MME_IMAGE_URI", "registry.example/mine:1")
    assert Settings(region="us-mars-1").image_uri == "registry.example/mine:1"


def test_a_region_without_images_is_an_error_only_when_the_image_is_needed():
    settings = Settings(region="us-mars-1")
    with pytest.raises(SettingsError, match="no DJL Serving image for us-mars-1"):
        _ = settings.image_uri


def test_local_clients_go_to_the_local_endpoint_with_credentials_that_open_nothing(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-real-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    client = Settings(local_url="http://127.0.0.1:9999/").client("sagemaker-runtime")
    assert client.meta.endpoint_url == "http://127.0.0.1:9999"
    assert client.meta.region_name == "us-east-1"
    assert "AKIAREAL" not in client.generate_presigned_url(
        "invoke_endpoint", Params={"EndpointName": "e", "Body": b""}
    )


def test_aws_clients_go_to_aws():
    client = Settings(target="aws", region="eu-central-1", role=ROLE).client("sagemaker-runtime")
    assert client.meta.endpoint_url == "https://runtime.sagemaker.eu-central-1.amazonaws.com"


def test_no_secret_is_shown(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-real-secret")
    settings = Settings()
    settings.client("s3")
    assert "a-real-secret" not in repr(settings)
    assert "a-real-secret" not in settings.model_dump_json()


def test_settings_cannot_be_changed_behind_the_back_of_the_others():
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.bucket = "another"


def test_notebooks_import_env_from_their_own_folder(root):
    program = (
        "import env, json; print(json.dumps([env.bucket, env.region, str(env.MODEL_PACKAGES)]))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root / "packaging",  # any folder but the root, which would be on the path by itself
        env={**os.environ, "MME_BUCKET": "seen-by-env"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(printed.stdout) == [
        "seen-by-env",
        "us-east-1",
        str(root / "model_packages"),
    ]
