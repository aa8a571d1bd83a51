"""What a client asks: a Lambda function, or an endpoint."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mmekit.errors import EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit.settings import Settings

__all__ = [
    "Call",
    "CallRequest",
    "CallResult",
    "EndpointCall",
    "LambdaCall",
    "Outcome",
    "endpoint_of",
]

Outcome = Literal["answered", "throttled", "failed"]

_PATIENCE_S = 900  # Lambda's longest time limit
_THROTTLED = ("ThrottlingException", "TooManyRequestsException")


@dataclass(frozen=True)
class CallRequest:
    """What is asked, and how often again.

    Parameters
    ----------
    body
        The request's body.
    content_type
        What the body is.
    target_model
        Of a multi-model endpoint.
    max_attempts
        How often botocore tries again when it is throttled or a connection fails; 0 for never.
        None leaves it to the function, and is 0 for an endpoint.
    retry_mode
        Botocore's: standard, adaptive or legacy. None leaves it to the function, and is standard
        for an endpoint.
    """

    body: bytes
    content_type: str = "application/json"
    target_model: str | None = None
    max_attempts: int | None = None
    retry_mode: Literal["standard", "adaptive", "legacy"] | None = None


@dataclass(frozen=True)
class CallResult:
    """What one client got.

    Attributes
    ----------
    status
        Of the HTTP response; None where there was none.
    body
        The answer as text; an error as Lambda writes it, with errorMessage and errorType.
    outcome
        Whether it is an answer.
    retries
        How often botocore tried again; None where nobody tells.
    """

    status: int | None
    body: str
    outcome: Outcome
    retries: int | None


class Call(Protocol):
    """Somebody who can be asked by many clients."""

    @property
    def name(self) -> str:
        """``lambda`` or ``sagemaker``."""

    @property
    def title(self) -> str:
        """Who is asked, and how often again."""

    def check(self) -> None:
        """Raise an EndpointError when nobody can be asked."""

    def client_maker(self) -> Callable[[], Any]:
        """Return a function that makes boto3 clients."""

    def ask(self, client: Any) -> CallResult:
        """Ask once; whatever goes wrong is in the result."""


@dataclass(frozen=True)
class LambdaCall:
    """Asks a function such as that of ``infrastructure/lambda``, which asks an endpoint.

    Parameters
    ----------
    function
        Its name or ARN.
    endpoint
        The endpoint that it shall ask, unless its own variable ENDPOINT_NAME says.
    """

    settings: Settings
    function: str
    request: CallRequest
    endpoint: str | None = None
    name: str = "lambda"

    @property
    def title(self) -> str:
        """Who is asked, and how often again."""
        attempts = self.request.max_attempts
        how = "retries as it is set" if attempts is None else f"at most {attempts} retries"
        return f"function {self.function}, {how}"

    def check(self) -> None:
        """Say before anybody calls that nobody would be answered.

        Raises
        ------
        EndpointError
            The function does not exist, or AWS cannot be reached.
        """
        # DryRun asks for no more than leave to invoke, which whoever calls the function has to
        # have.
        client = self.settings.client("lambda")
        _try(
            lambda: client.invoke(FunctionName=self.function, InvocationType="DryRun"),
            self.settings,
            self.function,
        )

    def client_maker(self) -> Callable[[], Any]:
        """Return a function that makes clients, which do not try again: that is the function's."""
        return self.settings.client_maker(
            "lambda", **_config({"total_max_attempts": 1, "mode": "standard"})
        )

    def ask(self, client: Any) -> CallResult:
        """Invoke the function and wait for its answer."""
        try:
            response = client.invoke(FunctionName=self.function, Payload=self._event())
            body = response["Payload"].read().decode("utf-8", "replace")
        except Exception as error:  # noqa: BLE001 - a row of the table, whatever it is
            return _refused(error)
        status = response["StatusCode"]
        # Lambda answers 200 for a handler that raised, too.
        if "FunctionError" in response:
            return CallResult(status, body, _outcome_of(body), None)
        return CallResult(status, body, "answered", _retries_told(body))

    def _event(self) -> bytes:
        request = self.request
        event = {
            "body": base64.b64encode(request.body).decode(),
            "isBase64Encoded": True,
            "content_type": request.content_type,
            "endpoint": self.endpoint,
            "target_model": request.target_model,
            "max_attempts": request.max_attempts,
            "retry_mode": request.retry_mode,
        }
        said = {name: value for name, value in event.items() if value is not None}
        return json.dumps(said).encode()


@dataclass(frozen=True)
class EndpointCall:
    """Asks an endpoint itself.

    Parameters
    ----------
    endpoint
        Its name.
    """

    settings: Settings
    endpoint: str
    request: CallRequest
    name: str = "sagemaker"

    @property
    def title(self) -> str:
        """Who is asked, and how often again."""
        return f"endpoint {self.endpoint}, at most {self.request.max_attempts or 0} retries"

    def check(self) -> None:
        """Say before anybody calls that nobody would be answered.

        Raises
        ------
        EndpointError
            The endpoint does not exist or is not in service, or AWS cannot be reached.
        """
        client = self.settings.client("sagemaker")
        described = _try(
            lambda: client.describe_endpoint(EndpointName=self.endpoint),
            self.settings,
            self.endpoint,
        )
        status = described.get("EndpointStatus", "InService")
        if status not in ("InService", "Updating", "RollingBack"):
            remedy = "Wait until it is in service."
            raise EndpointError(f"The endpoint is {status}.", where=self.endpoint, remedy=remedy)

    def client_maker(self) -> Callable[[], Any]:
        """Return a function that makes clients, which try again as often as the request says."""
        request = self.request
        # max_attempts is what follows the first try; total_max_attempts, as above, counts that too.
        retries = {
            "max_attempts": request.max_attempts or 0,
            "mode": request.retry_mode or "standard",
        }
        return self.settings.client_maker("sagemaker-runtime", **_config(retries))

    def ask(self, client: Any) -> CallResult:
        """Invoke the endpoint and wait for its answer."""
        request = self.request
        target = {"TargetModel": request.target_model} if request.target_model else {}
        try:
            response = client.invoke_endpoint(
                EndpointName=self.endpoint,
                Body=request.body,
                ContentType=request.content_type,
                **target,
            )
            body = response["Body"].read().decode("utf-8", "replace")
        except Exception as error:  # noqa: BLE001 - a row of the table, whatever it is
            return _refused(error)
        metadata = response["ResponseMetadata"]
        return CallResult(
            metadata["HTTPStatusCode"], body, "answered", metadata.get("RetryAttempts", 0)
        )


def endpoint_of(settings: Settings, function: str) -> str | None:
    """Return the endpoint that a function asks by itself; None where it is not told."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = settings.client("lambda")
    try:
        found = client.get_function_configuration(FunctionName=function)
    except (BotoCoreError, ClientError):  # who may only invoke may not look; the call says the rest
        return None
    name = found.get("Environment", {}).get("Variables", {}).get("ENDPOINT_NAME")
    return None if name is None else str(name)


def _config(retries: dict[str, Any]) -> dict[str, Any]:
    return {
        "retries": retries,
        "read_timeout": _PATIENCE_S,
        "connect_timeout": _PATIENCE_S,
        "max_pool_connections": 1,
    }


def _try(ask: Callable[[], Any], settings: Settings, where: str) -> dict[str, Any]:
    from botocore.exceptions import BotoCoreError, ClientError

    remedy: str | None
    try:
        return dict(ask())
    except ClientError as error:
        if "AccessDenied" in error.response["Error"]["Code"]:
            return {}  # it may still be asked
        remedy = "See that it is there, in the region and on the target that are set."
        raise EndpointError(str(error), where=where, remedy=remedy) from error
    except BotoCoreError as error:
        remedy = "Start the local endpoint: mme up." if settings.target == "local" else None
        raise EndpointError(str(error), where=where, remedy=remedy) from error


def _refused(error: Exception) -> CallResult:
    response: dict[str, Any] = getattr(error, "response", {})
    metadata = response.get("ResponseMetadata", {})
    code = str(response.get("Error", {}).get("Code", type(error).__name__))
    body = json.dumps({"errorMessage": str(error), "errorType": code}, ensure_ascii=False)
    outcome: Outcome = "throttled" if code in _THROTTLED else "failed"
    return CallResult(metadata.get("HTTPStatusCode"), body, outcome, metadata.get("RetryAttempts"))


def _outcome_of(body: str) -> Outcome:
    """Say of a function's error whether it was throttled: it tells what it got in a sentence."""
    return "throttled" if any(f"({code})" in body for code in _THROTTLED) else "failed"


def _retries_told(body: str) -> int | None:
    try:
        told = json.loads(body).get("retries")
    except (ValueError, AttributeError):  # a function that answers something else
        return None
    return told if isinstance(told, int) else None
