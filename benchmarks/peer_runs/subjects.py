"""The models that every peer serves, and the one request that all are asked."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from slot_runs import subjects
from slot_runs.subjects import BUILT, PACKAGES, MissingSubjectError

from mmekit.archive import pack, read_package, unpack

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["number", "class", "probabilities", "text"]

_WORKERS = re.compile(r"^(minWorkers|maxWorkers|max_idle_time)\s*=.*\n", re.MULTILINE)


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Attributes
    ----------
    name, title
        Of its package, and for tables.
    kind
        What it answers: a number, a class (as a number), the probabilities of the classes, or the
        class of a text.
    instance
        What it is asked about: the first of its package's sample request, as JSON has it.
    artifacts
        The folder that training left.
    work
        A folder for packed archives.
    """

    name: str
    title: str
    kind: Kind
    instance: list[float] | str
    artifacts: Path
    work: Path

    def copied(self, folder: Path) -> Path:
        """Copy what training left into a new folder, for servers that take nothing more."""
        ignored = shutil.ignore_patterns("measured.json", "__pycache__")
        shutil.copytree(self.artifacts, folder, ignore=ignored)
        return folder

    def unpacked(self, folder: Path, *, worker_slots: bool) -> Path:
        """Unpack its archive into a new folder.

        Parameters
        ----------
        worker_slots
            Whether it is packed as `mme pack` does by default. Otherwise it is what DJL Serving's
            documentation describes, with no word about workers: model.py, serving.properties, the
            artefacts.
        """
        packed = self.work / f"{self.name}-{'slots' if worker_slots else 'stock'}"
        if not packed.exists():
            self._pack(packed, worker_slots=worker_slots)
        return subjects.copy(packed, folder)

    def _pack(self, packed: Path, *, worker_slots: bool) -> None:
        package = self.work / f"{packed.name}-package" / self.name
        shutil.copytree(PACKAGES / self.name, package)
        if not worker_slots:
            properties = package / "serving.properties"
            properties.write_text(_WORKERS.sub("", properties.read_text()))
        archive = packed.with_name(f"{packed.name}.tar.gz")
        pack(package, self.artifacts, archive, worker_slots=worker_slots)
        unpack(archive, packed)
        archive.unlink()
        # As in an image that has the libraries: DJL Serving runs pip at every load otherwise.
        (packed / "requirements.txt").unlink(missing_ok=True)


def prepare(name: str, cache: Path, work: Path) -> Subject:
    """Return a model that `make demo` has trained; CatBoost is trained here, if need be.

    Raises
    ------
    MissingSubjectError
        It needs what is not here.
    """
    title, kind = _SUBJECTS[name]
    sample = read_package(PACKAGES / name).sample_request
    if sample is None:
        raise MissingSubjectError(f"{name} has no sample request")
    instance = json.loads(sample.body)["instances"][0]
    if name == "catboost_classifier":
        artifacts = subjects.prepare("catboost", cache, work).subject.artifacts
    else:
        artifacts = BUILT / name
        if not artifacts.is_dir():
            raise MissingSubjectError(f"build/artifacts/{name} is not there: run make demo")
    return Subject(name, title, kind, instance, artifacts, work)


_SUBJECTS: dict[str, tuple[str, Kind]] = {
    "linear_regression": ("linear regression", "number"),
    "extra_trees_classifier": ("forest of 100 trees", "class"),
    "catboost_classifier": ("CatBoost, 500 trees", "probabilities"),
    "setfit_classifier": ("SetFit (MiniLM)", "text"),
}
NAMES = tuple(_SUBJECTS)
TITLES = {name: title for name, (title, _) in _SUBJECTS.items()}
