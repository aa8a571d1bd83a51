"""Inside a function's process: calls the handler and answers as AWS's Python runtime does.

Run by the template process in a process that has just been forked; the standard library alone.
Source of what is imitated: AWS's ``awslambdaric``, the Python runtime interface client, its
``bootstrap.py``. Where Linux gives a mount namespace of its own, to everybody or to nobody but
root, the code is at /var/task, where LAMBDA_TASK_ROOT says.
"""

from __future__ import annotations

import contextlib
import ctypes
import decimal
import importlib
import json
import logging
import os
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

__all__ = ["TASK_ROOT", "can_mount", "flush", "mount", "receive", "run"]

_LENGTH = struct.Struct(">I")
TASK_ROOT = "/var/task"
_RUNTIME_ROOT = "/var/runtime"
_INDENT = "\u00a0"  # as AWS's log has it, where blanks at a line's start would be lost

_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000  # sched.h
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18  # mount.h
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class RuntimeFault(Exception):  # noqa: N818 - AWS's word
    """What AWS's runtime itself objects to.

    Parameters
    ----------
    kind
        What errorType says.
    message
        What errorMessage says.
    trace
        What stackTrace says.
    """

    def __init__(self, kind: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.trace = trace or []


class LambdaContext:
    """What a handler gets as its second argument."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._deadline = time.monotonic() + spec["timeout"]
        self.aws_request_id: str = spec["request_id"]
        self.function_name: str = spec["name"]
        self.function_version: str = spec["version"]
        self.invoked_function_arn: str = spec["arn"]
        self.memory_limit_in_mb: str = spec["environment"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]
        self.log_group_name: str = spec["environment"]["AWS_LAMBDA_LOG_GROUP_NAME"]
        self.log_stream_name: str = spec["environment"]["AWS_LAMBDA_LOG_STREAM_NAME"]
        self.identity = None
        self.client_context = None

    def get_remaining_time_in_millis(self) -> int:
        """Return how many milliseconds are left before the function is ended."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def receive(channel: socket.socket) -> dict[str, Any]:
    """Read the one message that describes the invocation."""
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size))
    described: dict[str, Any] = json.loads(_exactly(channel, length))
    return described


def run(spec: dict[str, Any], channel: socket.socket) -> None:
    """Import the handler, call it, and send what came of it.

    Two messages go back: that the handler is there, or why not; then the handler's answer, or what
    it raised. Each is a length of four bytes and JSON.
    """
    root: str = spec["root"]
    _set_up(spec)
    try:
        handler = _handler(spec["handler"])
    except Exception as error:  # noqa: BLE001 - whatever the module raises
        _fail(channel, error, spec["request_id"], root)
        return
    _send(channel, {"ready": True})
    context = LambdaContext(spec)  # from here the time limit counts
    try:
        answer = handler(json.loads(spec["event"]), context)
        marshalled = _marshalled(answer)
    except Exception as error:  # noqa: BLE001 - whatever the handler raises
        _fail(channel, error, spec["request_id"], root)
        return
    flush()
    _send(channel, {"answer": marshalled})


def _set_up(spec: dict[str, Any]) -> None:
    os.environ.clear()
    root = spec["root"]
    os.environ.update(spec["environment"], LAMBDA_TASK_ROOT=root)
    time.tzset()
    os.chdir(root)
    # As Python has it, and the runtime before that: PYTHONPATH is no reserved variable.
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = [root, *(os.path.abspath(_found(path, root)) for path in given)]  # noqa: PTH100
    for path in paths:
        _unload_shadowed(path)
    sys.path[:0] = paths
    sys.argv = [""]
    handler = logging.StreamHandler(sys.stdout)
    handler.terminator = ""
    formatter = logging.Formatter(
        f"[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t{spec['request_id']}\t%(message)s\n",
        "%Y-%m-%dT%H:%M:%S",
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.getLogger().addHandler(handler)


def _found(path: str, root: str) -> str:
    """Return where a path below /var/task is, on a machine that has no such folder."""
    below = path == TASK_ROOT or path.startswith(f"{TASK_ROOT}/")
    return root + path[len(TASK_ROOT) :] if below else path


def _unload_shadowed(root: str) -> None:
    """Let a library in the archive, such as a newer boto3, be imported in place of ours."""
    if not Path(root).is_dir():
        return
    brought = {path.name.partition(".")[0] for path in Path(root).iterdir()}
    known = sys.stdlib_module_names | {__name__, "__main__"}
    for name in list(sys.modules):
        top = name.partition(".")[0]
        if top in brought and top not in known:
            del sys.modules[name]


def _handler(name: str) -> Callable[[Any, LambdaContext], Any]:
    try:
        module_name, function_name = name.rsplit(".", 1)
    except ValueError as error:
        kind = "Runtime.MalformedHandlerName"
        raise RuntimeFault(kind, f"Bad handler '{name}': {error}") from None
    if module_name.split(".")[0] in sys.builtin_module_names:
        kind = "Runtime.BuiltInModuleConflict"
        raise RuntimeFault(kind, f"Cannot use built-in module {module_name} as a handler module")
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        kind = "Runtime.ImportModuleError"
        raise RuntimeFault(kind, f"Unable to import module '{module_name}': {error}") from None
    except SyntaxError as error:
        trace = [f'  File "{error.filename}" Line {error.lineno}\n    {error.text}']
        kind = "Runtime.UserCodeSyntaxError"
        raise RuntimeFault(
            kind, f"Syntax error in module '{module_name}': {error}", trace
        ) from None
    try:
        handler: Callable[[Any, LambdaContext], Any] = getattr(module, function_name)
    except AttributeError:
        message = f"Handler '{function_name}' missing on module '{module_name}'"
        raise RuntimeFault("Runtime.HandlerNotFound", message) from None
    return handler


def _marshalled(answer: Any) -> str:
    try:
        return json.dumps(answer, ensure_ascii=False, default=_plain)
    except Exception as error:  # noqa: BLE001 - whatever an object of the user's raises
        raise RuntimeFault("Runtime.MarshalError", f"Unable to marshal response: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _fail(channel: socket.socket, error: Exception, request_id: str, root: str) -> None:
    if isinstance(error, RuntimeFault):
        kind, trace = error.kind, error.trace
    else:
        kind = type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)
        ours = (__file__, importlib.__file__, "<frozen importlib")
        own = [frame for frame in frames if not frame.filename.startswith(ours)]
        trace = traceback.format_list(own)
    shown = {
        "errorMessage": str(error).replace(root, TASK_ROOT),
        "errorType": kind,
        "requestId": request_id,
        "stackTrace": [_as_on_aws(entry, root) for entry in trace],
    }
    lines = [f"[ERROR] {kind}: {shown['errorMessage']}", "Traceback (most recent call last):"]
    for entry in shown["stackTrace"]:
        for line in entry.splitlines():
            text = line.lstrip(" ")
            lines.append(_INDENT * (len(line) - len(text)) + text)
    flush()
    _send(channel, {"error": json.dumps(shown, ensure_ascii=False), "log": "\n".join([*lines, ""])})


def _as_on_aws(entry: str, root: str) -> str:
    """Let an entry of a trace name the folders that AWS's environments have."""
    entry = entry.replace(root, TASK_ROOT)
    botocore = sys.modules.get("botocore")
    if botocore is None or botocore.__file__ is None:
        return entry
    return entry.replace(str(Path(botocore.__file__).parents[1]), _RUNTIME_ROOT)


def flush() -> None:
    """Write out what the handler has printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the handler may have closed it
            stream.flush()


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    channel.sendall(_LENGTH.pack(len(body)) + body)


def _exactly(channel: socket.socket, count: int) -> bytes:
    pieces = []
    while count:
        piece = channel.recv(min(count, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def can_mount(folder: Path) -> bool:
    """Whether processes of this one may see their code there: tried once, by one that ends."""
    if _libc is None:
        return False
    process = os.fork()
    if process == 0:
        status = 1
        with contextlib.suppress(BaseException):
            mount(str(folder))
            status = 0 if Path(TASK_ROOT).samefile(folder) else 1
        os._exit(status)
    _, status = os.waitpid(process, 0)
    return status == 0


def mount(root: str) -> None:
    """Let this process, and what it starts, see a folder at /var/task, read-only as AWS has it.

    Raises
    ------
    OSError
        The kernel does not allow it. The process is not to be used then.
    """
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NEW_MOUNTS | (_NEW_USER if user else 0))
    if user:
        # Else the kernel takes no gid_map of who is not root (user_namespaces(7)).
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # Where / is shared, as systemd has it, the machine itself would see what is mounted here.
    _mount("none", "/", _RECURSIVE | _PRIVATE)
    # It may lie below the folder that is about to be hidden.
    source = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    if not Path(TASK_ROOT).is_dir():
        _make_place(Path(TASK_ROOT))
    _mount(f"/proc/self/fd/{source}", TASK_ROOT, _BIND)
    os.close(source)
    # Once more, since the call that binds does not heed read-only (mount(2)).
    _mount("none", TASK_ROOT, _REMOUNT | _BIND | _READ_ONLY)


def _make_place(place: Path) -> None:
    """Make a folder in another that is not ours to write to: in a copy, with all that it has."""
    parent = place.parent
    before = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    _mount("tmpfs", str(parent), 0, "tmpfs")
    for name in os.listdir(before):  # noqa: PTH208 - of a folder that is hidden by now
        old, new = Path(f"/proc/self/fd/{before}/{name}"), parent / name
        if old.is_symlink():
            new.symlink_to(old.readlink())
        elif old.is_dir():
            new.mkdir()
            _mount(str(old), str(new), _BIND | _RECURSIVE)
    place.mkdir()
    os.close(before)


def _mount(source: str, target: str, flags: int, kind: str = "none") -> None:
    _call("mount", source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
