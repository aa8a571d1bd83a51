"""Runs when Python starts in a rehearsal, where PYTHONPATH names this folder.

Whatever Python it is, from 3.7: a command has an environment of its own, with neither mmekit nor a
botocore of our choice in it. So this needs nothing, imports next to nothing, and changes botocore
and its like when the program imports them. What it does:

- SageMaker's SDKs name the address of STS themselves, in ``default_bucket()``, ``account_id()``
  and ``get_execution_role()``. Clients of STS that are made so are sent to the rehearsal.
- Whoever asks for another endpoint by itself is told so, in a line on standard error.
- A botocore that does not read AWS_ENDPOINT_URL (before 1.31) is told where the rehearsal is.
- SageMaker's SDKs report their use to nobody.

Another sitecustomize, of the environment or of an archive, runs as it would without this one.
"""  # noqa: INP001 - a folder for PYTHONPATH

from __future__ import annotations

import os
import sys

# typing would be imported at every start of Python otherwise.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_HERE = os.environ.get("MMEKIT_REHEARSAL") or os.environ.get("AWS_ENDPOINT_URL") or ""
_URL = 5  # the place of endpoint_url among create_client's arguments
_told: set[tuple[str, int]] = set()


def _place(url: str) -> tuple[str, int]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:  # it is none, and botocore will say so
        return "", 0
    return (parts.hostname or "").lower(), port or (443 if parts.scheme == "https" else 80)


def _is_loopback(name: str) -> bool:
    return name in ("localhost", "::1") or name.endswith(".localhost") or name.startswith("127.")


def _is_here(url: str) -> bool:
    (name, port), (here, here_port) = _place(url), _place(_HERE)
    same = name == here or name.endswith("." + here)  # a bucket's name before it
    return port == here_port and (same or (_is_loopback(name) and _is_loopback(here)))


def _is_sts(url: str) -> bool:
    return _place(url)[0].startswith(("sts.", "sts-fips."))


def _is_of_sagemaker() -> bool:
    """Say whether SageMaker's SDK makes this client."""
    frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to look
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] == "sagemaker":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _tell(url: str, what: str) -> None:
    place = _place(url)
    if place in _told:
        return
    _told.add(place)
    shown = url.partition("?")[0]  # a presigned URL opens what it names
    try:
        sys.stderr.write(
            f"mme: this program asks for {shown} by itself, and not for the rehearsal at {_HERE}: "
            f"{what}\n"
        )
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # nobody reads it
        pass


def _change_clients(module: ModuleType, owner: Any) -> None:
    """Look at the endpoints that clients are made for."""
    from functools import wraps

    create = owner.create_client
    package = module.__name__.rpartition(".")[0].replace("aiobotocore", "botocore")
    settings = sys.modules.get(package + ".configprovider")
    reads_variable = hasattr(settings, "ConfiguredEndpointProvider")

    @wraps(create)
    def create_client(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = list(args)
        service = given[0] if given else kwargs.get("service_name")
        asked = given[_URL] if len(given) > _URL else kwargs.get("endpoint_url")
        url = asked
        if asked is None:
            url = None if reads_variable else os.environ.get("AWS_ENDPOINT_URL")
        elif service == "sts" and _is_sts(asked) and not _is_here(asked):
            url = _HERE
            if not _is_of_sagemaker():
                _tell(asked, "the rehearsal answers all the same.")
        elif not _is_here(asked):
            _tell(asked, f"its requests to {service} leave it.")
        if len(given) > _URL:
            given[_URL] = url
        elif url is not asked:
            kwargs["endpoint_url"] = url
        return create(self, *given, **kwargs)

    owner.create_client = create_client


def _change_requests(owner: Any) -> None:
    """Look at where requests go."""
    from functools import wraps

    send_on = owner.send

    @wraps(send_on)
    def send(self: Any, request: Any) -> Any:
        if not _is_here(request.url):
            _tell(request.url, "this request leaves it.")
        return send_on(self, request)

    owner.send = send


def _change_reports(module: Any) -> None:
    if hasattr(module, "_requests_helper"):
        module._requests_helper = lambda *_, **__: None  # noqa: SLF001 - its only request


_CHANGES: dict[str, Callable[[Any], None]] = {
    "botocore.session": lambda module: _change_clients(module, module.Session),
    "botocore.httpsession": lambda module: _change_requests(module.URLLib3Session),
    "aiobotocore.session": lambda module: _change_clients(module, module.AioSession),
    "aiobotocore.httpsession": lambda module: _change_requests(module.AIOHTTPSession),
    "awscli.botocore.session": lambda module: _change_clients(module, module.Session),
    "awscli.botocore.httpsession": lambda module: _change_requests(module.URLLib3Session),
    "sagemaker.telemetry.telemetry_logging": _change_reports,
    "sagemaker.core.telemetry.telemetry_logging": _change_reports,
    "sagemaker.serve.utils.telemetry_logger": _change_reports,
}


class _Finder:
    """Finds what the others find, and has it changed once it has been run."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        change = _CHANGES.get(name)
        if change is None:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                _change_when_run(spec.loader, change)
                return spec
        return None


def _change_when_run(loader: Any, change: Callable[[Any], None]) -> None:
    run = getattr(loader, "exec_module", None)
    if run is None:
        return

    def exec_module(module: ModuleType) -> None:
        run(module)
        try:
            change(module)
        except AttributeError as error:  # of a version that nobody has tried
            sys.stderr.write(f"mme: {module.__name__} may leave the rehearsal: {error}\n")

    loader.exec_module = exec_module


def _install() -> None:
    for name, change in _CHANGES.items():
        if name in sys.modules:
            change(sys.modules[name])
    sys.meta_path.insert(0, _Finder())


def _hand_on() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    # What is found may hand on in turn, and then this file is run again.
    passed: set[str] = sys.__dict__.setdefault("_mmekit_passed", set())
    passed.add(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    others = [path for path in sys.path if os.path.abspath(path) not in passed]  # noqa: PTH100
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        passed.add(os.path.dirname(os.path.abspath(spec.origin or "")))  # noqa: PTH100, PTH120
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if _HERE and not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path):
    _install()
if __name__ == "sitecustomize":
    _hand_on()
