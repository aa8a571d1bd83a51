"""The templates and deploy.sh as files; and how the local service reads templates."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from mmekit_local.aws.cloudformation.intrinsic_functions import Evaluator
from mmekit_local.aws.cloudformation.parameters import resolved_parameters
from mmekit_local.aws.cloudformation.template import Template
from mmekit_local.ports import free_port
from mmekit_local.sagemaker.errors import AwsError

from .conftest import ROOT

FILES = sorted((ROOT / "infrastructure" / "cloudformation").glob("*.yaml"))
ACCOUNTS_OF_AWS = {"763104351884"}  # whose images are public


def test_cfn_lint_finds_nothing():
    assert len(FILES) == 3
    linter = pathlib.Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, *FILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["multi-model-endpoint", "serverless-endpoint"])
def test_the_role_logs_for_its_endpoint_and_not_for_those_whose_names_begin_alike(name):
    [file] = [file for file in FILES if file.stem == name]
    groups = re.findall(r"log-group:/aws/sagemaker/Endpoints/(\S+)", file.read_text())
    assert groups == ["${EndpointName}", "${EndpointName}:*"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck on PATH")
def test_shellcheck_finds_nothing(templates):
    script = str(templates / "deploy.sh")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("deploy",), "--model is missing"),
        (("deploy", "--model", "/nowhere.tar.gz"), "There is no archive /nowhere.tar.gz"),
        (("deploy", "--model", __file__), "--image is missing"),
        (("deploy", "--modell"), "What is --modell?"),
        (("undo",), "deploy.sh deploy --model"),
    ],
)
@pytest.mark.skipif(shutil.which("aws") is None, reason="there is no AWS CLI on PATH")
def test_deploy_sh_says_what_is_wrong(templates, arguments, said):
    command = ["bash", str(templates / "deploy.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.skipif(shutil.which("aws") is None, reason="there is no AWS CLI on PATH")
def test_deploy_sh_does_not_take_silence_for_absence(templates):
    nowhere = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        ["bash", str(templates / "deploy.sh"), "delete", "--yes"],
        env={
            **os.environ,
            "AWS_ENDPOINT_URL": nowhere,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Nobody says what there is of serverless-benchmark" in done.stderr
    assert "is left" not in done.stderr


def test_no_file_has_an_account_number_or_a_key():
    folders = [ROOT / "infrastructure" / name for name in ("cdk", "cloudformation", "lambda")]
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        if path.suffix in (".pyc", ".gz") or "cdk.out" in path.parts:
            continue
        text = path.read_text()
        assert set(re.findall(r"\b\d{12}\b", text)) <= ACCOUNTS_OF_AWS, path
        assert not re.search(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", text), path


def loaded(text, parameters=None, resources=None):
    """The scope of a template of a few lines."""
    template = Template.parse(text)
    made = resources or {}
    return Evaluator(
        template,
        {"AWS::Region": "eu-central-1", **(parameters or {})},
        reference=lambda name: made[name]["id"],
        attribute=lambda name, attribute: made[name][attribute],
        exported={"shared": "there"},
    )


ONE = "Resources: {A: {Type: AWS::S3::Bucket}, B: {Type: AWS::S3::Bucket}}\n"
CONDITIONS = """
Conditions:
  IsLive: !Equals [!Ref Stage, live]
  IsNot: !Not [!Condition IsLive]
  Either: !Or [!Condition IsLive, !Equals [a, a]]
  Both: !And [!Condition IsLive, !Condition IsNot]
Mappings: {Sizes: {live: {count: 3}}}
Parameters: {Stage: {Type: String}}
"""


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"Ref": "A"}, "a-1"),
        ({"Fn::GetAtt": ["A", "Arn"]}, "arn:a"),
        ({"Fn::GetAtt": "A.Arn"}, "arn:a"),
        ({"Fn::Sub": "${A}/${A.Arn}/${Stage}/${!Literal}"}, "a-1/arn:a/live/${Literal}"),
        ({"Fn::Sub": ["${X}-${Stage}", {"X": {"Ref": "A"}}]}, "a-1-live"),
        ({"Fn::Join": ["-", ["x", {"Ref": "Stage"}]]}, "x-live"),
        ({"Fn::Select": ["1", {"Fn::Split": [",", "a,b,c"]}]}, "b"),
        ({"Fn::If": ["IsLive", 1, 2]}, 1),
        ({"Fn::If": ["IsNot", 1, 2]}, 2),
        ({"Fn::If": ["Either", 1, 2]}, 1),
        ({"Fn::If": ["Both", 1, 2]}, 2),
        ({"x": {"Fn::If": ["IsNot", 1, {"Ref": "AWS::NoValue"}]}, "y": 0}, {"y": 0}),
        ([{"Ref": "AWS::NoValue"}, 1], [1]),
        ({"Fn::FindInMap": ["Sizes", {"Ref": "Stage"}, "count"]}, 3),
        ({"Fn::ImportValue": "shared"}, "there"),
        ({"Fn::Base64": "x"}, "eA=="),
        ({"Fn::GetAZs": ""}, ["eu-central-1a", "eu-central-1b", "eu-central-1c"]),
        ({"Fn::ToJsonString": {"a": {"Ref": "Stage"}}}, '{"a": "live"}'),
        ({"Condition": {"Bool": {"x": "y"}}}, {"Condition": {"Bool": {"x": "y"}}}),
    ],
)
def test_functions_give_what_cloudformation_gives(part, found):
    made = {"A": {"id": "a-1", "Arn": "arn:a"}}
    assert loaded(ONE + CONDITIONS, {"Stage": "live"}, made).value(part) == found


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"Fn::Nonsense": 1}, "Fn::Nonsense is not supported"),
        ({"Fn::FindInMap": ["Sizes", "test", "count"]}, "Unable to get mapping for Sizes::test"),
        ({"Fn::ImportValue": "nothing"}, "No export named nothing found"),
        ({"Fn::Select": [7, ["a"]]}, "cannot select index 7"),
        ({"Fn::Join": ["-"]}, "must be well-formed"),
        ({"Fn::GetAtt": ["A", "Colour"]}, "does not support attribute type Colour"),
        ({"Fn::If": ["Unheard", 1, 2]}, "unresolved condition dependency Unheard"),
    ],
)
def test_functions_that_make_no_sense_are_template_errors(part, said):
    with pytest.raises(AwsError, match=said):
        loaded(ONE + CONDITIONS, {"Stage": "live"}, {"A": {"id": "a"}}).value(part)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "At least one Resources member must be defined"),
        ("- a", "unsupported structure"),
        ("a: [", r"YAML not well-formed. \(line 1"),
        ("Resources: {A: {Typ: x}}", "must contain a Type member"),
        ("Resources: {A-B: {Type: AWS::S3::Bucket}}", "A-B is non alphanumeric"),
        ("Resources: {A: {Type: t, Properties: {x: !Ref B}}}", r"dependencies \[B\] in the Reso"),
        ("Resources: {A: {Type: t}}\nOutputs: {x: {Value: !Ref B}}", r"\[B\] in the Outputs"),
        (
            "Resources: {A: {Type: t, DependsOn: B}, B: {Type: t, Properties: {x: !Ref A}}}",
            r"Circular dependency between resources: \[A, B\]",
        ),
        ("Resources: {A: {Type: t}}\nResorces: {}", r"property or properties \[Resorces\]"),
        ("Transform: AWS::Serverless-2016-10-31\nResources: {A: {Type: t}}", "Transforms"),
        ("Resources: {A: &a {Type: t}, B: *a}", "YAML aliases are not allowed"),
    ],
)
def test_what_is_no_template_is_refused(text, said):
    with pytest.raises(AwsError, match=said):
        Template.parse(text)


def test_resources_come_after_what_they_need():
    template = Template.parse(
        """
        Resources:
          Last: {Type: t, DependsOn: [Middle]}
          Middle: {Type: t, Properties: {x: !Sub "${First.Arn}"}}
          First: {Type: t}
        """
    )
    assert template.order() == ["First", "Middle", "Last"]


def test_dates_in_yaml_stay_text():
    template = Template.parse("Resources: {A: {Type: t, Properties: {Version: 2012-10-17}}}")
    assert template.resources["A"]["Properties"] == {"Version": "2012-10-17"}
    assert json.dumps(template.resources)


def test_parameters_are_of_their_types():
    described = {
        "Text": {"Type": "String", "Default": "x"},
        "Number": {"Type": "Number", "Default": 3},
        "List": {"Type": "CommaDelimitedList", "Default": "a, b"},
        "Empty": {"Type": "CommaDelimitedList", "Default": ""},
        "Stored": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/a/b"},
    }
    found = resolved_parameters(described, {"Text": "y"}, lambda name: f"value of {name}")
    assert found == {
        "Text": "y",
        "Number": "3",
        "List": ["a", "b"],
        "Empty": [],
        "Stored": "value of /a/b",
    }


def test_rules_are_held_against_parameters():
    rule = """
Parameters: {Stage: {Type: String}}
Rules:
  Known:
    Assertions:
      - Assert: !Not [!Contains [["1", "2"], !Ref Stage]]
        AssertDescription: Bootstrap it anew.
"""
    loaded(ONE + rule, {"Stage": "3"}).check_rules()
    with pytest.raises(AwsError, match="Bootstrap it anew"):
        loaded(ONE + rule, {"Stage": "2"}).check_rules()
