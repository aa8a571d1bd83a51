"""How a layer comes to an instance that has not got it: from the image, the archive, or S3."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING

from .contents import digest_of_folder, layer_files
from .holding import (
    OTHERS_MAY_WRITE,
    PLACE_SUFFIX,
    SOURCES_VARIABLE,
    STORE_VARIABLE,
    find,
    is_trusted,
    place_text,
    platform,
    sources,
    store_folders,
    trusted_stores,
)
from .linking import mark_linked
from .listing import FOLDER, LayerEntry, LayerError, read_layers
from .provided import ProvidedLayers
from .store import LayerStore

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BUDGET_VARIABLE = "MMEKIT_LAYERS_MB"
"""MiB that the layers of an instance may take."""

_ATTEMPTS = 3
_S3 = "s3://"


def acquire(model_dir: str, environ: Mapping[str, str], python: str) -> ProvidedLayers:
    """Return the layers of a model, all of them held.

    Raises
    ------
    LayerError
        One is not to be had, or is not for this Python.
    """
    provided = ProvidedLayers({}, ())
    try:
        for entry in read_layers(model_dir):
            _require_fit(entry, python)
            folder, locks = _Search(entry, model_dir, environ).result()
            setattr(provided, entry.kind, folder)
            provided.locks += locks
    except BaseException:
        provided.close()
        raise
    return provided


def _require_fit(entry: LayerEntry, python: str) -> None:
    for what, needs, has in (
        ("Python", entry.python, python),
        ("the platform", entry.platform, platform()),
    ):
        if needs not in (None, has):
            raise LayerError(
                f"{entry} is for {what} {needs}, and this is {has}: pack the model for the image "
                f"that it runs in"
            )


class _Search:
    """Looks for one layer, and remembers why it was not to be had."""

    def __init__(self, entry: LayerEntry, model_dir: str, environ: Mapping[str, str]) -> None:
        self._entry = entry
        self._model_dir = model_dir
        self._environ = environ
        self._folders = store_folders(model_dir, environ)
        self._reasons: list[str] = []

    def result(self) -> tuple[str, tuple[int, ...]]:
        for _ in range(_ATTEMPTS):
            stores = trusted_stores(self._model_dir, self._environ)
            found = find(self._entry.sha256, stores, self._model_dir, self._environ)
            found = found or self._obtained()
            if found is not None:
                return found
            # It is in a store now, where it is held in the next turn.
        raise LayerError(f"{self._entry} is removed as soon as it is here: raise {BUDGET_VARIABLE}")

    def _obtained(self) -> tuple[str, tuple[int, ...]] | None:
        sha256 = self._entry.sha256
        named = sources(self._environ)
        for source in named:
            folder = os.path.join(source, sha256)
            if os.path.isabs(source) and self._lies_ready(folder):
                return folder, ()
        try:
            if self._adopted(os.path.join(self._model_dir, FOLDER, sha256)):
                return None
            for source in named:
                if source.startswith(_S3) and self._fetched(source):
                    return None
        except OSError as error:
            raise LayerError(
                f"{self._entry} cannot be stored: {error.strerror or error}: see to the disk, or "
                f"name a folder on another in {STORE_VARIABLE}"
            ) from error
        raise LayerError(self._why_missing(named))

    def _why_missing(self, named: list[str]) -> str:
        strange = [one for one in named if not one.startswith((_S3, "/"))]
        self._reasons += [
            f"{one} is neither an absolute folder nor an {_S3} prefix" for one in strange
        ]
        if not named:
            self._reasons.append(
                f"{SOURCES_VARIABLE} is not set; `mme deploy` sets it, or pack the model without "
                f"--thin"
            )
        return f"{self._entry} is missing here: {'; '.join(self._reasons)}"

    def _lies_ready(self, folder: str) -> bool:
        """Verify a layer that the image has; it is used where it is."""
        sha256 = self._entry.sha256
        if not os.path.isdir(folder):
            self._reasons.append(f"{os.path.dirname(folder)} has none of this name")
            return False
        if not is_trusted(folder, self._model_dir):
            self._reasons.append(f"{folder} is not used, as other users may write there")
            return False
        try:
            text = place_text(folder)
            found = digest_of_folder(folder).sha256
        except (OSError, LayerError) as error:
            self._reasons.append(f"{folder} cannot be used: {error}")
            return False
        if found != sha256:
            self._reasons.append(f"{folder} holds another layer, {found[:12]}")
            return False
        # So that it is verified once an instance; where nothing can be written, each time.
        with contextlib.suppress(OSError, LayerError):
            new = self._store().folder / f".{sha256}.{os.getpid()}{PLACE_SUFFIX}"
            new.write_bytes(text)
            new.rename(new.with_name(sha256 + PLACE_SUFFIX))
        return True

    def _adopted(self, own: str) -> bool:
        """Take a layer from the model's folder, where a platform has unpacked the archive."""
        if not os.path.isdir(own):
            return False
        is_taken = False

        def fill(new: Path) -> None:
            nonlocal is_taken
            _link_all(own, new)
            is_taken = True

        try:
            store = self._store()
            # Links take no room; on another disk it is a copy.
            is_near = os.lstat(store.folder).st_dev == os.lstat(own).st_dev
            store.add(self._entry.sha256, fill, 0 if is_near else self._entry.bytes)
        except LayerError as error:
            self._reasons.append(f"the copy in the archive cannot be used: {error}")
            return False
        # Another process may have made the layer meanwhile; then this is a copy still.
        if is_taken:
            mark_linked(own)
        return True

    def _fetched(self, prefix: str) -> bool:
        from .remote import fetch

        try:
            self._store().add(
                self._entry.sha256,
                lambda new: fetch(prefix, self._entry, str(new), self._environ),
                self._entry.bytes,
            )
        except LayerError as error:
            self._reasons.append(str(error))
            return False
        return True

    def _store(self) -> LayerStore:
        """Return the first store that can be written.

        Raises
        ------
        LayerError
            None can.
        """
        beside, own = self._folders
        private = os.path.dirname(own)
        for folder, made_before in ((beside, None), (own, private)):
            with contextlib.suppress(OSError):
                if made_before is not None:
                    _make_private(made_before)
                os.makedirs(folder, 0o755, exist_ok=True)
            if is_trusted(folder, self._model_dir) and os.access(folder, os.W_OK | os.X_OK):
                return LayerStore(folder, _budget(self._environ))
        raise LayerError(
            f"{self._entry} has no place here: neither {beside} nor {own} can be written by this "
            f"user alone; name a folder in {STORE_VARIABLE}"
        )


def _budget(environ: Mapping[str, str]) -> int | None:
    text = environ.get(BUDGET_VARIABLE, "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise LayerError(f"{BUDGET_VARIABLE} is {text!r}: give a whole number of MiB")
    return int(text) << 20


def _make_private(folder: str) -> None:
    """Make the user's own folder for temporary files; OSError when it is somebody else's."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, 0o700)
    status = os.lstat(folder)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise OSError(f"{folder} is not a folder that this user alone may enter")


def _link_all(own: str, new: Path) -> None:
    """Give the files of a folder a second name, or copy them where that cannot be."""
    for name, path in layer_files(own):
        target = new / name
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            os.link(path, target, follow_symlinks=False)
            mode = os.lstat(target).st_mode
            if mode & OTHERS_MAY_WRITE:
                os.chmod(target, stat.S_IMODE(mode) & ~OTHERS_MAY_WRITE)
        except OSError:
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target, follow_symlinks=False)
            is_executable = os.lstat(path).st_mode & stat.S_IXUSR
            target.chmod(0o755 if is_executable else 0o644)
