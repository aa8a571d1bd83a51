"""The CDK app of infrastructure/cdk/: synthesised, checked, deployed on the local service."""

import gzip
import importlib.util
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import tarfile

import pytest
from typer.testing import CliRunner

from mmekit.cli import app as mme

from .conftest import ROOT, echo_archive

CDK = ROOT / "infrastructure" / "cdk"
LAYER = f"{'1a' * 32}.tar.gz"

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(900),  # jsii takes its time on a busy machine
    pytest.mark.skipif(
        importlib.util.find_spec("aws_cdk") is None or importlib.util.find_spec("cdk_nag") is None,
        reason="aws-cdk-lib and cdk-nag are not installed: the extra `infrastructure`",
    ),
    pytest.mark.skipif(
        shutil.which("node") is None, reason="the CDK needs Node.js, which is not on PATH"
    ),
]


def synthesise(folder, **context):
    """Run the app as `cdk synth` does, but here: jsii is started once for all tests."""
    import aws_cdk

    chosen = {**json.loads((CDK / "cdk.json").read_text())["context"], **context}
    app = aws_cdk.App(context=chosen, outdir=str(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aws_cdk, "App", lambda: app)
        patch.syspath_prepend(str(CDK))
        patch.chdir(CDK)
        runpy.run_path(str(CDK / "app.py"), run_name="__main__")


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """A folder with two archives of the echoing container, and something else."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("resnet_18.tar.gz", "resnet_152.tar.gz"):
        (folder / name).write_bytes(echo_archive())
    (folder / "notes.txt").write_text("no archive")
    return folder


@pytest.fixture(scope="session")
def assembly(tmp_path_factory, archives):
    """What the app synthesises, once for all tests."""
    folder = tmp_path_factory.mktemp("cdk") / "cdk.out"
    synthesise(folder, archives=str(archives), endpoint_name="by-cdk")
    return folder


@pytest.fixture(scope="session")
def template(assembly):
    """The synthesised template, as aws_cdk.assertions sees it."""
    from aws_cdk import assertions

    described = json.loads((assembly / "MultiModelEndpoint.template.json").read_text())
    return assertions.Template.from_json(described)


@pytest.fixture(scope="session")
def layered(tmp_path_factory):
    """What the app synthesises for an archive with a layer beside it."""
    folder = tmp_path_factory.mktemp("thin")
    (folder / "models" / "layers").mkdir(parents=True)
    (folder / "models" / "thin.tar.gz").write_bytes(echo_archive())
    (folder / "models" / "layers" / LAYER).write_bytes(echo_archive())
    synthesise(folder / "cdk.out", archives=str(folder / "models"), endpoint_name="thin-by-cdk")
    return folder / "cdk.out"


@pytest.fixture(scope="session")
def package():
    """The app's package, imported into this process."""
    sys.path.insert(0, str(CDK))
    try:
        yield importlib.import_module("multi_model_endpoint")
    finally:
        sys.path.remove(str(CDK))


def test_cdk_nag_finds_nothing_that_is_not_excepted_with_a_reason(assembly):
    report = json.loads((assembly / "validation-report.json").read_text())
    assert report["pluginReports"] == []
    excepted = json.loads((assembly / "MultiModelEndpoint.metadata.json").read_text())
    reasons = [value for value in walk(excepted) if isinstance(value, dict) and "reason" in value]
    assert all(len(value["reason"]) > 20 for value in reasons)


def test_cdk_nag_would_find_something(tmp_path):
    import aws_cdk
    from aws_cdk import aws_s3
    from cdk_nag import AwsSolutionsChecks

    app = aws_cdk.App(outdir=str(tmp_path))
    aws_s3.Bucket(aws_cdk.Stack(app, "Open"), "Bucket")
    aws_cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    with pytest.raises(RuntimeError, match="AwsSolutions-S10"):  # plain HTTP is not refused
        app.synth()


EXCEPTED = {  # rules that the CloudFormation templates do not keep, and why
    "AwsSolutions-S1": "Access logs want a second bucket that outlives the first; CloudTrail's "
    "data events tell who read an archive.",
    "AwsSolutions-IAM5": "The stars are archives under one prefix, the streams of one endpoint's "
    "log group, and actions that know no resources (ecr:GetAuthorizationToken, PutMetricData "
    "within two namespaces, ec2:Describe… where subnets are given).",
    "AwsSolutions-L1": "The function needs nothing that is newer than python3.12.",
}


def test_cdk_nag_finds_nothing_else_in_the_cloudformation_templates(templates, tmp_path):
    import aws_cdk
    from aws_cdk.cloudformation_include import CfnInclude
    from cdk_nag import AwsSolutionsChecks

    app = aws_cdk.App(outdir=str(tmp_path))
    for path in templates.glob("*.yaml"):
        CfnInclude(aws_cdk.Stack(app, path.stem), "Template", template_file=str(path))
    aws_cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    with pytest.raises(RuntimeError, match="ValidationFailed"):
        app.synth()
    report = json.loads((tmp_path / "validation-report.json").read_text())
    [found] = [one for one in report["pluginReports"] if one["pluginName"] == "AwsSolutions"]
    broken = {violation["ruleName"].partition("[")[0] for violation in found["violations"]}
    assert broken == set(EXCEPTED)


def test_cfn_lint_finds_nothing_in_what_is_synthesised(assembly):
    # W3005 is about dependencies that the CDK itself states twice.
    linter = pathlib.Path(sys.executable).with_name("cfn-lint")
    template = assembly / "MultiModelEndpoint.template.json"
    done = subprocess.run(
        [linter, "--ignore-checks", "W3005", "--", template],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_bucket_is_closed_encrypted_and_refuses_plain_http(template):
    from aws_cdk.assertions import Match

    template.has_resource_properties(
        "AWS::S3::Bucket",
        {
            "BucketEncryption": Match.any_value(),
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
        },
    )
    refuses = Match.object_like(
        {"Effect": "Deny", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    )
    template.has_resource_properties(
        "AWS::S3::BucketPolicy", {"PolicyDocument": {"Statement": Match.array_with([refuses])}}
    )


def test_the_model_is_multi_model_under_a_prefix_without_a_slash(template):
    from aws_cdk.assertions import Capture, Match

    url = Capture()
    container = {"Mode": "MultiModel", "ModelDataUrl": url, "Image": Match.any_value()}
    template.has_resource_properties("AWS::SageMaker::Model", {"Containers": [container]})
    assert url.as_object()["Fn::Join"][1][-1] == "/models"


def test_the_role_reads_what_is_under_the_prefix_and_nothing_else(template):
    from aws_cdk.assertions import Capture, Match

    archives = Capture()
    reads = Match.object_like({"Action": "s3:GetObject", "Resource": archives})
    template.has_resource_properties(
        "AWS::IAM::Policy", {"PolicyDocument": {"Statement": Match.array_with([reads])}}
    )
    assert archives.as_object()["Fn::Join"][1][-1] == "/models/*"
    prefixes = {"StringLike": {"s3:prefix": ["models", "models/*"]}}
    lists = Match.object_like({"Action": "s3:ListBucket", "Condition": prefixes})
    template.has_resource_properties(
        "AWS::IAM::Policy", {"PolicyDocument": {"Statement": Match.array_with([lists])}}
    )


def test_layers_of_thin_archives_are_named_to_the_containers_and_read_by_the_role(layered):
    from aws_cdk.assertions import Capture, Match, Template

    # cdk-nag had nothing to say of it: synthesising would have failed.
    described = json.loads((layered / "MultiModelEndpoint.template.json").read_text())
    template = Template.from_json(described)
    place, layers = Capture(), Capture()
    container = Match.object_like({"Environment": {"MMEKIT_LAYERS": place}})
    template.has_resource_properties("AWS::SageMaker::Model", {"Containers": [container]})
    assert place.as_object()["Fn::Join"][1][-1] == "/models-layers/"
    reads = {"Sid": "ReadLayers", "Action": "s3:GetObject", "Resource": layers}
    lists = {
        "Sid": "ListLayers",
        "Condition": {"StringLike": {"s3:prefix": ["models-layers/*"]}},
    }
    statements = [Match.object_like(reads), Match.object_like(lists)]
    template.has_resource_properties(
        "AWS::IAM::Policy", {"PolicyDocument": {"Statement": Match.array_with(statements)}}
    )
    assert layers.as_object()["Fn::Join"][1][-1] == "/models-layers/*"


def test_without_layers_the_container_has_no_environment(template):
    from aws_cdk.assertions import Match

    container = Match.object_like({"Environment": Match.absent()})
    template.has_resource_properties("AWS::SageMaker::Model", {"Containers": [container]})
    template.resource_count_is("Custom::CDKBucketDeployment", 1)


def test_the_role_logs_for_its_endpoint_and_not_for_those_whose_names_begin_alike(template):
    from aws_cdk.assertions import Capture, Match

    groups = Capture()
    writes = Match.object_like({"Sid": "WriteLogs", "Resource": groups})
    template.has_resource_properties(
        "AWS::IAM::Policy", {"PolicyDocument": {"Statement": Match.array_with([writes])}}
    )
    ends = [group["Fn::Join"][1][-1].rpartition("/")[2] for group in groups.as_array()]
    assert len(ends) == 2
    assert not ends[0].endswith("*")
    assert ends[1] == f"{ends[0]}:*"


def test_it_scales_and_has_four_alarms_and_a_dashboard(template):
    template.resource_count_is("AWS::CloudWatch::Alarm", 4)
    for metric in ("Invocation5XXErrors", "ModelLatency", "MemoryUtilization", "DiskUtilization"):
        template.has_resource_properties("AWS::CloudWatch::Alarm", {"MetricName": metric})
    template.has_resource_properties(
        "AWS::ApplicationAutoScaling::ScalableTarget", {"MinCapacity": 1, "MaxCapacity": 2}
    )
    [dashboard] = template.find_resources("AWS::CloudWatch::Dashboard").values()
    body = json.dumps(dashboard["Properties"]["DashboardBody"])
    for metric in ("LoadedModelCount", "ModelCacheHit", "ModelLoadingTime", "OverheadLatency"):
        assert metric in body


@pytest.mark.parametrize("chosen", ["none", "endpoint", "models"])
def test_metrics_of_the_models_are_switched_on_and_drawn(package, tmp_path, chosen):
    import aws_cdk
    from aws_cdk.assertions import Template

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.tar.gz").write_bytes(echo_archive())
    stack = aws_cdk.Stack(aws_cdk.App(outdir=str(tmp_path / "out")), "Metered")
    package.MultiModelEndpoint(
        stack,
        "Serving",
        endpoint_name="metered",
        image=package.Image.published(stack),
        archives=tmp_path / "models",
        metrics=chosen,
    )
    template = Template.from_stack(stack)
    [model] = template.find_resources("AWS::SageMaker::Model").values()
    [container] = model["Properties"]["Containers"]
    variables = {"MMEKIT_METRICS": "metered", "MMEKIT_METRICS_PER": chosen}
    assert container.get("Environment") == (None if chosen == "none" else variables)
    [dashboard] = template.find_resources("AWS::CloudWatch::Dashboard").values()
    body = json.dumps(dashboard["Properties"]["DashboardBody"])
    assert ("mme_model_wakes_total" in body) is (chosen != "none")
    assert ("SORT(SEARCH('{mmekit,Endpoint,Model} MetricName" in body) is (chosen == "models")
    assert ("mme_model_unseen_categories_total" in body) is (chosen == "models")


def test_no_file_names_an_account(assembly):
    from mmekit.settings import LOCAL_ACCOUNT

    text = (assembly / "MultiModelEndpoint.template.json").read_text()
    assert LOCAL_ACCOUNT not in text
    assert "${AWS::AccountId}" in text


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (lambda them: them.Instances(least=0), "0 to 2 instances cannot be"),
        (lambda them: them.Instances(least=3, most=2), "no fewer at most than at least"),
        (lambda them: them.Instances(type="m5.large"), "choose one such as ml.m6i.large"),
        (lambda them: them.Alarms(memory_percent=101), "memory_percent is 101; choose 1 to 100"),
        (lambda them: them.choices.checked_name("-x"), "no hyphen at either end"),
        (
            lambda them: them.choices.checked_metrics("all"),
            "choose none, endpoint, models",
        ),
        (lambda them: them.choices.checked_prefix("/models"), "without a slash before it"),
        (
            lambda them: them.choices.layers_in(pathlib.Path("/nowhere")),
            "choose the folder layers/ that mme pack --thin has left",
        ),
        (
            lambda them: them.choices.archives_in(pathlib.Path("/nowhere")),
            "run python -m examples.fetch_models",
        ),
    ],
)
def test_a_choice_out_of_range_says_what_may_be_chosen(package, choice, said):
    with pytest.raises(package.ChoiceError, match=said):
        choice(package)


def test_an_image_may_be_named_or_built(package, tmp_path):
    import aws_cdk

    stack = aws_cdk.Stack(aws_cdk.App(outdir=str(tmp_path / "out")), "Images")
    uri = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/mine/own:1"
    named = package.Image.named(stack, uri)
    assert named.uri == uri
    assert named.repository_arn.endswith(":ecr:eu-central-1:111122223333:repository/mine/own")
    with pytest.raises(package.ChoiceError, match="is no image in Amazon ECR"):
        package.Image.named(stack, "python:3.12")
    with pytest.raises(package.ChoiceError, match="There is no Dockerfile"):
        package.Image.built(stack, tmp_path)
    built = package.Image.built(stack, ROOT / "infrastructure" / "containers" / "djl")
    assert "cdk-hnb659fds-container-assets" in str(stack.resolve(built.uri))


def test_an_app_without_archives_says_how_to_fetch_some(tmp_path):
    with pytest.raises(SystemExit) as ended:
        synthesise(tmp_path / "out", archives=str(tmp_path))
    assert ended.value.code == (
        f"There is no archive (*.tar.gz) in {tmp_path}: run python -m examples.fetch_models, or "
        "name another folder with -c archives=FOLDER."
    )


def test_models_are_fetched_from_folders_and_refused_when_there_are_none(archives, tmp_path):
    def fetch(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "examples.fetch_models", *map(str, arguments)],
            cwd=CDK,
            capture_output=True,
            text=True,
            check=False,
        )

    done = fetch(archives, "--folder", tmp_path / "models")
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert found == ["resnet_152.tar.gz", "resnet_18.tar.gz"]
    thin = tmp_path / "thin"
    (thin / "layers").mkdir(parents=True)
    (thin / "thin.tar.gz").write_bytes(echo_archive())
    (thin / "layers" / LAYER).write_bytes(echo_archive())
    assert fetch(thin / "thin.tar.gz", "--folder", tmp_path / "fetched").returncode == 0
    assert (tmp_path / "fetched" / "layers" / LAYER).is_file()
    done = fetch(tmp_path / "none", "--folder", tmp_path / "models")
    assert done.returncode != 0
    assert "Build them with make demo" in done.stderr
    done = fetch(archives / "notes.txt", "--folder", tmp_path / "models")
    assert "is no archive" in done.stderr
    # What its headers say is for the endpoint to follow, within limits.
    chain = tarfile.TarInfo("x")
    chain.type = tarfile.XHDTYPE
    hostile = tmp_path / "hostile.tar.gz"
    hostile.write_bytes(gzip.compress(chain.tobuf() * 5000))
    done = fetch(hostile, "--folder", tmp_path / "models")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def run_mme(local, monkeypatch):
    """A function that runs `mme` against the local service."""
    monkeypatch.setenv("MME_LOCAL_URL", local.url)
    return lambda *arguments: CliRunner().invoke(mme, [*map(str, arguments)])


def test_the_synthesised_stack_is_deployed_invoked_and_destroyed(local, assembly, run_mme):
    done = run_mme("cdk", "deploy", assembly)
    assert done.exit_code == 0, done.output
    assert "MultiModelEndpoint.EndpointName = by-cdk" in done.output
    published = run_mme("cdk", "publish", assembly)
    assert "0 uploaded, 5 already there" in published.output

    outputs = local.outputs("MultiModelEndpoint")
    assert outputs["ModelDataUrl"] == f"s3://{outputs['BucketName']}/models"
    objects = local.client("s3").list_objects_v2(Bucket=outputs["BucketName"])["Contents"]
    keys = sorted(one["Key"] for one in objects)
    assert keys == ["models/resnet_152.tar.gz", "models/resnet_18.tar.gz"]

    # The example of the stack, as a user runs it; the slash belongs to the target model.
    example = subprocess.run(
        [sys.executable, "-m", "examples.invoke_endpoint", "/resnet_18.tar.gz"],
        cwd=CDK,
        env={**os.environ, **local.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert example.returncode == 0, example.stderr
    calls = [line.split("  ")[:2] for line in example.stdout.splitlines()]
    assert calls == [["/resnet_18.tar.gz", "first call"], ["/resnet_18.tar.gz", "later call"]]

    # A model that is added later needs no deployment.
    local.put(outputs["BucketName"], "models/resnet_50.tar.gz")
    assert local.seen("by-cdk", TargetModel="/resnet_50.tar.gz")["loads"] == 1

    again = run_mme("cdk", "deploy", assembly)
    assert again.exit_code == 0, again.output

    gone = run_mme("cdk", "destroy", assembly)
    assert gone.exit_code == 0, gone.output
    names = [one["Name"] for one in local.client("s3").list_buckets()["Buckets"]]
    assert outputs["BucketName"] not in names
    assert local.client("sagemaker").list_endpoints(NameContains="by-cdk")["Endpoints"] == []
    assert "does not exist" in run_mme("cdk", "destroy", assembly).output


def test_a_stack_with_layers_has_them_beside_the_archives(local, layered, run_mme):
    done = run_mme("cdk", "deploy", layered)
    assert done.exit_code == 0, done.output
    bucket = local.outputs("MultiModelEndpoint")["BucketName"]
    objects = local.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    keys = sorted(one["Key"] for one in objects)
    assert keys == [f"models-layers/{LAYER}", "models/thin.tar.gz"]
    assert local.seen("thin-by-cdk", TargetModel="/thin.tar.gz")["loads"] == 1
    gone = run_mme("cdk", "destroy", layered)
    assert gone.exit_code == 0, gone.output


def test_assets_are_published_in_every_region(local, run_mme, tmp_path, monkeypatch):
    monkeypatch.setenv("MME_REGION", "eu-central-1")
    destination = {"bucketName": "assets-${AWS::Region}", "assumeRoleArn": ""}
    files = {}
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        files[name] = {
            "source": {"path": name, "packaging": "file"},
            "destinations": {"here": {**destination, "objectKey": name}},
        }
    (tmp_path / "Any.assets.json").write_text(json.dumps({"files": files}))
    artifacts = {
        "Any.assets": {"type": "cdk:asset-manifest", "properties": {"file": "Any.assets.json"}},
        "Any": {"type": "aws:cloudformation:stack", "properties": {}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
    done = run_mme("cdk", "publish", tmp_path)
    assert done.exit_code == 0, done.output
    assert "2 uploaded, 0 already there" in done.output
    found = local.client("s3", "eu-central-1").list_objects_v2(Bucket="assets-eu-central-1")
    assert [one["Key"] for one in found["Contents"]] == ["one", "two"]


def test_what_is_no_assembly_is_refused_with_a_remedy(run_mme, tmp_path):
    done = run_mme("cdk", "publish", tmp_path)
    assert done.exit_code == 1
    assert "cdk synth" in done.output


def test_the_real_aws_is_left_to_cdk(run_mme, tmp_path, monkeypatch):
    monkeypatch.setenv("MME_TARGET", "aws")
    monkeypatch.setenv("MME_REGION", "eu-central-1")
    monkeypatch.setenv("MME_ROLE", "arn:aws:iam::111122223333:role/any")
    done = run_mme("cdk", "deploy", tmp_path)
    assert done.exit_code == 1
    assert "run cdk bootstrap and cdk deploy" in done.output


def test_a_missing_asset_is_named(run_mme, assembly, tmp_path):
    copy = tmp_path / "cdk.out"
    shutil.copytree(assembly, copy)
    described = json.loads((copy / "MultiModelEndpoint.assets.json").read_text())
    for one in described["files"].values():
        for destination in one["destinations"].values():
            destination["objectKey"] = f"other/{destination['objectKey']}"
    (copy / "MultiModelEndpoint.assets.json").write_text(json.dumps(described))
    for path in copy.glob("asset.*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = run_mme("cdk", "publish", copy)
    assert done.exit_code == 1
    assert "An asset is missing." in done.output


def walk(value):
    yield value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from walk(item)
