"""Where requests go: a SageMaker endpoint, here or on AWS, or a bare container."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from mmekit.errors import EndpointError, MmekitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.settings import Settings
    from mmekit_bench.payload import Payload

__all__ = ["Destination", "Heads", "listed_targets"]


@dataclass(frozen=True)
class Destination:
    """One place that answers HTTP.

    Attributes
    ----------
    origin
        ``http://host:port`` or ``https://host``.
    endpoint
        The name of a SageMaker endpoint; None for a container.
    path
        Where a container is asked. None stands for ``/models/{target}/invoke``.
    """

    origin: str
    endpoint: str | None = None
    path: str | None = None

    @classmethod
    def of_url(cls, url: str) -> Destination:
        """Return a container; without a path in the URL it is asked for models by name.

        Raises
        ------
        MmekitError
            It is no URL of HTTP.
        """
        parts = urlsplit(url)
        try:
            well_formed = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # the port is no number
            well_formed = False
        if not well_formed:
            raise MmekitError(
                f"{url!r} is no URL of HTTP.",
                where="--url",
                remedy="Write http://HOST:PORT, or the whole http://HOST:PORT/models/NAME/invoke.",
            )
        path = parts.path.rstrip("/") + (f"?{parts.query}" if parts.query else "")
        return cls(f"{parts.scheme}://{parts.netloc}", path=path or None)

    @classmethod
    def of_endpoint(cls, name: str, settings: Settings) -> Destination:
        """Return an endpoint of the target that the settings name."""
        runtime = settings.client("sagemaker-runtime")
        return cls(runtime.meta.endpoint_url.rstrip("/"), endpoint=name)

    @property
    def url(self) -> str:
        """What requests are sent to, for people to read."""
        if self.endpoint is not None:
            return f"{self.origin}/endpoints/{self.endpoint}/invocations"
        return self.origin + (self.path or "/models/{target}/invoke")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.origin)
        return parts.hostname or "", parts.port or (443 if self.encrypted else 80)

    @property
    def encrypted(self) -> bool:
        """Whether it speaks TLS."""
        return self.origin.startswith("https:")

    def unreachable(self, reason: str) -> EndpointError:
        """Return the error that nobody answers here."""
        if self.endpoint is None:
            remedy = "Start the container (mme serve), or correct --url."
        elif self.encrypted:
            remedy = "Check the network and the region: MME_REGION, or AWS_REGION."
        else:
            remedy = "Start the local endpoint (mme up), or set MME_LOCAL_URL to where it listens."
        host, port = self.address
        return EndpointError(
            f"Nobody answers at {host}:{port}: {reason}.", where=self.url, remedy=remedy
        )


class Heads:
    """The first part of every request, made once; those that are signed, once a second.

    A signature's time counts whole seconds: within one, signing anew would yield the same bytes.
    """

    def __init__(self, destination: Destination, targets: Sequence[str], payload: Payload) -> None:
        self._destination = destination
        self._targets = targets
        self._common = {"Content-Type": payload.content_type}
        self._length = len(payload.body)
        self._body_sha256 = hashlib.sha256(payload.body).hexdigest()
        self._host = urlsplit(destination.origin).netloc
        self._signer = _signer(self._host) if destination.endpoint else None
        self._made: list[bytes | None] = [None] * len(targets)

    def __getitem__(self, number: int) -> bytes:
        """Return request line and headers for a target, ready to be sent."""
        return self._made[number] or self._make(number)

    def expire(self) -> None:
        """Forget signatures; to be called whenever a second has passed."""
        if self._signer is not None:
            self._made = [None] * len(self._targets)

    def headers(self, number: int) -> dict[str, str]:
        """Return a request's headers, but for Host and Content-Length."""
        headers = dict(self._common)
        if self._destination.endpoint is not None and self._targets[number]:
            headers["X-Amzn-SageMaker-Target-Model"] = self._targets[number]
        if self._signer is not None:
            path = self.path(number)
            headers |= self._signer.sign(path, headers, self._body_sha256, time.time())
        return headers

    def path(self, number: int) -> str:
        """Return what stands in the request line."""
        if self._destination.endpoint is not None:
            return f"/endpoints/{self._destination.endpoint}/invocations"
        name = quote(self._targets[number], safe="")
        return self._destination.path or f"/models/{name}/invoke"

    def _make(self, number: int) -> bytes:
        lines = [f"POST {self.path(number)} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in self.headers(number).items()]
        lines += [f"Content-Length: {self._length}", "", ""]
        head = "\r\n".join(lines).encode("utf-8")
        self._made[number] = head
        return head


def listed_targets(endpoint: str, settings: Settings) -> tuple[str, ...]:
    """Return the archives under an endpoint's prefix in S3, in the order of their names.

    Raises
    ------
    EndpointError
        The endpoint is not there or may not be described, or nothing is under its prefix.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    remedy = "Name the target models: --targets a.tar.gz,b.tar.gz."
    try:
        prefix = _model_data_url(settings.client("sagemaker"), endpoint)
        if prefix is None:
            return ("",)
        bucket, _, path = prefix.removeprefix("s3://").partition("/")
        pages = settings.client("s3").get_paginator("list_objects_v2")
        keys = [
            entry["Key"].removeprefix(path)
            for page in pages.paginate(Bucket=bucket, Prefix=path)
            for entry in page.get("Contents", ())
        ]
    except ClientError as error:
        raise EndpointError(str(error), where=endpoint, remedy=remedy) from error
    except BotoCoreError as error:
        raise Destination.of_endpoint(endpoint, settings).unreachable(str(error)) from error
    archives = tuple(sorted(key for key in keys if key.endswith(".tar.gz")))
    if not archives:
        raise EndpointError("There is no archive.", where=prefix, remedy="Upload one: NAME.tar.gz.")
    return archives


def _model_data_url(sagemaker: Any, endpoint: str) -> str | None:
    """Return the prefix of a multi-model endpoint; None for one with a single model."""
    described = sagemaker.describe_endpoint(EndpointName=endpoint)
    config = sagemaker.describe_endpoint_config(EndpointConfigName=described["EndpointConfigName"])
    name = config["ProductionVariants"][0]["ModelName"]
    container = sagemaker.describe_model(ModelName=name)["PrimaryContainer"]
    url: str = container["ModelDataUrl"]
    return url if container.get("Mode") == "MultiModel" else None


def _signer(host: str) -> Any:
    import boto3
    from botocore.credentials import Credentials

    from mmekit.settings import Settings
    from mmekit_bench.signing import Signer

    settings = Settings()
    if settings.target == "local":
        credentials: Any = Credentials("local", "local")  # nobody verifies them
    else:
        credentials = boto3.Session().get_credentials()
        if credentials is None:
            raise EndpointError(
                "There are no AWS credentials.",
                where="MME_TARGET=aws",
                remedy="Log in (aws sso login, aws configure), or set AWS_PROFILE.",
            )
    return Signer(credentials, settings.region, host)
