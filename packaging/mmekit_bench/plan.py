"""What a load is to be, everything that the generator is told: where to, what, how much, when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict

from mmekit.errors import EndpointError, MmekitError
from mmekit_bench.traffic import Profile, weights

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit.settings import Settings

__all__ = ["Client", "Destination", "LoadPlan", "Payload", "listed_targets"]

MOST_RATE = 100_000
MOST_CONNECTIONS = 10_000
Client = Literal["raw", "boto3"]


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
    region, profile
        Of an endpoint: where it is, and the AWS profile of its account. None is the settings'.
    """

    origin: str
    endpoint: str | None = None
    path: str | None = None
    region: str | None = None
    profile: str | None = None

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
    def of_endpoint(
        cls, name: str, settings: Settings, *, profile: str | None = None
    ) -> Destination:
        """Return an endpoint of the target that the settings name, and of their profile."""
        runtime = settings.client("sagemaker-runtime")
        origin = runtime.meta.endpoint_url.rstrip("/")
        return cls(origin, endpoint=name, region=settings.region, profile=profile)

    @property
    def settings(self) -> Settings:
        """Those by which an endpoint is asked."""
        from mmekit.settings import Settings

        region: dict[str, Any] = {} if self.region is None else {"region": self.region}
        return Settings(profile=self.profile, **region)

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


@dataclass(frozen=True)
class Payload:
    """A request's body and the content type that it is sent with."""

    # A body may be any bytes; pydantic's own way is UTF-8, which fails for images.
    __pydantic_config__ = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    body: bytes
    content_type: str = "application/json"

    @classmethod
    def of_file(cls, path: Path) -> Payload:
        """Read a file, whose suffix says the content type; JSON when it says nothing.

        Raises
        ------
        OSError
            It cannot be read.
        """
        from mmekit.archive.package import CONTENT_TYPES  # the generator starts without it

        return cls(path.read_bytes(), CONTENT_TYPES.get(path.suffix, cls.content_type))

    @classmethod
    def of_package(cls, folder: Path) -> Payload:
        """Read a package folder's sample request.

        Raises
        ------
        PackageError
            There is no such package, or it has no sample request.
        """
        from mmekit.testing import read_sample

        sample = read_sample(folder)
        return cls(sample.body, sample.content_type)


@dataclass(frozen=True)
class LoadPlan:
    """A load, from the first request to the last.

    Attributes
    ----------
    destination, payload
        Where requests go and what they carry.
    targets
        Target models; the most wanted first.
    distribution
        How requests spread over them, as `mmekit_bench.traffic.weights` has it.
    connections
        How many requests are under way at most: in a closed loop always as many.
    rate
        Requests a second of an open loop; None for a closed one.
    poisson
        Whether an open loop's requests come at random moments.
    outstanding
        How many requests an open loop lets wait or be under way; what arrives beyond is dropped.
    duration
        Seconds that are measured; None when `requests` ends it.
    requests
        How many are measured at most.
    warm_up
        Seconds of the same load before.
    ramp, spike
        As `mmekit_bench.traffic.Profile.of` reads them.
    client
        ``raw`` HTTP, or ``boto3`` in threads.
    timeout
        Seconds that an answer may take.
    seed
        Of everything that is drawn.
    """

    destination: Destination
    payload: Payload
    targets: tuple[str, ...]
    distribution: str = "uniform"
    connections: int = 1
    rate: float | None = None
    poisson: bool = False
    outstanding: int = 1000
    duration: float | None = 10.0
    requests: int | None = None
    warm_up: float = 0.0
    ramp: str | None = None
    spike: str | None = None
    client: Client = "raw"
    timeout: float = 60.0
    seed: int = 0

    def check(self) -> None:
        """See that the load is one that a generator can put on.

        Raises
        ------
        EndpointError
            boto3 shall call what is no endpoint.
        MmekitError
            It is too much for one client, or cannot be read.
        """
        if self.client == "boto3" and self.destination.endpoint is None:
            raise EndpointError(
                "boto3 calls endpoints, and this is a container.",
                where="--client boto3",
                remedy="Name an endpoint, or take --client raw.",
            )
        _ = self.shares
        highest = self.profile.highest
        if self.rate is not None and not 0 < highest <= MOST_RATE:
            raise MmekitError(
                f"{highest:g} requests a second are more than one client can send.",
                where="--rate",
                remedy=f"Ask for {MOST_RATE:,} at most, with --ramp and --spike.",
            )
        connections = self.connections if self.rate is not None else highest
        if not connections <= MOST_CONNECTIONS:
            raise MmekitError(
                f"{connections:g} connections are more than one client has ports for.",
                where="--connections",
                remedy=f"Ask for {MOST_CONNECTIONS:,} at most, with --ramp and --spike.",
            )

    @property
    def is_open(self) -> bool:
        """Whether requests arrive whether or not the last were answered."""
        return self.rate is not None

    @property
    def profile(self) -> Profile:
        """The level of the load over time: requests a second, or connections."""
        level = float(self.connections) if self.rate is None else self.rate
        seconds = math.inf if self.duration is None else self.duration
        return Profile.of(level, seconds, self.ramp, self.spike)

    @property
    def shares(self) -> tuple[float, ...]:
        """Each target's share of the requests."""
        return weights(self.distribution, len(self.targets))


def listed_targets(endpoint: str, settings: Settings) -> tuple[str, ...]:
    """Return what an endpoint can be asked for, in the order of names.

    It is every archive under its prefix in S3; or, where current.json is there, the current version
    of each model, and no other: nobody asks for those that are superseded.

    Raises
    ------
    DeployError
        current.json is there, and cannot be read.
    EndpointError
        The endpoint is not there or may not be described, or nothing is under its prefix.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from mmekit.deploy.releases import CURRENT, Releases
    from mmekit.deploy.target import models_place

    remedy = "Name the target models: --targets a.tar.gz,b.tar.gz."
    try:
        place = models_place(settings, endpoint)
        if place is None:
            return ("",)
        bucket, path = place
        where = f"s3://{bucket}/{path}"
        s3 = settings.client("s3")
        pages = s3.get_paginator("list_objects_v2")
        keys = [
            entry["Key"].removeprefix(path)
            for page in pages.paginate(Bucket=bucket, Prefix=path)
            for entry in page.get("Contents", ())
        ]
        if CURRENT in keys:
            content = s3.get_object(Bucket=bucket, Key=path + CURRENT)["Body"].read()
            models = Releases.from_json(content, where=where + CURRENT).models
            keys = [version.key for version in models.values()]
    except ClientError as error:
        raise EndpointError(str(error), where=endpoint, remedy=remedy) from error
    except BotoCoreError as error:
        raise Destination.of_endpoint(endpoint, settings).unreachable(str(error)) from error
    archives = tuple(sorted(key for key in keys if key.endswith(".tar.gz")))
    if not archives:
        raise EndpointError("There is no archive.", where=where, remedy="Upload one: NAME.tar.gz.")
    return archives
