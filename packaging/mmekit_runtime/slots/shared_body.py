"""A body that many models share: loaded once, in a template process, before theirs are forked.

Models share one only when everything is the same that could make a difference: the runtime and
the libraries (those of the fork server and its template process), the shared files, the code beside
model.py, and the environment. The code runs from a copy in which nothing else of a model's folder
is, and is forgotten when the body has been loaded: a model process imports its own.
"""

from __future__ import annotations

import importlib
import os
import sys
from _blake2 import blake2b
from dataclasses import asdict, dataclass

from mmekit_runtime.layers import SHARED_FOLDER_VARIABLE
from mmekit_runtime.slots.keys import VARYING_VARIABLES, library_paths
from mmekit_runtime.slots.stub import option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType
    from typing import Any

_MARK = "~body "  # no module's name, and sorted behind all of them
_NOT_THE_MODELS = frozenset({"__pycache__", "layers", "mmekit_layers", "mmekit_runtime"})
_DIGEST_BYTES = 16
_MOST_CODE_BYTES = 32 << 20

_loaded: dict[str, LoadedBody] = {}


class CannotShare(Exception):  # noqa: N818
    """The body is in this process now, and must not be forked with it; the text says why."""


class LoadedBody:
    """What load_shared has returned, and what it has set in the environment."""

    def __init__(self, shared: Any, environ: dict[str, str | None]) -> None:
        self.shared = shared
        self._environ = environ

    def set_environment(self) -> None:
        """Do to this process's environment what load_shared has done in its parent."""
        for name, value in self._environ.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_body(name: str) -> bool:
    """Whether one of a template process's imports stands for a body, and not for a module."""
    return name.startswith(_MARK)


@dataclass(frozen=True)
class SharedBody:
    """A body, by all that it is made of.

    Attributes
    ----------
    token
        Its name among the imports of a template process: equal for models that may share it.
    folder
        The shared files.
    model_dir
        The folder of a model that has the code.
    entry_point, engine
        The file that has the handler; the folder of DJL's engine.
    environ
        What it is loaded in.
    """

    token: str
    folder: str
    model_dir: str
    entry_point: str
    engine: str
    environ: dict[str, str]

    @classmethod
    def of_worker(
        cls, argv: Sequence[str], environ: Mapping[str, str], model_dir: str
    ) -> SharedBody | None:
        """Return what a worker's model shares; None where that is nothing, or cannot be told."""
        folder = environ.get(SHARED_FOLDER_VARIABLE)
        if not folder:
            return None
        entry_point = option(list(argv), "--entry-point") or "model.py"
        engine = os.path.dirname(argv[0])  # noqa: PTH120  pathlib is not for the fork server
        body = cls("", folder, model_dir, entry_point, engine, dict(environ))
        try:
            return cls(body.fresh_token(), folder, model_dir, entry_point, engine, dict(environ))
        except (OSError, ValueError):
            return None

    def fresh_token(self) -> str:
        """Return the token, from the files as they are now.

        Raises
        ------
        OSError, ValueError
            The code cannot be read, or nobody writes as much.
        """
        digest = blake2b(digest_size=_DIGEST_BYTES)
        environ = {
            name: value
            for name, value in self.environ.items()
            if name not in VARYING_VARIABLES and name != "PYTHONPATH"
        }
        paths = library_paths(self.environ, self.model_dir)
        made_of = (self.folder, self.entry_point, self.engine, paths, sorted(environ.items()))
        digest.update(repr(made_of).encode("utf-8", "surrogateescape"))
        for name, code in _code(self.model_dir):
            digest.update(f"\0{name}\0{len(code)}\0".encode("utf-8", "surrogateescape"))
            digest.update(code)
        return _MARK + digest.hexdigest()

    def as_message(self) -> dict[str, Any]:
        """Return it for a template process, which makes another of it."""
        return asdict(self)

    def load(self) -> None:
        """Load the body in this process, from which others will be forked.

        Raises
        ------
        CannotShare
            Something is left that a fork would not have, or would have in common with this process.
        Exception
            Whatever load_shared has raised: it could not be loaded.
        """
        before = _Traces()
        try:
            body = self._load_shared()
        except BaseException as error:
            # Also of one that failed: models would be forked with what it has left.
            if problem := before.problem():
                raise CannotShare(problem) from error
            raise
        if problem := before.problem():
            raise CannotShare(problem)
        _loaded[self.token] = body

    def _load_shared(self) -> LoadedBody:
        from pathlib import Path
        from tempfile import TemporaryDirectory

        with TemporaryDirectory(prefix="mmekit-body-") as scratch:
            code = os.path.realpath(scratch)
            self._copy_code(code)
            place = os.getcwd(), list(sys.path), dict(os.environ)  # noqa: PTH109
            libraries = library_paths(self.environ, self.model_dir)
            # Not the model's folder, which is not that of the others.
            paths = {"PYTHONPATH": os.pathsep.join([*libraries, code])}
            before = {**self.environ, **paths}
            os.environ.clear()
            os.environ.update(before)
            sys.path[:] = [self.engine, *libraries, code, *sys.path]
            os.chdir(code)
            try:
                handler = _handler(self._entry_module(code))
                kept = _Kept(handler, code)
                body = handler.load_shared(Path(self.folder))
                if kept.has_changed():
                    # Which goes with the handler and the modules: models would lack it.
                    raise CannotShare("keeps something beside what it returns")
                names = {*before, *os.environ}
                changed = {one for one in names if os.environ.get(one) != before.get(one)}
                return LoadedBody(body, {one: os.environ.get(one) for one in changed})
            finally:
                os.chdir(place[0])
                sys.path[:] = place[1]
                os.environ.clear()
                os.environ.update(place[2])
                forget_modules(code)

    def _entry_module(self, code: str) -> ModuleType:
        importlib.invalidate_caches()
        if not self.entry_point.endswith(".py"):
            return importlib.import_module(self.entry_point)
        from importlib.util import module_from_spec, spec_from_file_location

        name = self.entry_point.removesuffix(".py").replace("/", ".")
        spec = spec_from_file_location(name, os.path.join(code, self.entry_point))  # noqa: PTH118
        assert spec is not None  # noqa: S101  a file that ends with .py has one
        assert spec.loader is not None  # noqa: S101
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def _copy_code(self, target: str) -> None:
        for name, code in _code(self.model_dir):
            file = os.path.join(target, name)  # noqa: PTH118
            os.makedirs(os.path.dirname(file), exist_ok=True)  # noqa: PTH103, PTH120
            with open(file, "wb") as stream:  # noqa: PTH123
                stream.write(code)
        if self.fresh_token() != self.token:
            raise ValueError("the code beside model.py has changed since it was looked at")


def loaded(token: str) -> LoadedBody | None:
    """Return what was loaded in the process that this one was forked from."""
    return _loaded.get(token)


def _handler(module: ModuleType) -> Any:
    from mmekit_runtime.handler import Handler

    handler = getattr(module, "handle", None)
    if not isinstance(handler, Handler) or not handler.shares():
        raise TypeError("model.py has no handler with a load_shared of its own")
    return handler


def _code(model_dir: str) -> Iterator[tuple[str, bytes]]:
    """Yield the Python files of a model's folder, its own alone, in the order of their names."""
    left = _MOST_CODE_BYTES
    for folder, folders, files in os.walk(model_dir):
        at = os.path.relpath(folder, model_dir)
        folders[:] = sorted(name for name in folders if at != "." or name not in _NOT_THE_MODELS)
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        for name in sorted(files):
            if not name.endswith(".py"):
                continue
            with open(os.path.join(folder, name), "rb") as stream:  # noqa: PTH118, PTH123
                code = stream.read(left + 1)
            left -= len(code)
            if left < 0:
                raise ValueError(f"more than {_MOST_CODE_BYTES >> 20} MiB of code")
            yield os.path.normpath(os.path.join(at, name)), code  # noqa: PTH118


def forget_modules(code: str) -> None:
    """Have the modules that came from a folder imported anew by whoever asks for them next."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        try:
            paths = [str(path) for path in getattr(module, "__path__", ())]
        except Exception:  # noqa: BLE001  a module may be any object, and answer anything
            paths = []
        if any(path == code or path.startswith(code + os.sep) for path in (str(file), *paths)):
            del sys.modules[name]
    for path in list(sys.path_importer_cache):
        if path == code or path.startswith(code + os.sep):
            del sys.path_importer_cache[path]


class _Kept:
    """What a handler and the modules of the model's code hold, before load_shared is called."""

    def __init__(self, handler: Any, code: str) -> None:
        self._handler = handler
        self._code = code
        self._before = self._now()

    def has_changed(self) -> bool:
        """Whether one of them holds something else now. What is within an object is not looked at.

        A module that load_shared has imported itself counts for nothing: load would import it, too.
        """
        now = self._now()
        return any(now[where] != held for where, held in self._before.items() if where in now)

    def _now(self) -> dict[str, dict[str, int]]:
        handler = self._handler
        found = {
            "handler": _identities(vars(handler)),
            "class": _identities(vars(type(handler))),
        }
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            if str(file).startswith(self._code + os.sep):
                found[f"module {name}"] = _identities(vars(module))
        return found


def _identities(held: Mapping[str, Any]) -> dict[str, int]:
    # Modules that a function imports appear in a package, and that it was imported is no state.
    return {name: id(one) for name, one in held.items() if not isinstance(one, type(sys))}


class _Traces:
    """What a fork has in common with its parent, or lacks: as it was before a body was loaded."""

    def __init__(self) -> None:
        self._descriptors = _descriptors()
        self._mappings = _shared_mappings()

    def problem(self) -> str | None:
        """Say what is there now that must not be forked."""
        # Threads are counted after everything that a template process imports.
        left_open = [where for fd, where in _descriptors().items() if fd not in self._descriptors]
        if left_open:
            return f"leaves files open ({', '.join(sorted(left_open)[:3])})"
        # A page of such a mapping is one for parent and children: one model would see what another
        # has written.
        found = _shared_mappings()
        shared = [where for at, where in found.items() if at not in self._mappings]
        if shared:
            return f"maps memory that processes write to together ({shared[0]})"
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123
                return "has started a process" if file.read().split() else None
        except OSError:  # of a kernel that was built without that file
            return None


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
        except OSError:  # that of the listing itself
            continue
    return found


def _shared_mappings() -> dict[str, str]:
    """Return what each is of, by its addresses: all that is anonymous has one name."""
    with open("/proc/self/maps", errors="replace") as maps:  # noqa: PTH123
        lines = [line.split(None, 5) for line in maps]
    return {line[0]: line[-1].strip() for line in lines if line[1][1] == "w" and line[1][3] == "s"}
