"""Fetch the archives that the stack deploys, into models/.

::

    python -m examples.fetch_models                     what `make demo` has built
    python -m examples.fetch_models FOLDER_OR_FILE …    archives of your own
    python -m examples.fetch_models https://…/a.tar.gz  one from elsewhere

The layers of thin archives, which lie beside these in a folder layers/, come along.
"""

# ruff: noqa: T201 - printing is what it is for

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).resolve().parents[1]
_BUILT = _HERE.parents[1] / "build" / "archives"
_REMEDY = "Build them with make demo, or name a folder, a file or a URL."
_LAYERS = "layers"
_TIMEOUT_S = 60
_BEGIN_BYTES = 1 << 20


def fetch(sources: list[str], folder: Path) -> list[Path]:
    """Copy or download archives; return where they are.

    Parameters
    ----------
    sources
        Folders, files and URLs.
    folder
        Where the archives go.

    Raises
    ------
    FileNotFoundError
        There is no archive at one of them.
    ValueError
        What is there is no archive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fetched = []
    for source in sources:
        for name, origin in (*_archives(source), *_layers(source)):
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            partial = target.with_suffix(".part")
            _copy(origin, partial)
            if not _is_archive(partial):
                partial.unlink()
                message = f"{origin} is no archive (.tar.gz)."
                raise ValueError(message)
            partial.replace(target)
            fetched.append(target)
    return fetched


def _archives(source: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the origin of every archive that a source has."""
    if source.startswith(("http://", "https://")):
        name = Path(unquote(urlsplit(source).path)).name
        yield name if name.endswith(".tar.gz") else f"{name}.tar.gz", source
        return
    path = Path(source)
    found = sorted(path.glob("*.tar.gz")) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        message = f"There is no archive at {source}. {_REMEDY}"
        raise FileNotFoundError(message)
    for one in found:
        yield one.name, str(one)


def _layers(source: str) -> Iterator[tuple[str, str]]:
    """Yield the same of the layers that lie beside the archives of a source."""
    path = Path(source)
    folder = (path if path.is_dir() else path.parent) / _LAYERS
    if not source.startswith(("http://", "https://")):
        for one in sorted(folder.glob("*.tar.gz")):
            yield f"{_LAYERS}/{one.name}", str(one)


def _is_archive(file: Path) -> bool:
    """Return whether a file begins as a .tar.gz does; no more of it is read than that takes.

    `tarfile.open` would follow whatever its headers say, at any cost.
    """
    with file.open("rb") as stream:
        begin = stream.read(_BEGIN_BYTES)
    try:
        block = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(begin, tarfile.BLOCKSIZE)
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (zlib.error, tarfile.TarError, ValueError):
        return False
    return True


def _copy(origin: str, target: Path) -> None:
    if not origin.startswith(("http://", "https://")):
        shutil.copyfile(origin, target)
        return
    with (
        urllib.request.urlopen(origin, timeout=_TIMEOUT_S) as answer,  # noqa: S310 - checked above
        target.open("wb") as file,
    ):
        shutil.copyfileobj(answer, file)


def main() -> None:
    """Fetch what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", default=[str(_BUILT)])
    parser.add_argument("--folder", type=Path, default=_HERE / "models")
    chosen = parser.parse_args()
    try:
        for path in fetch(chosen.sources, chosen.folder):
            print(path)
    except (OSError, ValueError, urllib.error.URLError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
