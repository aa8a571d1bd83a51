"""Every model of mme.yaml answers its sample request through the endpoint.

On this machine: ``mme up -- sh -c 'mme deploy mme.yaml && pytest rehearsal'``. With MME_TARGET=aws
in the environment, ``pytest rehearsal`` asks the endpoint on AWS.
"""

import json
from pathlib import Path

import pytest

import env
from mmekit.testing import agree, read_sample


@pytest.mark.parametrize("package", env.packages, ids=lambda package: package["archive"])
def test_a_model_gives_its_sample_answer(package):
    sample = read_sample(env.ROOT / package["package"])
    answer = env.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=env.endpoint_name,
        TargetModel=Path(package["archive"]).name,
        ContentType=sample.content_type,
        Body=sample.body,
    )
    assert agree(json.load(answer["Body"]), sample.answer, tolerance=1e-6)
