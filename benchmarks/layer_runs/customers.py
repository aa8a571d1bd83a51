"""Many customers of one SetFit model: the same sentence model, a head of their own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slot_runs import subjects

from layer_runs.former import NOW, Code, Job
from mmekit.archive import unpack
from mmekit.archive.package import MEASURED_FILE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Form = Literal["plain", "now", "inline", "thin"]
FORMS: tuple[Form, ...] = ("plain", "now", "inline", "thin")
TITLES: dict[Form, str] = {
    "plain": "plain engine",
    "now": "without layers",
    "inline": "inline",
    "thin": "thin",
}

HEAD = "setfit/model_head.pkl"
MODEL_LAYERS = "layers"
"""Where packing leaves the layers of thin archives, and an inline archive has its own."""

_PACKAGE = "setfit_classifier"
_OPTIONS: dict[Form, dict[str, Any]] = {
    "plain": {"worker_slots": False},
    "now": {},
    "inline": {},
    "thin": {"thin": True},
}


@dataclass(frozen=True)
class Packed:
    """The archives of one form.

    Attributes
    ----------
    sizes
        Bytes of each archive.
    """

    archives: tuple[Path, ...]
    sizes: tuple[int, ...]

    @property
    def layers(self) -> Path:
        """The layers of thin archives."""
        return self.archives[0].parent / MODEL_LAYERS


class Customers:
    """Customers by number, each the same whenever it is asked for.

    Parameters
    ----------
    former
        The code before layers, which packs the plain form and that of now.
    work
        An empty folder.

    Raises
    ------
    MissingSubjectError
        Nobody has trained the first.
    """

    def __init__(self, former: Code, work: Path, say: Callable[[str], None]) -> None:
        self.subject = subjects.prepare("setfit", subjects.TRAINED, work).subject
        self._former = former
        self._work = work
        self._say = say
        self._packed: dict[Form, Packed] = {}
        self._unpacked: dict[Form, Path] = {}
        self._measured: dict[Path, Path] = {}

    def head(self, number: int) -> Any:
        """Return a customer's classifier: that of the first with other coefficients."""
        import joblib
        import numpy as np

        head = joblib.load(self.subject.artifacts / HEAD)
        generator = np.random.default_rng(number)
        spread = float(np.std(head.coef_))
        head.coef_ = generator.normal(0, spread, head.coef_.shape)
        head.intercept_ = generator.normal(0, spread, head.intercept_.shape)
        return head

    def packed(self, form: Form, count: int) -> Packed:
        """Return the archives of the first customers; they are packed on first use."""
        known = self._packed.get(form)
        if known is not None and len(known.archives) >= count:
            return known
        self._say(f"packing {count} customers, {TITLES[form]}")
        code = self._former if form in ("plain", "now") else NOW
        folder = self._work / "archives" / form
        folder.mkdir(parents=True, exist_ok=True)
        package = self._package(code, form)
        archives = [folder / f"{form}-{number}.tar.gz" for number in range(count)]
        sizes: list[int] = []
        # Each code measures its first customer; those after it have its figures.
        for number, archive in enumerate(archives):
            artifacts, known = self._artifacts(form, number), self._measured.get(code.root)
            sizes += code.pack([Job(package, artifacts, archive, _OPTIONS[form], known)])
            self._measured.setdefault(code.root, artifacts / MEASURED_FILE)
        self._packed[form] = Packed(tuple(archives), tuple(sizes))
        return self._packed[form]

    def folder(self, form: Form, number: int, target: Path) -> Path:
        """Write a customer's unpacked archive, as the platform would hand it to a container."""
        if form not in self._unpacked:
            archive = self.packed(form, 1).archives[0]
            folder = self._work / "unpacked" / form
            unpack(archive, folder)
            # As in an image that has the libraries: DJL Serving runs pip at every load otherwise.
            (folder / "requirements.txt").unlink(missing_ok=True)
            self._unpacked[form] = folder
        subjects.copy(self._unpacked[form], target)
        self._write_head(number, target)
        return target

    def _artifacts(self, form: Form, number: int) -> Path:
        folder = self._work / "artifacts" / f"{form}-{number}"
        if not folder.exists():
            shutil.copytree(
                self.subject.artifacts,
                folder,
                copy_function=_link,
                ignore=shutil.ignore_patterns(MEASURED_FILE, Path(HEAD).name),
            )
            self._write_head(number, folder)
        return folder

    def _write_head(self, number: int, folder: Path) -> None:
        import joblib

        joblib.dump(self.head(number), folder / HEAD)

    def _package(self, code: Code, form: Form) -> Path:
        # The name is the model's in its archive.
        package = self._work / "packages" / form / _PACKAGE
        if package.exists():
            return package
        shutil.copytree(code.packages / _PACKAGE, package)
        properties = package / "serving.properties"
        lines = properties.read_text().splitlines(keepends=True)
        # Of the two kinds of layers it is the body that is measured here: the libraries are there.
        kept = [line for line in lines if not line.startswith("option.layers")]
        if form == "plain":
            kept = [line for line in kept if not line.startswith(("minWorkers", "maxWorkers"))]
            kept += ["\nminWorkers=1\nmaxWorkers=1\n"]
        properties.write_text("".join(kept))
        return package


def unpacked_layers(packed: Packed, folder: Path) -> Path:
    """Return a folder with the layers of thin archives, as an image of one's own has them."""
    for archive in sorted(packed.layers.glob("*.tar.gz")):
        unpack(archive, folder / archive.name.partition(".")[0])
    return folder


def bytes_of(layers: Sequence[Path]) -> int:
    """Return the bytes of files together."""
    return sum(path.stat().st_size for path in layers)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
