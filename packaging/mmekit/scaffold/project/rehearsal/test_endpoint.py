"""Every model of mme.yaml answers its sample request through the endpoint.

On this machine: ``mme up -- sh -c 'mme deploy mme.yaml && pytest rehearsal'``. With MME_TARGET=aws
in the environment, ``pytest rehearsal`` asks the endpoint on AWS.
"""

import contextlib
import json
from pathlib import Path

import pytest

import env
from mmekit.testing import agree, read_sample

_TRIES = 10


@pytest.mark.parametrize("package", env.packages, ids=lambda package: package["archive"])
def test_a_model_gives_its_sample_answer(package):
    sample = read_sample(env.ROOT / package["package"])
    answer = ask(Path(package["archive"]).name, sample)
    assert agree(json.load(answer["Body"]), sample.answer, tolerance=1e-6)


def ask(target_model, sample):
    """Invoke a model, and again where its first load takes longer than a request may (60 s)."""
    client = env.client("sagemaker-runtime")
    request = {
        "EndpointName": env.endpoint_name,
        "TargetModel": target_model,
        "ContentType": sample.content_type,
        "Body": sample.body,
    }
    for _ in range(_TRIES - 1):
        with contextlib.suppress(client.exceptions.ModelNotReadyException):
            return client.invoke_endpoint(**request)
    return client.invoke_endpoint(**request)
