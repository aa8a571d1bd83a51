"""The SageMaker Python SDK: version 3's resource classes, and version 2 in its own environment."""

import json
import pathlib
import sys

import pytest

PROGRAMS = pathlib.Path(__file__).parent / "programs"

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.timeout(900),  # its environment may have to be made first
]


@pytest.fixture
def rehearsal(rehearsal):
    """The rehearsal; nothing that a test did has left it."""
    rehearsal.outside.heard.clear()
    yield rehearsal
    assert rehearsal.outside.heard == []


def finds_itself(found):
    """Whether the functions that ask STS by its own address have asked the rehearsal."""
    return (found["account"], found["bucket"], found["role"]) == (
        "123456789012",
        "sagemaker-us-east-1-123456789012",
        "arn:aws:iam::123456789012:role/mmekit-rehearsal",
    )


def test_sagemaker_3_creates_invokes_updates_and_deletes(rehearsal):
    pytest.importorskip("sagemaker.core", reason="the extra `notebooks` brings sagemaker-core")
    said = rehearsal.run(
        sys.executable,
        PROGRAMS / "sagemaker_3.py",
        "s3://models/",
        rehearsal.image,
    )
    found = json.loads(said[said.index("{") :])
    assert finds_itself(found)
    assert found["version"].startswith("2.")  # sagemaker 3 stands on sagemaker-core 2
    assert found["answers"] == [[3, 7], [30, 70]]
    assert found["variant"] == "AllTraffic"
    assert found["updated_to"] == "sagemaker-three-2"
    assert (found["listed"], found["left"]) == (["sagemaker-three"], [])


def test_sagemaker_3_queues_shadows_and_streams(rehearsal):
    pytest.importorskip("sagemaker.core", reason="the extra `notebooks` brings sagemaker-core")
    said = rehearsal.run(
        sys.executable,
        PROGRAMS / "sagemaker_3_features.py",
        "s3://models/times10.tar.gz",
        "models",
        rehearsal.image,
        rehearsal.role,
    )
    found = json.loads(said[said.index("{") :])
    assert found == {"queued": [30, 70], "streamed": [30, 70], "shadows": ["Shade"]}


def test_sagemaker_2_adds_lists_deploys_and_predicts(rehearsal, python_with):
    said = rehearsal.run(
        python_with("sagemaker-2"),
        PROGRAMS / "sagemaker_2.py",
        rehearsal.archives[1],
        "s3://models/times10.tar.gz",
        rehearsal.image,
    )
    found = json.loads(said[said.index("{") :])
    assert finds_itself(found)
    assert found["version"].startswith("2.")
    assert found["added"] == [
        "s3://sagemaker-us-east-1-123456789012/two/local/times1.tar.gz",
        "s3://sagemaker-us-east-1-123456789012/two/times10.tar.gz",
    ]
    assert found["answers"] == [[3, 7], [30, 70], [3, 7]]
    assert "Failed to download model data" in found["refused"]
    assert found["listed"] == ["later.tar.gz", "local/times1.tar.gz", "times10.tar.gz"]
    assert (found["status"], found["left"]) == ("InService", 0)
