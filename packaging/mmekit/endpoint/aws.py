"""The rest of AWS: moto, in this process, so that its state can be read and changed."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from moto.backends import get_backend
from moto.core.request import (
    PRESERVED_HEADER_NAMES_ENVIRON_KEY,
    environ_key_for_header,
    should_preserve_original_header_name,
)
from moto.core.utils import get_service_model
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.exceptions import MissingBucket
from moto.sagemaker.exceptions import ValidationError as MotoValidationError
from moto.sagemaker.models import FakeEndpointConfig
from moto.utilities.utils import get_partition

from mmekit.endpoint import aws_chunked
from mmekit.endpoint.http import Reply
from mmekit.endpoint.specification import (
    EndpointId,
    EndpointSpecification,
    ModelSpecification,
    ServerlessSpecification,
    VariantSpecification,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from types import TracebackType

    from moto.sagemaker.models import FakeEndpoint, SageMakerModelBackend

    from mmekit.endpoint.http import Request
    from mmekit.endpoint.metrics import Observation

    ExceptionInfo = (
        tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None
    )

__all__ = ["Aws"]

logger = logging.getLogger("mmekit.endpoint")

_THREADS = 8  # as many requests to moto at a time; an upload by boto3 uses ten connections
_BAD_CHUNKS = (
    b"<Error><Code>IncompleteBody</Code><Message>The body is not aws-chunked.</Message></Error>"
)


class Aws:
    """S3, IAM, CloudFormation, CloudWatch and SageMaker's control plane, as moto plays them."""

    def __init__(self) -> None:
        _accept_every_instance_type()
        self._application = DomainDispatcherApplication(create_backend_app)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="moto")

    def close(self) -> None:
        """End the threads; requests that still wait for one are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request) -> Reply:
        """Let moto answer a request, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._answer, request)

    def endpoints(self, account: str, region: str) -> dict[str, FakeEndpoint]:
        """Return moto's own table of endpoints, by name; a change to it is a change of state."""
        endpoints: dict[str, FakeEndpoint] = self._sagemaker(account, region).endpoints
        return endpoints

    def has(self, kind: str, account: str, region: str, name: str) -> bool:
        """Say whether a resource exists; `kind` as ARNs spell it (model, endpoint-config, …)."""
        backend = self._sagemaker(account, region)
        tables: dict[str, Container[str]] = {
            "model": backend._models,  # noqa: SLF001 - moto offers no way to ask without raising
            "endpoint-config": backend.endpoint_configs,
            "endpoint": backend.endpoints,
        }
        return name in tables[kind]

    def specification(self, endpoint: EndpointId, config_name: str) -> EndpointSpecification:
        """Gather what an endpoint config and its models say.

        Raises
        ------
        LookupError
            The config or one of its models does not exist (any more).
        """
        backend = self._sagemaker(endpoint.account, endpoint.region)
        config = backend.endpoint_configs.get(config_name)
        if config is None:
            raise LookupError(f"Could not find endpoint configuration {config_name!r}.")
        return EndpointSpecification(
            endpoint,
            config_name,
            tuple(_variant(backend, described) for described in config.production_variants),
        )

    def use_config(self, record: FakeEndpoint, endpoint: EndpointId, config_name: str) -> None:
        """Write into moto's record of an endpoint that it now runs another config."""
        config = self._sagemaker(endpoint.account, endpoint.region).endpoint_configs[config_name]
        record.endpoint_config_name = config_name
        record.production_variants = record._process_production_variants(  # noqa: SLF001
            config.production_variants
        )

    def read_object(self, account: str, region: str, bucket: str, key: str) -> bytes | None:
        """Return an S3 object's bytes, or None when there is no such object. Blocks."""
        backend = get_backend("s3")[account][get_partition(region)]
        try:
            found = backend.get_object(bucket, key)
        except MissingBucket:
            return None
        return None if found is None else bytes(found.value)

    def put_metrics(
        self, account: str, region: str, namespace: str, observations: Sequence[Observation]
    ) -> None:
        """Add observations to CloudWatch."""
        backend = get_backend("cloudwatch")[account][region]
        backend.put_metric_data(namespace, [observation.as_datum() for observation in observations])

    @staticmethod
    def _sagemaker(account: str, region: str) -> SageMakerModelBackend:
        return get_backend("sagemaker")[account][region]

    def _answer(self, request: Request) -> Reply:
        if aws_chunked.is_chunked(request):
            try:
                request = aws_chunked.decode(request)
            except ValueError:
                return Reply(400, [(b"content-type", b"application/xml")], _BAD_CHUNKS)
        call = _WsgiCall()
        try:
            pieces = self._application(_environ(request), call.start_response)
            try:
                body = b"".join(pieces)
            finally:
                getattr(pieces, "close", lambda: None)()
        except NotImplementedError as error:
            return _failure(501, "NotImplemented", f"moto does not know this operation: {error}")
        except Exception as error:
            logger.exception("moto failed at %s %s", request.method, request.path.decode())
            return _failure(500, "InternalFailure", f"{type(error).__name__}: {error}")
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in call.headers
            if request.method == "HEAD" or name.lower() != "content-length"
        ]
        return Reply(call.status, headers, b"" if request.method == "HEAD" else body)


class _WsgiCall:
    """Where a WSGI application leaves the status and the headers of its answer."""

    status: int
    headers: list[tuple[str, str]]

    def start_response(
        self, status: str, headers: list[tuple[str, str]], _: ExceptionInfo = None
    ) -> Callable[[bytes], object]:
        self.status = int(status.split(" ", 1)[0])
        self.headers = headers
        return lambda _: None


def _environ(request: Request) -> dict[str, Any]:
    """Build the WSGI environ (PEP 3333) that moto's own server would build."""
    body = b"".join(request.body)
    target = request.path + (b"?" + request.query if request.query else b"")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1"),
        "QUERY_STRING": request.query.decode("latin-1"),
        "RAW_URI": target.decode("latin-1"),
        "REQUEST_URI": target.decode("latin-1"),
        "SERVER_NAME": request.server[0],
        "SERVER_PORT": str(request.server[1]),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": request.client[0],
        "REMOTE_PORT": str(request.client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,  # spares werkzeug a loop over pieces of 64 KiB
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    spelled: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name = raw_name.decode("latin-1")
        if name in ("content-length", "transfer-encoding"):
            continue
        key = environ_key_for_header(name)
        if "_" in name:  # WSGI cannot tell x_y from x-y; S3 can, and moto knows how to be told
            if not should_preserve_original_header_name(name):
                continue
            spelled[key] = name
        value = raw_value.decode("latin-1")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ["CONTENT_LENGTH"] = str(len(body))
    environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = spelled
    return environ


def _failure(status: int, code: str, message: str) -> Reply:
    """Return an error that both of AWS's families of protocols understand well enough."""
    body = json.dumps({"__type": code, "message": message}).encode()
    return Reply(status, [(b"content-type", b"application/x-amz-json-1.1")], body)


def _variant(backend: SageMakerModelBackend, described: dict[str, Any]) -> VariantSpecification:
    model = backend._models.get(described["ModelName"])  # noqa: SLF001 - as in Aws.has
    if model is None:
        raise LookupError(f"Could not find model {described['ModelName']!r}.")
    container = model.primary_container or next(iter(model.containers), {})
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    serverless = described.get("ServerlessConfig")
    return VariantSpecification(
        name=described["VariantName"],
        model=ModelSpecification(
            name=model.model_name,
            data_url=container.get("ModelDataUrl") or source.get("S3Uri") or "",
            multi_model=container.get("Mode") == "MultiModel",
            environment=tuple(sorted(container.get("Environment", {}).items())),
            image=container.get("Image") or "",
            caches_models=container.get("MultiModelConfig", {}).get("ModelCacheSetting")
            != "Disabled",
        ),
        instance_count=int(described.get("InitialInstanceCount", 1)),
        weight=float(described.get("InitialVariantWeight", 1.0)),
        instance_type=described.get("InstanceType"),
        serverless=None
        if serverless is None
        else ServerlessSpecification(serverless["MemorySizeInMB"], serverless["MaxConcurrency"]),
    )


def _accept_every_instance_type() -> None:
    """Let moto know the instance types that botocore knows: its own list ends in 2020."""

    def validate(_: FakeEndpointConfig, instance_type: str) -> None:
        shape = get_service_model("sagemaker").shape_for("ProductionVariantInstanceType")
        known: list[str] = shape.metadata["enum"]
        if instance_type not in known:
            raise MotoValidationError(
                f"1 validation error detected: Value '{instance_type}' at "
                "'productionVariants.1.member.instanceType' failed to satisfy constraint: Member "
                f"must satisfy enum value set: [{', '.join(known)}]"
            )

    setattr(FakeEndpointConfig, "validate_instance_type", validate)  # noqa: B010 - mypy forbids `=`
