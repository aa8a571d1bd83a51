"""Nothing of a rehearsal reaches the user's account: what commands and containers are given."""

import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import platformdirs
import pytest

from mmekit import aws_environment as rehearsal
from mmekit.archive import pack
from mmekit.errors import SettingsError
from mmekit.settings import Settings, local_region
from mmekit_local.sagemaker import Placement
from tests.real_account import real_account

URL = "http://127.0.0.1:8950"
SECRET = "AKIAOFTHEUSER0000000"
SEEING = """
import os
from pathlib import Path

import boto3


def seen():
    s3 = boto3.client("s3")
    session = boto3.Session()
    return {
        "object": s3.get_object(Bucket="models", Key="lookup.txt")["Body"].read().decode(),
        "identity": boto3.client("sts").get_caller_identity()["Arn"],
        "profiles": session.available_profiles,
        "has_aws_folder": Path.home().joinpath(".aws").exists(),
        "variables": dict(os.environ),
    }
"""
ON_SLOTS = """
import json

from mmekit_runtime import Handler
from seeing import seen


class Reader(Handler):
    def load(self, folder):
        return None

    def predict(self, model, rows, parameters):
        return [json.dumps(seen() if row.any() else {}) for row in rows]


handle = Reader()
"""
ON_THE_ENGINE = """
from djl_python import Output
from seeing import seen


def handle(inputs):
    return None if inputs.is_empty() else Output().add_as_json(seen())
"""
A_COMMAND = """
import json, os, subprocess, sys
from pathlib import Path

import boto3
from botocore.config import Config

slots, engine, real = sys.argv[1:]
s3, sagemaker = boto3.client("s3"), boto3.client("sagemaker")
s3.create_bucket(Bucket="models")
s3.put_object(Bucket="models", Key="lookup.txt", Body=b"a table")
s3.upload_file(slots, "models", "slots.tar.gz")
s3.upload_file(engine, "models", "engine.tar.gz")
sagemaker.create_model(
    ModelName="m",
    ExecutionRoleArn="arn:aws:iam::123456789012:role/team/Reading",
    PrimaryContainer={
        "Image": "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full",
        "Mode": "MultiModel",
        "ModelDataUrl": "s3://models/",
        "Environment": {"AWS_ENDPOINT_URL_S3": real, "COLOUR": "blue"},
    },
)
variant = dict(
    VariantName="v", ModelName="m", InstanceType="ml.m5.large", InitialInstanceCount=1
)
sagemaker.create_endpoint_config(EndpointConfigName="m", ProductionVariants=[variant])
sagemaker.create_endpoint(EndpointName="m", EndpointConfigName="m")
sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="m", WaiterConfig={"Delay": 1})


def ask(target):
    answer = boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName="m", TargetModel=target, Body='{"instances": [[1.0]]}',
        ContentType="application/json",
    )
    return json.loads(answer["Body"].read())


session = boto3.Session()
credentials = session.get_credentials()
child = "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"
own = boto3.client("sts", endpoint_url="https://sts.eu-west-1.amazonaws.com")
json.dump(
    {
        "slots": json.loads(ask("slots.tar.gz")["predictions"][0]),
        "engine": ask("engine.tar.gz"),
        "keys": [credentials.access_key, credentials.secret_key, credentials.token],
        "profiles": session.available_profiles,
        "region": session.region_name,
        "identity": boto3.client("sts").get_caller_identity()["Arn"],
        "child": subprocess.check_output([sys.executable, "-c", child], text=True).strip(),
        "own_sts": own.get_caller_identity()["Arn"],
        "variables": dict(os.environ),
    },
    sys.stdout,
)
"""
ASKS_ELSEWHERE = """
import sys

import boto3
from botocore.config import Config

config = Config(proxies={}, retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
s3 = boto3.client("s3", endpoint_url=sys.argv[1], config=config)
for _ in range(2):
    try:
        s3.list_buckets()
    except Exception as error:
        print(type(error).__name__)
own = Config(ignore_configured_endpoint_urls=True, proxies={"https": sys.argv[1]})
try:
    boto3.client("sqs", config=config.merge(own)).list_queues()
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def real():
    with real_account() as account:
        yield account


@pytest.fixture(scope="module")
def users(tmp_path_factory, real):
    """The environment of somebody who works with AWS, all of which leads to the real account."""
    home = tmp_path_factory.mktemp("home")
    aws = home / ".aws"
    aws.mkdir()
    (aws / "credentials").write_text(
        f"[default]\naws_access_key_id={SECRET}\naws_secret_access_key=u\n"
        f"[work]\naws_access_key_id={SECRET}\naws_secret_access_key=u\n"
    )
    (aws / "config").write_text(
        f"[default]\nregion=eu-central-1\nendpoint_url={real.url}\n"
        f"[profile work]\nregion=eu-central-1\nendpoint_url={real.url}\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return kept | {
        "HOME": str(home),
        "XDG_CACHE_HOME": platformdirs.user_cache_dir(),
        "AWS_ACCESS_KEY_ID": SECRET,
        "AWS_SECRET_ACCESS_KEY": f"secret of {SECRET}",
        "AWS_SESSION_TOKEN": f"token of {SECRET}",
        "AWS_PROFILE": "work",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": real.url,
        "AWS_ENDPOINT_URL_S3": real.url,
        "AWS_ENDPOINT_URL_SAGEMAKER": real.url,
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{real.url}/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": SECRET,
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": real.url,
        "AWS_ROLE_ARN": "arn:aws:iam::999999999999:role/Users",
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(aws / "token"),
        "AWS_RETRY_MODE": "standard",
        "FSSPEC_S3_ENDPOINT_URL": real.url,
        "HTTP_PROXY": real.url,
        "HTTPS_PROXY": real.url,
        "COLOUR_OF_THE_USER": "green",
    }


def packed(folder, handler, **more):
    package, artifacts = folder / "package", folder / "artifacts"
    for one in (package, artifacts):
        one.mkdir(parents=True)
    (artifacts / "weights").write_text("none")
    (package / "model.py").write_text(handler)
    (package / "seeing.py").write_text(SEEING)
    (package / "serving.properties").write_text("engine=Python\nminWorkers=1\nmaxWorkers=1\n")
    (package / "sample_request.json").write_text('{"instances": [[0.0]]}')
    return pack(package, artifacts, folder / "model.tar.gz", image=None, **more).path


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Two models that look around: one on worker slots, one on the engine as it is."""
    folder = tmp_path_factory.mktemp("archives")
    engine = folder / "engine.tar.gz"
    files = {
        "model.py": ON_THE_ENGINE,
        "seeing.py": SEEING,
        "serving.properties": "engine=Python\nmaxWorkers=1\n",
    }
    with tarfile.open(engine, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return packed(folder / "slots", ON_SLOTS), engine


def run(folder, environment, *words, server="embedded"):
    up = [sys.executable, "-m", "mmekit.cli", "up", "--port", "0", "--server", server, "--"]
    return subprocess.run(
        [*up, *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(
    scope="module",
    params=[
        "embedded",
        pytest.param(
            "djl",
            marks=pytest.mark.skipif(
                not os.environ.get("MMEKIT_DJL_HOME"), reason="MMEKIT_DJL_HOME is not set"
            ),
        ),
    ],
)
def told(request, tmp_path_factory, users, real, archives):
    """What a command of `mme up -- COMMAND`, its child and two models have seen; and stderr."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "command.py").write_text(A_COMMAND)
    ended = run(
        folder, users, sys.executable, "command.py", *archives, real.url, server=request.param
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def test_nothing_reaches_the_real_account(told, real):
    assert real.heard == []


def test_nothing_of_the_users_is_seen(told):
    seen, _ = told
    assert SECRET not in json.dumps(seen)
    assert seen["variables"]["COLOUR_OF_THE_USER"] == "green"
    assert seen["variables"]["AWS_RETRY_MODE"] == "standard"  # leads nowhere


def test_a_command_has_made_up_credentials_a_region_and_no_profile(told):
    seen, _ = told
    assert seen["keys"] == ["local", "local", None]
    assert (seen["region"], seen["profiles"]) == ("us-east-1", [])
    assert seen["variables"]["AWS_ENDPOINT_URL"] == seen["variables"]["MME_LOCAL_URL"]
    assert seen["variables"]["AWS_EC2_METADATA_DISABLED"] == "true"


def test_the_lines_for_another_shell_can_be_copied(told):
    _, said = told
    assert "  export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local\n" in said


def test_a_command_and_what_it_starts_are_an_assumed_role(told):
    seen, _ = told
    arn = "arn:aws:sts::123456789012:assumed-role/mmekit-rehearsal/SageMaker"
    assert (seen["identity"], seen["child"]) == (arn, arn)


def test_sts_by_its_own_address_is_the_rehearsals_and_a_line_says_so(told):
    seen, said = told
    assert seen["own_sts"] == seen["identity"]
    [line] = [one for one in said.splitlines() if one.startswith("mme: this program asks for")]
    assert "https://sts.eu-west-1.amazonaws.com" in line


@pytest.mark.parametrize("model", ["slots", "engine"])
def test_a_handler_reads_the_rehearsals_bucket_as_its_models_role(told, model):
    seen = told[0][model]
    assert seen["object"] == "a table"
    assert seen["identity"] == "arn:aws:sts::123456789012:assumed-role/Reading/SageMaker"


@pytest.mark.parametrize("model", ["slots", "engine"])
def test_a_handler_has_what_sagemaker_gives_and_nothing_of_the_users(told, model):
    seen = told[0][model]
    own = {name for name in seen["variables"] if name.startswith("AWS_")}
    assert own == {
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_ENDPOINT_URL",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
    }
    assert seen["variables"]["AWS_REGION"] == "us-east-1"
    assert (seen["profiles"], seen["has_aws_folder"]) == ([], False)
    assert "startup" not in seen["variables"]["PYTHONPATH"]


def test_an_endpoint_of_its_own_that_a_models_environment_names_is_left_out(told):
    seen, said = told
    assert seen["slots"]["variables"]["COLOUR"] == "blue"
    assert "m/v/1: its Environment says AWS_ENDPOINT_URL_S3, which would lead away" in said


def test_a_program_that_asks_for_another_endpoint_by_itself_is_told_so_once(tmp_path, users):
    (tmp_path / "asks.py").write_text(ASKS_ELSEWHERE)
    with real_account() as other:
        without = {name: value for name, value in users.items() if "PROXY" not in name}
        ended = run(tmp_path, without, sys.executable, "asks.py", other.url)
    assert ended.returncode == 0, ended.stderr
    lines = [one for one in ended.stderr.splitlines() if one.startswith("mme: this program")]
    assert [other.url in line for line in lines] == [True, False]
    assert "https://sqs.us-east-1.amazonaws.com" in lines[1]
    assert SECRET.encode() not in b"".join(other.heard)


def test_another_sitecustomize_runs_as_well(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import sys; sys.customized = True\n")
    environment = rehearsal.program_environment({"PYTHONPATH": str(site)}, URL, "us-east-1")
    program = "import sys; print(sys.customized, sys.modules['sitecustomize'].__file__)"
    said = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert said == f"True {site / 'sitecustomize.py'}\n"


def test_two_that_hand_on_to_each_other_end(tmp_path):
    hook = Path(rehearsal.__file__).parents[1] / "mmekit_runtime" / "site_hook.py"
    last = tmp_path / "last"
    for name, text in (
        ("model", hook.read_text()),
        ("last", "import sys; sys.customized = True\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sitecustomize.py").write_text(text)
    paths = [str(rehearsal.STARTUP), str(tmp_path / "model"), str(last)]
    environment = {**os.environ, "AWS_ENDPOINT_URL": URL, "PYTHONPATH": os.pathsep.join(paths)}
    said = subprocess.check_output(
        [sys.executable, "-c", "import sys; print(sys.customized)"], env=environment, text=True
    )
    assert said == "True\n"


def test_without_a_rehearsal_the_hook_changes_nothing():
    environment = {**os.environ, "PYTHONPATH": str(rehearsal.STARTUP)}
    program = "import sys; print([type(one).__name__ for one in sys.meta_path])"
    said = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert "_Finder" not in said


def test_a_botocore_that_does_not_read_the_variable_is_told_where_the_rehearsal_is(tmp_path):
    (tmp_path / "botocore").mkdir()
    (tmp_path / "botocore" / "__init__.py").touch()
    (tmp_path / "botocore" / "configprovider.py").touch()
    (tmp_path / "botocore" / "session.py").write_text(
        textwrap.dedent("""
            import botocore.configprovider

            class Session:
                def create_client(
                    self, service_name, region_name=None, api_version=None, use_ssl=True,
                    verify=None, endpoint_url=None,
                ):
                    return endpoint_url
        """)
    )
    environment = rehearsal.program_environment({"PYTHONPATH": str(tmp_path)}, URL, "us-east-1")
    program = "from botocore.session import Session; print(Session().create_client('s3'))"
    said = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert said == f"{URL}\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "127.0.0.1,localhost,::1"),
        ({"no_proxy": "a.example"}, "a.example,127.0.0.1,localhost,::1"),
        ({"https_proxy": "p", "NO_PROXY": "localhost"}, "localhost,127.0.0.1,::1"),
    ],
)
def test_no_proxy_stands_before_the_rehearsal(given, expected):
    made = rehearsal.program_environment(given, URL, "us-east-1")
    assert (made.get("no_proxy"), made.get("NO_PROXY")) == (expected, expected)


def test_what_fsspec_is_configured_to_do_is_not_done(tmp_path):
    pytest.importorskip("fsspec")
    folder = tmp_path / ".config" / "fsspec"
    folder.mkdir(parents=True)
    (folder / "s3.json").write_text(
        json.dumps({"s3": {"key": SECRET, "endpoint_url": "https://s3"}})
    )
    program = "import json; from fsspec.config import conf; print(json.dumps(conf))"
    given = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}

    def seen(environment):
        command = [sys.executable, "-c", program]
        return json.loads(subprocess.check_output(command, env=environment, text=True))

    assert SECRET in str(seen(given))
    assert "s3" not in seen(rehearsal.program_environment(given, URL, "us-east-1"))
    (tmp_path / "home").mkdir()
    named = given | {"FSSPEC_CONFIG_DIR": str(folder)}
    assert "s3" not in seen(rehearsal.container_environment(named, tmp_path / "home", URL))


def test_no_proxy_of_a_models_environment_stands_before_it_either(tmp_path):
    asked = (("HTTPS_PROXY", "http://proxy"), ("NO_PROXY", "a.example"))
    account = (("AWS_ENDPOINT_URL", "http://host.docker.internal:81"),)
    made = Placement("m/v/1", tmp_path, asked, account).variables()
    expected = "a.example,127.0.0.1,localhost,::1,host.docker.internal"
    assert made["NO_PROXY"] == made["no_proxy"] == expected
    assert "no_proxy" not in Placement("m/v/1", tmp_path, (), account).variables()


def test_a_container_finds_in_its_own_home_what_lies_in_the_users(tmp_path):
    given = {"MMEKIT_DJL_HOME": "~/djl", "XDG_CACHE_HOME": "/elsewhere", "AWS_CA_BUNDLE": "/pem"}
    made = rehearsal.container_environment(given, tmp_path, URL)
    assert made["HOME"] == str(tmp_path)
    assert made["MMEKIT_DJL_HOME"] == str(Path.home() / "djl")
    assert made["XDG_CACHE_HOME"] == "/elsewhere"
    assert made["XDG_CONFIG_HOME"] == platformdirs.user_config_dir()
    assert "AWS_CA_BUNDLE" not in made


def test_with_the_target_aws_a_command_keeps_what_leads_to_the_account(tmp_path, users):
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    ended = run(tmp_path, users | {"MME_TARGET": "aws"}, sys.executable, "-c", program)
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert {name: seen[name] for name in users if name.startswith("AWS_")} == {
        name: value for name, value in users.items() if name.startswith("AWS_")
    }
    assert "MME_TARGET is aws, so the command keeps your credentials" in ended.stderr


def test_in_a_rehearsal_the_target_aws_is_refused_and_not_taken_for_it(monkeypatch):
    for name, value in rehearsal.program_environment({}, URL, "us-east-1").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="may reach the local service only"):
        Settings(target="aws", region="eu-central-1", role="arn:aws:iam::123456789012:role/r")
    monkeypatch.setenv("MME_TARGET", "aws")
    with pytest.raises(SettingsError, match="shell of its own"):
        Settings()
    monkeypatch.delenv("AWS_ENDPOINT_URL")  # the program went its own way
    assert Settings(region="eu-central-1", role="arn:aws:iam::123456789012:role/r").target == "aws"


def test_the_region_of_a_rehearsal_is_that_of_the_settings(monkeypatch):
    assert local_region() == "us-east-1"
    monkeypatch.setenv("MME_REGION", "eu-central-1")
    assert local_region() == "eu-central-1"
    monkeypatch.setenv("MME_TARGET", "aws")
    assert local_region() is None


def test_a_notebook_that_imports_env_has_no_other_aws_than_the_rehearsal(root, users, tmp_path):
    program = textwrap.dedent("""
        import json, os
        import boto3
        early = boto3.client("s3")  # of a session that has found the user's credentials
        import env
        clients = [boto3.client(name) for name in ("sagemaker", "s3")]
        import subprocess, sys
        ask = "import os; print(os.environ['AWS_ENDPOINT_URL'])"
        print(json.dumps({
            "urls": [one.meta.endpoint_url for one in clients],
            "keys": boto3.Session().get_credentials().access_key,
            "sts": boto3.client("sts", endpoint_url="https://sts.us-east-1.amazonaws.com")
                .meta.endpoint_url,
            "default": boto3._get_default_session().get_credentials().access_key,
            "child": subprocess.check_output([sys.executable, "-c", ask], text=True).strip(),
            "mark": os.environ["MMEKIT_REHEARSAL"],
        }))
    """)
    path = os.pathsep.join([str(root / "packaging"), str(root)])
    environment = users | {"PYTHONPATH": path, "MME_LOCAL_URL": URL}
    said = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(said.stdout)
    assert set(seen["urls"]) | {seen["sts"], seen["child"], seen["mark"]} == {URL}
    assert (seen["keys"], seen["default"]) == ("local", "local")


def test_what_a_shell_is_told_is_what_a_command_gets(monkeypatch, tmp_path):
    monkeypatch.setattr(rehearsal, "STARTUP", tmp_path / "a folder of blanks; and 'more'")
    lines = rehearsal.announcement(URL, "us-east-1")
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    script = "\n".join([*lines, shlex.join([sys.executable, "-c", program])])
    given = {"AWS_PROFILE": "work", "AWS_SESSION_TOKEN": SECRET, "PYTHONPATH": "/elsewhere"}
    seen = json.loads(subprocess.check_output(["sh", "-c", script], env=given, text=True))
    command = rehearsal.program_environment(given, URL, "us-east-1")
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "PYTHONPATH"):
        assert seen[name] == command[name]
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(seen)
