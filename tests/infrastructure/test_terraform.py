"""The Terraform module: in form, valid, and with the options of the CloudFormation template.

Terraform checks it, or OpenTofu. MMEKIT_TERRAFORM_PLUGINS names a folder that its `providers mirror
FOLDER` has filled with AWS's provider; nothing is downloaded here.
"""

import json
import os
import re
import shutil
import subprocess

import pytest
import yaml

from .conftest import ROOT

MODULE = ROOT / "infrastructure" / "terraform" / "multi-model-endpoint"
TEMPLATE = ROOT / "infrastructure" / "cloudformation" / "multi-model-endpoint.yaml"
PLUGINS = "MMEKIT_TERRAFORM_PLUGINS"

PARAMETERS = {
    "alarm_topic_arn": "AlarmTopicArn",
    "artifact_bucket": "ArtifactBucket",
    "artifact_key_arn": "ArtifactKeyArn",
    "endpoint_name": "EndpointName",
    "image_uri": "ImageUri",
    "instance_type": "InstanceType",
    "invocations_per_instance": "InvocationsPerInstance",
    "layer_prefix": "LayerPrefix",
    "max_disk_percent": "MaxDiskPercent",
    "max_errors": "MaxErrors",
    "max_instances": "MaxInstances",
    "max_latency_milliseconds": "MaxLatencyMilliseconds",
    "max_memory_percent": "MaxMemoryPercent",
    "metrics": "Metrics",
    "min_instances": "MinInstances",
    "model_cache_setting": "ModelCacheSetting",
    "model_prefix": "ModelPrefix",
    "security_group_ids": "SecurityGroupIds",
    "subnet_ids": "SubnetIds",
    "volume_key_arn": "VolumeKeyId",
}
ITS_OWN = {
    *("archives", "bucket_name", "environment", "force_destroy", "rollout", "tags", "volume_gb"),
}
"""What a template cannot do, or `mme deploy` can and the template does not."""

PROGRAM = shutil.which("terraform") or shutil.which("tofu")
terraform = pytest.mark.skipif(PROGRAM is None, reason="neither terraform nor tofu is on PATH")


class Loader(yaml.SafeLoader):
    """Takes CloudFormation's tags for what is behind them."""


def untagged(loader, _, node):
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


Loader.add_multi_constructor("!", untagged)


@pytest.fixture(scope="module")
def template():
    return yaml.load(TEMPLATE.read_bytes(), Loader=Loader)  # noqa: S506 - a SafeLoader


@pytest.fixture(scope="module")
def variables():
    """The variables of the module: {name: its block}."""
    text = (MODULE / "variables.tf").read_text(encoding="utf-8")
    return dict(re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL))


def source():
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(MODULE.glob("*.tf")))


def run(*words, folder):
    return subprocess.run(
        [PROGRAM, *words],
        cwd=folder,
        env={**os.environ, "CHECKPOINT_DISABLE": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@terraform
def test_the_module_is_in_terraforms_form():
    done = run("fmt", "-check", "-recursive", "-diff", ".", folder=MODULE)
    assert done.returncode == 0, done.stdout


@terraform
@pytest.mark.skipif(
    not os.environ.get(PLUGINS), reason=f"{PLUGINS} names no folder with AWS's provider"
)
@pytest.mark.parametrize("part", [".", "example"])
def test_terraform_calls_the_module_and_its_example_valid(part, tmp_path):
    shutil.copytree(MODULE, tmp_path / "module")
    folder = tmp_path / "module" / part
    plugins = f"-plugin-dir={os.environ[PLUGINS]}"
    done = run("init", "-input=false", "-backend=false", plugins, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("validate", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_parameter_of_the_template_is_a_variable(template, variables):
    assert set(template["Parameters"]) <= set(PARAMETERS.values())
    assert set(variables) == set(PARAMETERS) | ITS_OWN


def test_what_is_not_chosen_is_the_same(template, variables):
    for name, parameter in PARAMETERS.items():
        if name == "artifact_bucket":  # the template has to be told; here one is made
            continue
        found = re.search(r"^  default +=(.*)$", variables[name], re.MULTILINE)
        default = template["Parameters"][parameter].get("Default")
        if default is None:
            assert found is None, name
        elif default == "" and "list(" in variables[name]:
            assert found[1].strip() == "[]"
        else:
            assert found[1].strip().strip('"') == str(default), name


def test_models_that_were_put_there_by_hand_outlive_the_module(variables):
    assert "default     = false" in variables["force_destroy"]
    bucket = (MODULE / "bucket.tf").read_text(encoding="utf-8")
    assert re.findall(r"force_destroy += (.+)", bucket) == ["var.force_destroy"]


def test_each_variable_says_what_it_is(variables):
    assert [name for name, block in variables.items() if "description = " not in block] == []


def test_the_role_is_allowed_what_the_templates_is(template):
    policies = template["Resources"]["Role"]["Properties"]["Policies"]
    action = re.compile(r"\b(?:s3|kms|ecr|logs|cloudwatch|ec2):[A-Z]\w+")
    theirs = set(action.findall(yaml.safe_dump(policies)))
    ours = set(action.findall((MODULE / "role.tf").read_text(encoding="utf-8")))
    assert ours == theirs
    assert len(ours) > 10


def test_alarms_and_dashboard_look_at_the_same_metrics(template):
    resources = template["Resources"]
    alarms = [one for one in resources.values() if one["Type"] == "AWS::CloudWatch::Alarm"]
    body = json.dumps(resources["Dashboard"]["Properties"]["DashboardBody"])
    shown = set(
        re.findall(r"\b(?:mme_model_\w+|(?:Model|Invocation|Loaded|Overhead)[A-Z\d]\w+)", body)
    )
    shown |= set(re.findall(r"\b\w+Utilization\b|\bInvocations\b", body))
    text = (MODULE / "monitoring.tf").read_text(encoding="utf-8")
    assert len(alarms) == 4
    assert len(shown) > 10
    for name in shown | {one["Properties"]["MetricName"] for one in alarms}:
        assert f'"{name}"' in text or f'\\"{name}\\"' in text, name


def test_whatever_the_module_names_is_in_its_readme(variables):
    readme = (MODULE / "README.md").read_text(encoding="utf-8")
    assert [name for name in variables if f"`{name}`" not in readme] == []
    outputs = re.findall(r'^output "(\w+)"', source(), re.MULTILINE)
    assert [name for name in outputs if f"`{name}`" not in readme] == []
