"""One request to an endpoint: its content type, what is wrong with it, and what else is there.

Whatever can be seen in the body is said before it is sent; an endpoint or a model that is not there
comes with the names of those that are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.archive.package import CONTENT_TYPES
from mmekit.deploy.account import code_of, remedy_of
from mmekit.deploy.release_files import read_releases
from mmekit.deploy.releases import CURRENT
from mmekit.deploy.target import is_there, models_place
from mmekit.deploy.whereabouts import choice, no_such_endpoint
from mmekit.errors import DeployError, EndpointError, MmekitError
from mmekit_runtime.media_types import ARROW, JSON, JSON_LINES, PARQUET, media_type

if TYPE_CHECKING:
    from mmekit.settings import Settings

__all__ = ["Invocation", "content_type_of", "invoke"]

# Besides what a sample request may be.
_FURTHER = {
    ".jpeg": "image/jpeg",
    ".ndjson": JSON_LINES,
    ".parquet": PARQUET,
    ".arrow": ARROW,
}
_MOST_KEYS = 10_000
_CLIENT = range(400, 500)


@dataclass(frozen=True)
class Invocation:
    """A request to one model of an endpoint.

    Attributes
    ----------
    endpoint, target
        Names of the endpoint and, under its prefix, of the archive.
    body, content_type
        What is sent.
    accept, custom_attributes
        The header of that name; None for none.
    source
        What errors call the body: its file.
    asked
        What a command calls the endpoint; empty for its name.
    """

    endpoint: str
    target: str
    body: bytes
    content_type: str
    accept: str | None = None
    custom_attributes: str | None = None
    source: str = "-"
    asked: str = ""

    @property
    def called(self) -> str:
        """What a command calls the endpoint."""
        return self.asked or self.endpoint

    def expect_sound(self) -> None:
        """Refuse what no header can be, and a body that is empty or not what its type says.

        Raises
        ------
        EndpointError
            Where in it the mistake is.
        """
        self._expect_headers()
        if not self.body:
            raise EndpointError(
                "The request body is empty, and nothing was sent",
                where=self.source,
                remedy="name a file with a request, such as the package's sample_request.json",
            )
        kind = media_type(self.content_type)[0]
        if kind == JSON or kind.endswith("+json"):
            self._expect_json(self.body, 0)
        elif kind == JSON_LINES:
            for number, line in enumerate(self.body.split(b"\n")):
                if line.strip():
                    self._expect_json(line, number)

    def _expect_headers(self) -> None:
        for option, value in (
            ("--target-model", self.target),
            ("--content-type", self.content_type),
            ("--accept", self.accept or ""),
            ("--custom-attributes", self.custom_attributes or ""),
        ):
            wrong = next((one for one in value if not " " <= one <= "~"), None)
            if wrong is not None:
                raise EndpointError(
                    f"{option} has the character {wrong!a}, and it is sent as a header, which is "
                    "printable ASCII. Nothing was sent",
                    where=f"{option} {value!a}",
                    remedy="leave that character out, or write it in ASCII",
                )

    def _expect_json(self, text: bytes, lines_before: int) -> None:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            place = f"line {lines_before + error.lineno}, column {error.colno}"
            problem = f"{error.msg} at {place}"
        except UnicodeDecodeError as error:
            problem = f"byte {error.start} is no {error.encoding}"
        except (RecursionError, ValueError):
            return  # for the model to judge
        else:
            return
        raise EndpointError(
            f"The body is not {self.content_type}: {problem}. Nothing was sent",
            where=self.source,
            remedy="correct it there, or say what it is with --content-type",
        )


def content_type_of(name: str | None, body: bytes) -> tuple[str, str]:
    """Return the content type of a body, and a note where it was not its file's name that told it.

    Parameters
    ----------
    name
        The file; None for standard input.

    Raises
    ------
    EndpointError
        Nothing tells it: it has to be given.

    Examples
    --------
    >>> content_type_of("rows.CSV", b"1,2")
    ('text/csv', '')
    >>> content_type_of(None, b'{"instances": [[1]]}')[0]
    'application/json'
    """
    known = {**CONTENT_TYPES, **_FURTHER}
    suffix = PurePath(name).suffix.lower() if name is not None else ""
    if suffix in known:
        return known[suffix], ""
    if body.lstrip()[:1] in (b"{", b"["):
        try:
            json.loads(body)
        except (ValueError, RecursionError):
            pass
        else:
            return JSON, f"sent as {JSON}, which the body is; --content-type says otherwise"
    what = "Standard input has no name" if name is None else f"The suffix {suffix!r} is unknown"
    raise EndpointError(
        f"{what}, and the content type cannot be told from it. Nothing was sent",
        where=name or "standard input",
        remedy=f"give --content-type, such as text/csv; known suffixes: {', '.join(sorted(known))}",
    )


def invoke(settings: Settings, invocation: Invocation) -> tuple[bytes, str]:
    """Send a request; return the body of the answer and its content type.

    Raises
    ------
    EndpointError
        There is no answer; it says why, and what can be done.
    """
    invocation.expect_sound()
    request = {
        "EndpointName": invocation.endpoint,
        "TargetModel": invocation.target,
        "Body": invocation.body,
        "ContentType": invocation.content_type,
        "Accept": invocation.accept,
        "CustomAttributes": invocation.custom_attributes,
    }
    where = f"{invocation.endpoint}, {invocation.target}"
    try:
        answer = settings.client("sagemaker-runtime").invoke_endpoint(
            **{name: value for name, value in request.items() if value}
        )
        return bytes(answer["Body"].read()), answer.get("ContentType") or ""
    except ClientError as error:
        raise _refused(settings, invocation, error) from error
    except BotoCoreError as error:
        said = str(error).replace("\n", " ")
        raise EndpointError(said, where=where, remedy=_unreached(settings, error)) from error


def _refused(settings: Settings, invocation: Invocation, error: ClientError) -> EndpointError:
    where = f"{invocation.endpoint}, {invocation.target}"
    code = code_of(error)
    if code == "ModelError":
        return _of_model(invocation, error)
    said = str(error.response.get("Error", {}).get("Message") or error)
    if code in ("ValidationError", "ValidationException"):
        try:
            missing = _missing(settings, invocation)
        except (ClientError, BotoCoreError, MmekitError):
            missing = None  # who may only invoke may not look around
        if missing is not None:
            return missing
    if code == "ValidationError" and "'body'" in said:
        remedy = "ask with fewer records in each request, or by a batch transform"
        return EndpointError(f"{code}: {said}", where=where, remedy=remedy)
    remedies = {
        "ModelNotReadyException": "it is still being loaded: ask again",
        "ThrottlingException": "ask again later, or give the endpoint more instances",
        "ServiceUnavailable": f"look whether an instance is there: mme top {invocation.called}",
    }
    remedy = remedies.get(code) or remedy_of(error, settings)
    return EndpointError(f"{code}: {said}", where=where, remedy=remedy)


def _of_model(invocation: Invocation, error: ClientError) -> EndpointError:
    """Show what the model itself has answered."""
    response: Any = error.response
    status, message = response.get("OriginalStatusCode"), response.get("OriginalMessage")
    if message is None:
        message = response.get("Error", {}).get("Message", "")
    logs = f"mme logs {invocation.called} --model {invocation.target}"
    if not status:
        return EndpointError(
            f"The model gave no answer: {message}",
            where=f"{invocation.endpoint}, {invocation.target}",
            remedy=f"look into its log: {logs}",
        )
    remedy = f"look into its log: {logs}"
    if int(status) in _CLIENT:
        remedy = "correct the request; mme describe ARCHIVE says what the model takes"
    return EndpointError(
        f"The model answered {status}: {_reason(str(message))}",
        where=f"{invocation.endpoint}, {invocation.target}",
        remedy=remedy,
    )


def _reason(message: str) -> str:
    try:
        content = json.loads(message)
    except (ValueError, RecursionError):
        return message.strip()
    if isinstance(content, dict):
        for name in ("error", "message"):
            if isinstance(content.get(name), str):
                return str(content[name])
    return message.strip()


def _missing(settings: Settings, invocation: Invocation) -> EndpointError | None:
    """Return the error for an endpoint or a model that is not there; None if both are."""
    pages = settings.client("sagemaker").get_paginator("list_endpoints").paginate()
    endpoints = [one["EndpointName"] for page in pages for one in page["Endpoints"]]
    if invocation.endpoint not in endpoints:
        return no_such_endpoint(settings, invocation.endpoint, endpoints)
    place = models_place(settings, invocation.endpoint)
    if place is None:
        return None
    bucket, prefix = place
    # By what is there, not by its name: a version's key is none of the names.
    if is_there(settings.client("s3"), bucket, prefix + invocation.target):
        return None
    names = _models(settings, bucket, prefix)
    if invocation.target in names:
        return None
    return EndpointError(
        f"There is no model {invocation.target} behind the endpoint {invocation.endpoint}",
        where=f"s3://{bucket}/{prefix}",
        remedy=choice(invocation.target, names, "model") or "upload one: mme deploy",
    )


def _models(settings: Settings, bucket: str, prefix: str) -> list[str]:
    """Return what an endpoint can be asked for: keys, and names that stand for a version."""
    s3 = settings.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, Prefix=prefix, PaginationConfig={"MaxItems": _MOST_KEYS}
    )
    keys = [one["Key"].removeprefix(prefix) for page in pages for one in page.get("Contents", ())]
    names = [key for key in keys if key.endswith(".tar.gz")]
    if CURRENT in keys:
        where = f"s3://{bucket}/{prefix}{CURRENT}"
        content = s3.get_object(Bucket=bucket, Key=prefix + CURRENT)["Body"].read()
        try:
            current = read_releases(content, where=where).models
        except DeployError:
            return names
        versions = {version.key for version in current.values()}
        names = sorted({*current, *(name for name in names if name not in versions)})
    return names


def _unreached(settings: Settings, error: Exception) -> str:
    from botocore.exceptions import (
        ConnectionClosedError,
        ConnectTimeoutError,
        EndpointConnectionError,
        ParamValidationError,
        ReadTimeoutError,
    )

    if isinstance(error, ParamValidationError):
        return "correct what it names; nothing was sent"
    if isinstance(error, ConnectionClosedError):
        return "ask again, and look into the service's log: it ended the connection"
    if isinstance(error, ReadTimeoutError):
        return "the model takes longer than the client waits: look into its log"
    is_unreached = isinstance(error, (EndpointConnectionError, ConnectTimeoutError))
    if settings.target == "local" and is_unreached:
        return (
            f"Start the local endpoint: mme up. Nothing listens at {settings.local_url}; "
            "MME_LOCAL_URL names another address"
        )
    if is_unreached:
        return f"see that this machine reaches AWS, and that {settings.region} is the region"
    return remedy_of(error, settings)
