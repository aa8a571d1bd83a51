"""Where a stack's resources are made: clients of this very service, and what its work may wait for.

Resources are made by boto3 over the loopback, so that a template's resources are checked, run and
written down exactly as if a client had made them.
"""

from __future__ import annotations

import hashlib
import json
import string
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from mmekit_local.aws.cloudformation.stack import ResourceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmekit_local.aws.cloudformation.stack import Resource, Stack

__all__ = ["Clients", "StackContext"]

_ABSENT = ("notfound", "nosuch", "could not find", "does not exist", "not found")
_LETTERS = string.ascii_uppercase + string.digits
_SUFFIX = 12
_PAUSE_S = 0.1
_READ_S = 330.0
"""A custom resource's function may take five minutes."""


class Clients:
    """boto3's clients of this service, made when they are first needed.

    Parameters
    ----------
    url
        Of this service.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        # Whoever runs the service may have a profile: these clients want none.
        ignored = ("profile", "config_file", "credentials_file")
        session = botocore.session.Session(session_vars=dict.fromkeys(ignored, (None,) * 4))
        self._session = boto3.Session(botocore_session=session)
        self._clients: dict[tuple[str, str, str], Any] = {}
        self._making = threading.Lock()

    def client(self, service: str, region: str, access_key: str) -> Any:
        """Return a client that speaks for whoever has the access key."""
        key = (service, region, access_key)
        # Clients may be used by several threads at once, the session that makes them may not.
        with self._making:
            if key not in self._clients:
                self._clients[key] = self._session.client(
                    service,  # type: ignore[call-overload]
                    region_name=region,
                    endpoint_url=self._url,
                    aws_access_key_id=access_key,
                    aws_secret_access_key="local",  # noqa: S106
                    config=Config(
                        # Once: a creation tried again would find what it has made, and be refused
                        # for it.
                        retries={"total_max_attempts": 1},
                        read_timeout=_READ_S,
                        proxies={},
                        s3={"addressing_style": "path"},
                    ),
                )
            return self._clients[key]


@dataclass
class StackContext:
    """Where one piece of work on one stack makes its resources.

    Attributes
    ----------
    withdraw
        Takes an endpoint away that is still being created, which DeleteEndpoint refuses.
    note
        Writes down what became of a resource of a stack.
    cancelled
        Set when the work shall end early.
    closing
        Set when the service ends.
    """

    account: str
    region: str
    stack_id: str
    stack_name: str
    access_key: str
    clients: Clients
    withdraw: Callable[[str], None]
    note: Callable[[str, Resource], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)

    def in_stack(self, stack: Stack) -> StackContext:
        """Return the context in which resources are a stack's."""
        return replace(self, stack_id=stack.id, stack_name=stack.name)

    def call(self, service: str, operation: str, **members: Any) -> dict[str, Any]:
        """Call an operation of AWS; values are made of the types that it wants.

        Raises
        ------
        ResourceError
            It is refused.
        """
        client = self.clients.client(service, self.region, self.access_key)
        shape = client.meta.service_model.operation_model(operation).input_shape
        given = _converted(shape, {k: v for k, v in members.items() if v is not None}, "")
        method = getattr(client, xform_name(operation))
        try:
            answer: dict[str, Any] = method(**given)
        except ClientError as error:
            found = error.response["Error"]
            raise ResourceError(f"{found.get('Message') or found.get('Code')}") from error
        except ParamValidationError as error:
            said = " ".join(str(error).split())
            raise ResourceError(f"Properties validation failed: {said}") from error
        except BotoCoreError as error:
            raise ResourceError(str(error)) from error
        return answer

    def remove(self, service: str, operation: str, **members: Any) -> None:
        """Call an operation that deletes; what is not there is deleted.

        Raises
        ------
        ResourceError
            It is refused.
        """
        try:
            self.call(service, operation, **members)
        except ResourceError as error:
            cause = error.__cause__
            code = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else ""
            if not any(word in f"{code} {error}".lower() for word in _ABSENT):
                raise

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, at most as long as the work is wanted.

        Raises
        ------
        ResourceError
            The work has been cancelled, or the service ends.
        """
        while not condition():
            self.go_on()
            time.sleep(_PAUSE_S)

    def go_on(self) -> None:
        """Raise when the work has been cancelled."""
        if self.cancelled.is_set():
            raise ResourceError("Resource creation cancelled")
        if self.closing.is_set():
            raise ResourceError("The endpoint service has ended.")

    def new_name(self, logical_id: str, properties: dict[str, Any], longest: int = 63) -> str:
        """Return a name for a resource, in the form that CloudFormation gives.

        The same stack's same resource with the same properties gets the same name: after a kill
        in the middle of its making it can be found.
        """
        seed = json.dumps([self.stack_id, logical_id, properties], sort_keys=True, default=str)
        digest = hashlib.sha256(seed.encode()).digest()
        suffix = "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:_SUFFIX])
        return f"{f'{self.stack_name}-{logical_id}'[: longest - _SUFFIX - 1]}-{suffix}"


def _converted(shape: Any, value: Any, path: str) -> Any:
    """Return a template's value as an operation's shape wants it: templates know text only."""
    kind = "" if shape is None else shape.type_name
    if kind == "structure" and isinstance(value, dict):
        return {
            name: _converted(shape.members.get(name), item, f"{path}/{name}")
            for name, item in value.items()
        }
    if kind == "list" and isinstance(value, list):
        return [_converted(shape.member, item, path) for item in value]
    if kind == "map" and isinstance(value, dict):
        return {name: _converted(shape.value, item, path) for name, item in value.items()}
    convert = _SCALARS.get(kind)
    if convert is None or isinstance(value, (dict, list, bytes)):
        return value
    try:
        return convert(value)
    except (KeyError, ValueError, TypeError) as error:
        message = f"Properties validation failed: {value!r} at {path} is no {kind}"
        raise ResourceError(message) from error


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_SCALARS: dict[str, Callable[[Any], Any]] = {
    "boolean": lambda value: {"true": True, "false": False}[str(value).lower()],
    "double": float,
    "float": float,
    "integer": lambda value: int(str(value)),
    "long": lambda value: int(str(value)),
    "string": _text,
}
