"""DJL's own Python engine: where it is, and how it gets there.

DJL Serving starts ``djl_python_engine.py`` for every worker. The same files are inside the
artefact ``ai.djl.python:python`` on Maven Central, so the embedded server runs the real engine
without Java. The artefact's hash is pinned; its files are unpacked once into the user's cache.
Maven Central has none of 0.36: what that does otherwise when it loads a model's file (where it may
lie, what the module is called) is put in the place of 0.34's.

Run as a module, it fetches the engine and prints the folder: ``python -m mmekit.engine``.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

import platformdirs

from mmekit.errors import EngineError, MmekitError

ENGINE_VERSION = "0.34.0"
ENGINE_COORDINATES = f"ai.djl.python:python:{ENGINE_VERSION}"
ENGINE_SHA256 = "15f36119dcce8921225a7e189c9766401f4cd29a66eef08578e8a3be5a5da6c0"
ENGINE_SCRIPT = "djl_python_engine.py"
FOLDER_VARIABLE = "MMEKIT_DJL_PYTHON"

_LOADER = "djl_python/service_loader.py"
_EDITION = "b"  # another one where the files are changed otherwise
# What 0.34 has, and what does as 0.36: a file is loaded by its path, wherever it lies, under a name
# of its own, and anew each time. 0.34 imports it by its name from the model's folder.
_AS_OF_0_36 = (
    ('SourceFileLoader("model", entry_point).load_module()', "_load_file(entry_point)"),
    (
        """                entry_point = entry_point[:-3]
                if not os.path.exists(entry_point_file):
                    raise ValueError(
                        f"entry-point file not found {entry_point_file}.")

            module = importlib.import_module(entry_point)
""",
        """                if not os.path.exists(entry_point_file):
                    raise ValueError(
                        f"entry-point file not found {entry_point_file}.")
                module = _load_file(entry_point_file)
            else:
                module = importlib.import_module(entry_point)
""",
    ),
    (
        "def load_model_service(",
        '''def _load_file(path):
    """Changed by mmekit: loads a file as DJL Serving 0.36 does."""
    import hashlib
    import importlib.util
    import sys
    name = f"model_{hashlib.md5(path.encode(), usedforsecurity=False).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def load_model_service(''',
    ),
)

_FETCH_TIMEOUT_S = 60


def engine_folder() -> Path:
    """Return the folder that holds ``djl_python/`` and ``djl_python_engine.py``.

    ``MMEKIT_DJL_PYTHON`` names a folder to use instead of the pinned artefact. Without it the
    artefact is fetched on first use (0.6 MB) and unpacked atomically, so that several processes
    may ask at once.

    Raises
    ------
    EngineError
        The named folder is not an engine, the artefact could not be fetched, or its hash is not
        the pinned one.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        folder = Path(named).expanduser().resolve()
        if not (folder / ENGINE_SCRIPT).is_file():
            what = f"{FOLDER_VARIABLE} names no DJL Python engine: {ENGINE_SCRIPT} is missing"
            raise EngineError(
                what,
                where=str(folder),
                remedy=f"unset {FOLDER_VARIABLE}, or name a folder that has {ENGINE_SCRIPT}",
            )
        return folder
    cache = Path(platformdirs.user_cache_dir("mmekit"))
    folder = cache / f"djl-python-{ENGINE_VERSION}{_EDITION}"
    if not (folder / ENGINE_SCRIPT).is_file():
        _install(folder)
    return folder


def _install(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".engine-") as temporary:
            scratch = Path(temporary)
            jar = _fetch(scratch / "repository")
            staged = scratch / "staged"
            _unpack(jar, staged)
            _bring_up_to_date(staged / _LOADER)
            compileall.compile_dir(staged, quiet=2, legacy=False)
            _move_into_place(staged, folder)
    except OSError as error:
        what = f"DJL's Python engine could not be stored: {error.strerror or error}"
        raise EngineError(
            what,
            where=str(folder),
            remedy="free space on that disk, or set XDG_CACHE_HOME to a folder that can be written",
        ) from error


def _move_into_place(staged: Path, folder: Path) -> None:
    if folder.exists() and not (folder / ENGINE_SCRIPT).is_file():
        # A folder can be renamed onto an empty one only.
        shutil.rmtree(folder)
    try:
        staged.replace(folder)
    except OSError:
        # Another process was first: its copy has the same pinned content.
        if not (folder / ENGINE_SCRIPT).is_file():
            raise


def _fetch(repository: Path) -> Path:
    # jgo speaks Maven in pure Python; imported here because only the first run needs it.
    from jgo.maven import MavenContext

    try:
        context = MavenContext(repo_cache=repository, timeout=_FETCH_TIMEOUT_S)
        project = context.project("ai.djl.python", "python")
        jar = Path(project.at_version(ENGINE_VERSION).artifact().resolve())
    except OSError as error:
        # requests' exceptions are OSErrors too; only a full or read-only disk is not the network.
        if error.errno is not None:
            raise
        raise _unreachable(error) from error
    except RuntimeError as error:
        raise _unreachable(error) from error
    digest = hashlib.sha256(jar.read_bytes()).hexdigest()
    if digest != ENGINE_SHA256:
        what = f"{ENGINE_COORDINATES} has the SHA-256 {digest}, not the pinned {ENGINE_SHA256}"
        raise EngineError(what, remedy="fetch again over a connection that you trust")
    return jar


def _unreachable(error: Exception) -> EngineError:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return EngineError(
        f"{ENGINE_COORDINATES} could not be fetched from Maven Central: {first_line}",
        remedy="connect to the network and try again, or unpack the jar by hand and name the "
        f"folder in {FOLDER_VARIABLE}",
    )


def _unpack(jar: Path, staged: Path) -> None:
    with zipfile.ZipFile(jar) as archive:
        for member in archive.namelist():
            path = PurePosixPath(member)
            if path.parts[0] == "djl_python" or member == ENGINE_SCRIPT:
                archive.extract(member, staged)


def _bring_up_to_date(loader: Path) -> None:
    text = loader.read_text()
    for before, after in _AS_OF_0_36:
        if text.count(before) != 1:  # which the pinned hash rules out
            what = f"{_LOADER} is not the one of {ENGINE_VERSION}"
            raise EngineError(what, where=str(loader), remedy="report this")
        text = text.replace(before, after)
    loader.write_text(text)


def main() -> int:
    """Fetch the engine and print its folder; 1 when that failed."""
    try:
        print(engine_folder())  # noqa: T201
    except MmekitError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
