"""The first call of one more customer on the local endpoint, seen from boto3."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from endpoint_runs.service import BUCKET, REGION, ServiceFailure, running
from slot_runs.servers import ServerFailure

from layer_runs import customers as of
from layer_runs.expected import expect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from endpoint_runs.service import Service

    from layer_runs.customers import Customers, Form

COMPARED: tuple[Form, ...] = ("now", "inline", "thin")
_ENDPOINT = "layers"
_IMAGE = f"763104351884.dkr.ecr.{REGION}.amazonaws.com/djl-inference:0.36.0-cpu-full"
_ROLE = "arn:aws:iam::123456789012:role/Benchmark"
_APART_S = 0.25


@dataclass(frozen=True)
class FirstCall:
    """First calls of customers of one form.

    Attributes
    ----------
    first_ms
        Of the very first, which brings in the libraries and the layers.
    calls_ms
        Of those after it, in turn with those of the other forms: download, unpack, load, answer.
    warm_ms
        The median of their next calls.
    archive_bytes
        Of the archive of one more customer: what is fetched for it.
    layer_bytes
        Of all layers as they lie in the bucket, once; none where there are none.
    """

    form: Form
    first_ms: float
    calls_ms: tuple[float, ...]
    warm_ms: float
    archive_bytes: int
    layer_bytes: int

    @property
    def median_ms(self) -> float:
        """The median of the first calls after the very first."""
        return statistics.median(self.calls_ms)


def measure(
    work: Path, say: Callable[[str], None], *, customers: Customers, count: int
) -> tuple[FirstCall, ...]:
    """Upload customers of all forms and call each for the first time, in turn.

    Raises
    ------
    ServerFailure
        A call failed, or the answer was another customer's.
    """
    packed = {form: customers.packed(form, count + 1) for form in COMPARED}
    expectation = expect(customers, count + 1)
    layers = sorted(packed["thin"].layers.glob("*.tar.gz"))
    first: dict[Form, list[float]] = defaultdict(list)
    later: dict[Form, list[float]] = defaultdict(list)
    with running(work) as service:
        for form in COMPARED:
            say(f"uploading, {of.TITLES[form]}")
            for number, archive in enumerate(packed[form].archives):
                service.upload(archive, [f"customers/{form}-{number}.tar.gz"], lambda: None)
        for layer in layers:
            service.upload(layer, [f"customers-layers/{layer.name}"], lambda: None)
        _create(service)
        for number in range(count + 1):
            for form in COMPARED:
                say(f"first call {number + 1} of {count + 1}, {of.TITLES[form]}")
                time.sleep(_APART_S)
                for times in (first[form], later[form]):
                    began = time.perf_counter()
                    answer = _call(service, f"{form}-{number}.tar.gz", expectation.request)
                    times.append((time.perf_counter() - began) * 1000)
                    if not expectation.is_own(number, answer):
                        raise ServerFailure(f"{form}-{number} answered {answer!r}")
    return tuple(
        FirstCall(
            form=form,
            first_ms=first[form][0],
            calls_ms=tuple(first[form][1:]),
            warm_ms=statistics.median(later[form][1:]),
            archive_bytes=max(packed[form].sizes[1:]),
            layer_bytes=of.bytes_of(layers) if form == "thin" else 0,
        )
        for form in COMPARED
    )


def _create(service: Service) -> None:
    service.client("sagemaker").create_model(
        ModelName=_ENDPOINT,
        ExecutionRoleArn=_ROLE,
        PrimaryContainer={
            "Image": _IMAGE,
            "Mode": "MultiModel",
            "ModelDataUrl": f"s3://{BUCKET}/customers/",
            "Environment": {"MMEKIT_LAYERS": f"s3://{BUCKET}/customers-layers/"},
        },
    )
    try:
        service.create_endpoint(
            _ENDPOINT, {"InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 1}
        )
    except ServiceFailure as error:
        raise ServerFailure(str(error)) from error


def _call(service: Service, target: str, body: bytes) -> bytes:
    from botocore.exceptions import ClientError

    try:
        answer = service.client("sagemaker-runtime").invoke_endpoint(
            EndpointName=_ENDPOINT, TargetModel=target, ContentType="application/json", Body=body
        )
    except ClientError as error:
        raise ServerFailure(f"{target}: {error}\n{service.said()}") from error
    content: bytes = answer["Body"].read()
    return content
