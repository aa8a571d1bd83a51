"""Where moto's functions differ from AWS's in ways that matter here, set right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moto.awslambda.exceptions import InvalidParameterValueException
from moto.awslambda.models import LambdaFunction

from mmekit_local.aws.functions.source import zip_error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["correct_functions"]


def correct_functions(begin: Callable[[Any, bytes], None]) -> None:
    """Refuse code that cannot be a function's, as AWS does; a second time does no harm.

    Parameters
    ----------
    begin
        Runs a function, of which it gets moto's record, with an event: what a topic, a queue, a
        bucket or a log has for it. moto would ask Docker, and say nothing where there is none.
    """

    def invoke(function: Any, event: Any = None) -> tuple[str, bool, str]:
        content = json.loads(event) if isinstance(event, str) else event
        begin(function, json.dumps(content or {}).encode())
        return "null", False, ""

    setattr(LambdaFunction, "_invoke_lambda", invoke)  # noqa: B010
    if not hasattr(LambdaFunction, "_mmekit_set_code"):
        setattr(LambdaFunction, "_mmekit_set_code", LambdaFunction._set_function_code)  # noqa: B010, SLF001
        setattr(LambdaFunction, "_set_function_code", _set_code)  # noqa: B010


def _set_code(function: Any, spec: dict[str, Any]) -> None:
    before = {name: getattr(function, name, None) for name in _CODE}
    function._mmekit_set_code(spec)  # noqa: SLF001 - set above
    if function.package_type != "Zip":
        return
    code = function.code_bytes
    if not code and "S3Key" in spec:
        message = (
            "Error occurred while GetObject. S3 Error Code: NoSuchKey. "
            "S3 Error Message: The specified key does not exist."
        )
    else:
        message = zip_error(code) or ""
    if message:
        for name, value in before.items():
            setattr(function, name, value)
        raise InvalidParameterValueException(message)


_CODE = ("code_bytes", "code_size", "code_sha_256", "code_digest")
