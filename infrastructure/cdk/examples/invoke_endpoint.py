"""Invoke every model of the deployed stack, or one: what it answers and how long it takes.

::

    python -m examples.invoke_endpoint                                   all, twice
    python -m examples.invoke_endpoint /linear_regression.tar.gz --data '{"instances": [[0.05]]}'

The first call of a model is slow: its archive is downloaded, unpacked and loaded. For the local
service set AWS_ENDPOINT_URL and the other variables that `mme up` prints.
"""

# ruff: noqa: T201 - printing is what it is for

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

_SAMPLES = Path(__file__).resolve().parents[3] / "model_packages"
_ANYTHING = b'{"instances": [[0.05]]}'


def target_models(bucket: str, model_data_url: str) -> list[str]:
    """Return the target models: keys without the prefix, which is joined with them literally."""
    prefix = urlsplit(model_data_url).path.removeprefix("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2")
    return [
        found["Key"].removeprefix(prefix)
        for page in pages.paginate(Bucket=bucket, Prefix=prefix)
        for found in page.get("Contents", ())
        if found["Key"].endswith(".tar.gz")
    ]


def sample(target_model: str) -> bytes:
    """Return the sample request of the package that an archive was built from."""
    name = Path(target_model).name.removesuffix(".tar.gz")
    path = _SAMPLES / name / "sample_request.json"
    return path.read_bytes() if path.is_file() else _ANYTHING


def invoke(endpoint: str, target_model: str, body: bytes) -> tuple[str, float]:
    """Return a model's answer and the seconds that it took."""
    began = time.perf_counter()
    answer = boto3.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint,
        TargetModel=target_model,
        ContentType="application/json",
        Body=body,
    )
    return answer["Body"].read().decode(), time.perf_counter() - began


def main() -> None:
    """Invoke what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target_models", nargs="*", metavar="TARGET_MODEL")
    parser.add_argument("--stack", default="MultiModelEndpoint")
    parser.add_argument("--data", help="the request's body; otherwise each model's own sample")
    chosen = parser.parse_args()
    try:
        stacks = boto3.client("cloudformation").describe_stacks(StackName=chosen.stack)
        outputs = {one["OutputKey"]: one["OutputValue"] for one in stacks["Stacks"][0]["Outputs"]}
        targets = chosen.target_models or target_models(
            outputs["BucketName"], outputs["ModelDataUrl"]
        )
        for target in targets:
            body = sample(target) if chosen.data is None else chosen.data.encode()
            for call in ("first", "later"):
                answer, seconds = invoke(outputs["EndpointName"], target, body)
                print(f"{target}  {call} call  {seconds * 1000:.0f} ms  {answer[:200]}")
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"{error}\nDeploy the stack first (README.md), with the same credentials.")


if __name__ == "__main__":
    main()
