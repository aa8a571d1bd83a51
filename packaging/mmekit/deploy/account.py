"""The account and region that are deployed to, and a deployment in them.

An `Account` is AWS's or the local service's. A `Site` is what every step of a plan looks at: the
deployment, the account, and the names that its resources have there.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmekit.archive import container_environment
from mmekit.errors import DeployError, SettingsError
from mmekit.settings import CPU_TAG, Settings, published_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmekit.deploy.deployment import Deployment

__all__ = [
    "TAG",
    "VARIANT",
    "Account",
    "Site",
    "code_of",
    "deploy_errors",
    "is_denied",
    "is_missing",
    "metrics_of",
    "owner",
    "remedy_of",
    "tags",
]

TAG = "mmekit:deployment"
"""Its value is the name of the deployment that made a resource."""

_EXPIRED = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
)
_UNKNOWN_CALLER = frozenset(
    {
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "InvalidSignatureException",
    }
)
# The answer to a HEAD has no body, so that botocore has only its status for a code: 403, 404.
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
_MISSING = frozenset({"404", "ObjectNotFoundException"})
# SageMaker's code for it is ValidationException, as for a wrong parameter: the text tells.
_MISSING_SPOKEN = ("Could not find", "No scaling policy found", "No scalable target found")
VARIANT = "AllTraffic"
_LAYERS = "MMEKIT_LAYERS"
_METRICS, _METRICS_PER = "MMEKIT_METRICS", "MMEKIT_METRICS_PER"


class Account:
    """An account and region, and the clients of their services.

    Parameters
    ----------
    deployment
        Its region and profile, if it says them; the settings say the rest: target, credentials,
        local address.
    target
        ``local`` or ``aws``, whatever the settings say.

    Raises
    ------
    DeployError
        Nobody answers there, or the credentials are not valid.
    SettingsError
        No region is set.
    """

    def __init__(self, deployment: Deployment, *, target: str | None = None) -> None:
        given = {"region": deployment.region, "target": target}
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value}
        self.settings = Settings(profile=deployment.profile, **chosen)
        self.region = self.settings.region
        self.is_real = self.settings.target == "aws"
        self._clients: dict[str, Any] = {}
        with deploy_errors(self.settings):
            identity = self.client("sts").get_caller_identity()
        self.number = str(identity["Account"])
        # In China and in GovCloud, ARNs have another partition than aws.
        self.partition = str(identity["Arn"]).split(":")[1]

    def client(self, service: str) -> Any:
        """Return the boto3 client of a service, always the same."""
        if service not in self._clients:
            self._clients[service] = self.settings.client(service, retries={"mode": "standard"})
        return self._clients[service]

    def close(self) -> None:
        """Close the clients' connections."""
        for client in self._clients.values():
            client.close()

    def arn(self, service: str, resource: str) -> str:
        """Return the ARN of a resource of this account and region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.number}:{resource}"

    def __str__(self) -> str:
        """Say where it is."""
        if self.is_real:
            return f"AWS account {self.number}, {self.region}"
        return f"the local service, {self.settings.local_url}"


def tags(deployment: Deployment) -> list[dict[str, str]]:
    """Return the tags of what a deployment makes, as most services take them."""
    return [{"Key": TAG, "Value": deployment.name}]


def owner(listed: list[dict[str, str]]) -> str | None:
    """Return the deployment that made the resource that has these tags; None for nobody's."""
    return next((tag["Value"] for tag in listed if tag["Key"] == TAG), None)


def code_of(error: Exception) -> str:
    """Return AWS's code of an error, such as ValidationException."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def is_missing(error: Exception) -> bool:
    """Say whether an error of AWS's means that there is no such resource."""
    code = code_of(error)
    if code in _MISSING or code.startswith("NoSuch") or code.endswith("NotFoundError"):
        return True
    return code == "ValidationException" and any(said in str(error) for said in _MISSING_SPOKEN)


def is_denied(error: Exception) -> bool:
    """Say whether an error of AWS's means that the caller may not do that."""
    return code_of(error) in _DENIED


@contextlib.contextmanager
def deploy_errors(settings: Settings) -> Iterator[None]:
    """Turn errors of boto3 into DeployError with a remedy."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise DeployError(
            f"{error}.".replace("..", "."),
            where=f"{error.operation_name} in {settings.region}",
            remedy=_remedy(code_of(error), error.operation_name),
        ) from error
    except (BotoCoreError, Boto3Error) as error:
        raise DeployError(
            str(error), where=_place(settings), remedy=_remedy_of_failure(error, settings)
        ) from error


def _place(settings: Settings) -> str:
    return settings.local_url if settings.target == "local" else f"AWS, {settings.region}"


def remedy_of(error: Exception, settings: Settings) -> str:
    """Return what can be done about what botocore or AWS has said."""
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return _remedy(code_of(error), error.operation_name)
    return _remedy_of_failure(error, settings)


def _remedy(code: str, operation: str) -> str:
    if code in _EXPIRED:
        return (
            "The credentials have expired: renew them (`aws sso login`, or whatever gave you "
            "them), then run the command again to resume."
        )
    if code in _UNKNOWN_CALLER:
        return (
            "AWS does not know these credentials: `aws sts get-caller-identity` shows whether a "
            "profile works; choose one with AWS_PROFILE."
        )
    if code in _DENIED:
        return (
            f"The caller needs the permission for {operation}; docs/deploying.md lists "
            "what each is for. Then run the command again to resume."
        )
    if code in ("ResourceLimitExceeded", "LimitExceeded", "LimitExceededException"):
        return "Ask for a higher quota in the console's Service Quotas, or choose a smaller one."
    return "Correct that and run the command again to resume."


def _remedy_of_failure(error: Exception, settings: Settings) -> str:
    from botocore.exceptions import (
        ConnectionError as NoConnectionError,
    )
    from botocore.exceptions import (
        HTTPClientError,
        NoCredentialsError,
        PartialCredentialsError,
        SSOError,
        TokenRetrievalError,
    )

    if isinstance(error, (SSOError, TokenRetrievalError)):
        return "The sign-in has expired: run `aws sso login`, then the command again."
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return "Sign in (`aws configure sso`, `aws login`), or choose a profile with AWS_PROFILE."
    if settings.target == "local" and isinstance(error, (NoConnectionError, HTTPClientError)):
        return "Start the local service with `mme up`; MME_LOCAL_URL names another address."
    return "Correct that and run the command again to resume."


def metrics_of(environment: Mapping[str, str]) -> str:
    """Return what containers with such variables publish: none, endpoint or models.

    Examples
    --------
    >>> metrics_of({"MMEKIT_METRICS": "shops", "MMEKIT_METRICS_PER": "models"})
    'models'
    """
    if not environment.get(_METRICS):
        return "none"
    return environment.get(_METRICS_PER) or "endpoint"


def _places(environment: dict[str, str]) -> list[str]:
    return environment.get(_LAYERS, "").replace(",", " ").split()


@dataclass(frozen=True)
class Site:
    """A deployment in an account.

    Attributes
    ----------
    account
        Where.
    deployment
        What.
    fetches_layers
        Whether an archive names layers that it does not bring along.
    """

    account: Account
    deployment: Deployment
    fetches_layers: bool = False

    @property
    def name(self) -> str:
        """Return the deployment's name, which is the endpoint's."""
        return self.deployment.name

    @property
    def bucket(self) -> str:
        """Return the bucket's name."""
        own = f"{self.name}-{self.account.number}-{self.account.region}".lower()
        return self.deployment.bucket or own

    @property
    def prefix(self) -> str:
        """Return what every archive's key begins with; it ends with a slash."""
        return f"{self.deployment.prefix}/"

    @property
    def data_url(self) -> str:
        """Return the model's ModelDataUrl."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def layers_prefix(self) -> str:
        """Return what every layer's key begins with: beside the archives', never under it."""
        return f"{self.deployment.prefix}-layers/"

    @property
    def layers_url(self) -> str:
        """Return where instances fetch the layers of thin archives."""
        return f"s3://{self.bucket}/{self.layers_prefix}"

    @property
    def role_name(self) -> str:
        """Return the name of the role that is made where none is given; IAM has no regions."""
        return f"{self.name}-{self.account.region}"

    @property
    def role(self) -> str:
        """Return the ARN of the role that the endpoint runs as."""
        own = f"arn:{self.account.partition}:iam::{self.account.number}:role/{self.role_name}"
        return self.deployment.role or own

    @cached_property
    def image(self) -> str:
        """Return the URI of the container image.

        Raises
        ------
        DeployError
            The file names none, and AWS publishes none for the region.
        """
        deployment = self.deployment
        if deployment.image is not None:
            return deployment.image
        try:
            return published_image(self.account.region, deployment.instance_type)
        except SettingsError as error:
            raise DeployError(
                error.what.replace("MME_IMAGE_URI is not set", "The file names no image"),
                where=f"{deployment.name}, {self.account.region}",
                remedy="Name an image of yours as `image`, or deploy to another region; the table "
                "is that of sagemaker-core.",
            ) from None

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of the containers."""
        is_stock = self.image.endswith(f":{CPU_TAG}")
        environment = {
            **(container_environment() if is_stock else {}),
            **self.deployment.environment,
        }
        if self.deployment.metrics != "none":
            # Of the deployment's name: the container knows not which endpoint it serves.
            environment[_METRICS] = self.name
            environment[_METRICS_PER] = self.deployment.metrics
        if self.fetches_layers:
            # What the file names goes first: a folder of an image of one's own needs no network.
            places = _places(environment)
            environment[_LAYERS] = ",".join(dict.fromkeys((*places, self.layers_url)))
        return environment

    @property
    def fetched_from(self) -> tuple[str, ...]:
        """Return the places in S3 that containers fetch layers from: bucket and prefix of each."""
        places = (place.partition("s3://") for place in _places(self.environment))
        # With its slash, as the runtime joins it: others, and other buckets, begin as it does.
        return tuple(
            f"{place.rstrip('/')}/" for before, is_s3, place in places if is_s3 and not before
        )

    @property
    def scaled_resource(self) -> str:
        """Return what Application Auto Scaling calls the variant."""
        return f"endpoint/{self.name}/variant/{VARIANT}"
