"""docs/clients.md says which versions the tests run."""

import pathlib
import re
from importlib.metadata import version

import pytest

ENVIRONMENTS = pathlib.Path(__file__).parent / "environments"


@pytest.mark.parametrize(
    ("lock", "package", "row"),
    [
        ("aws-cli", "awscli", "AWS CLI"),
        ("sagemaker-2", "sagemaker", "SageMaker Python SDK 2"),
        ("storage", "s3fs", "s3fs"),
        ("storage", "smart-open", "smart_open"),
    ],
)
def test_a_locked_client_is_documented_with_its_version(root, lock, package, row):
    text = (ENVIRONMENTS / f"{lock}.lock").read_text()
    [locked] = re.findall(rf"^{package}==(\S+)", text, re.MULTILINE)
    assert f"| {row} | {locked} |" in (root / "docs" / "clients.md").read_text()


@pytest.mark.parametrize(
    ("package", "row"),
    [("boto3", "boto3, clients and resources"), ("botocore", "botocore's retry modes")],
)
def test_a_client_of_this_environment_is_documented_with_its_version(root, package, row):
    text = (root / "docs" / "clients.md").read_text()
    [documented] = re.findall(rf"^\| {re.escape(row)} \| (\S+) \|", text, re.MULTILINE)
    locked = (root / "requirements.lock").read_text()
    assert f"\n{package}=={documented} " in locked or version(package) == documented
