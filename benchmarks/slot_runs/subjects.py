"""The models under test: trained here, packed by mmekit with and without worker slots."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmekit.archive import pack, read_package, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Mode = Literal["plain", "slots"]
MODES: tuple[Mode, ...] = ("plain", "slots")

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ROOT / "model_packages"
BUILT = ROOT / "build" / "artifacts"
TRAINED = ROOT / "build" / "benchmarks" / "artifacts"
"""What the benchmarks have trained."""

SLOTS = 16
REQUESTS = 48

_WORKERS = re.compile(r"^(minWorkers|maxWorkers)\s*=.*\n", re.MULTILINE)
_CATBOOST = '''"""Twenty numbers in, a class out."""

from mmekit_runtime import Handler, Prediction


class BoostedTrees(Handler):
    features = 20

    def load(self, folder):
        from catboost import CatBoostClassifier

        model = CatBoostClassifier()
        model.load_model(str(folder / "model.cbm"))
        return model

    def predict(self, model, rows, parameters):
        labels = model.predict(rows).ravel()
        if parameters.probabilities:
            return Prediction(labels, model.predict_proba(rows), model.classes_.tolist())
        return labels


handle = BoostedTrees()
'''


class MissingSubjectError(Exception):
    """A model cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Attributes
    ----------
    name, title
        For the command line, and for tables.
    package, artifacts
        The package folder and the artefact folder.
    load
        The body of the request that load is made of.
    requests
        Bodies of different requests, for comparing answers.
    content_type
        Of them all.
    plain_workers
        Workers of the plain engine by number of connections; 1 for what is not named.
    """

    name: str
    title: str
    package: Path
    artifacts: Path
    load: bytes
    requests: tuple[bytes, ...]
    content_type: str
    plain_workers: Mapping[int, int]

    @property
    def artifact_bytes(self) -> int:
        """Return the size of what training left."""
        files = (path for path in self.artifacts.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files if path.name != "measured.json")


@dataclass(frozen=True)
class Trained:
    """Where a subject comes from."""

    subject: Subject
    work: Path

    def unpacked(self, mode: Mode, workers: int = 1) -> Path:
        """Return a folder with the unpacked archive, packed on first use.

        Parameters
        ----------
        workers
            Of the plain engine; with worker slots it is always 1 to 16.
        """
        name = f"{self.subject.name}-{mode}-{workers}"
        folder = self.work / name
        if folder.exists():
            return folder
        package = self.work / f"{name}-package" / self.subject.name
        shutil.copytree(self.subject.package, package)
        least, most = (1, SLOTS) if mode == "slots" else (workers, workers)
        properties = package / "serving.properties"
        text = _WORKERS.sub("", properties.read_text())
        properties.write_text(f"{text}\nminWorkers={least}\nmaxWorkers={most}\n")
        archive = self.work / f"{name}.tar.gz"
        pack(package, self.subject.artifacts, archive, worker_slots=mode == "slots")
        unpack(archive, folder)
        archive.unlink()
        # As in an image that has the libraries: DJL Serving runs pip at every load otherwise.
        (folder / "requirements.txt").unlink(missing_ok=True)
        return folder


def copy(folder: Path, target: Path) -> Path:
    """Return a copy of an unpacked archive, as new as one that has just been unpacked.

    It has no byte code yet, and shares no page of memory with another.
    """
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def prepare(name: str, cache: Path, work: Path) -> Trained:
    """Train a subject, or take what an earlier run left in ``cache``.

    Raises
    ------
    MissingSubjectError
        It needs what is not here.
    """
    return Trained(_SUBJECTS[name](cache, work), work)


def _ridge(cache: Path, work: Path) -> Subject:  # noqa: ARG001
    import joblib
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge

    values, target = load_diabetes(return_X_y=True)
    values = values[:, [2]]
    artifacts = cache / "ridge"
    if not artifacts.exists():
        _train(artifacts, lambda to: joblib.dump(Ridge().fit(values, target), to / "model.joblib"))
    requests = [_json(values[i : i + 1].tolist()) for i in range(REQUESTS)]
    package = PACKAGES / "linear_regression"
    return _subject("ridge", "ridge regression", package, artifacts, requests)


def _forest(cache: Path, work: Path) -> Subject:  # noqa: ARG001
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import ExtraTreesClassifier

    digits = load_digits()
    artifacts = cache / "forest-100"
    if not artifacts.exists():
        forest = ExtraTreesClassifier(n_estimators=100, random_state=0)
        forest.fit(digits.data, digits.target)
        _train(artifacts, lambda to: joblib.dump(forest, to / "model.joblib", compress=3))
    requests = [_json(digits.data[i : i + 1].tolist(), probabilities=True) for i in range(REQUESTS)]
    package = PACKAGES / "extra_trees_classifier"
    return _subject("forest", "forest of 100 trees", package, artifacts, requests)


def _catboost(cache: Path, work: Path) -> Subject:
    try:
        from catboost import CatBoostClassifier
    except ImportError as error:
        raise MissingSubjectError(f"catboost is not installed: {error}") from error
    from sklearn.datasets import make_classification

    values, target = make_classification(2000, 20, n_informative=10, random_state=0)
    artifacts = cache / "catboost-500x6x20"
    if not artifacts.exists():
        model = CatBoostClassifier(
            iterations=500,
            depth=6,
            random_seed=0,
            thread_count=2,
            verbose=False,
            allow_writing_files=False,
        )
        model.fit(values, target)
        _train(artifacts, lambda to: model.save_model(str(to / "model.cbm")))
    requests = [_json(values[i : i + 1].tolist(), probabilities=True) for i in range(REQUESTS)]
    package = work / "catboost_classifier"
    package.mkdir()
    (package / "model.py").write_text(_CATBOOST)
    (package / "serving.properties").write_text("engine=Python\n")
    (package / "requirements.txt").write_text("catboost\n")
    (package / "sample_request.json").write_bytes(_json(values[:1].tolist()))
    return _subject(
        "catboost", "CatBoost, 500 trees", package, artifacts, requests, plain_workers={32: 2}
    )


def _setfit(cache: Path, work: Path) -> Subject:  # noqa: ARG001
    artifacts = BUILT / "setfit_classifier"
    if not (artifacts / "setfit").is_dir():
        raise MissingSubjectError("build/artifacts/setfit_classifier is not there: run make demo")
    begins = ("Why", "Please tell me why", "I do not understand why", "Hello,")
    middles = ("my parcel has not come", "you charged my card twice", "I cannot log in")
    ends = ("", " since last week", " although I wrote to you", " and nobody answers the phone")
    sentences = [
        f"{begin} {middle}{end}." for begin in begins for middle in middles for end in ends
    ]
    requests = [_json([sentence], probabilities=True) for sentence in sentences[:REQUESTS]]
    package = PACKAGES / "setfit_classifier"
    return _subject("setfit", "SetFit (MiniLM)", package, artifacts, requests)


_SUBJECTS: dict[str, Callable[[Path, Path], Subject]] = {
    "ridge": _ridge,
    "forest": _forest,
    "catboost": _catboost,
    "setfit": _setfit,
}
NAMES = tuple(_SUBJECTS)


def _train(artifacts: Path, save: Callable[[Path], object]) -> None:
    """Have an artefact folder appear whole."""
    unfinished = artifacts.with_name(artifacts.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save(unfinished)
    unfinished.rename(artifacts)


def _subject(
    name: str,
    title: str,
    package: Path,
    artifacts: Path,
    requests: Sequence[bytes],
    *,
    plain_workers: Mapping[int, int] | None = None,
) -> Subject:
    sample = read_package(package).sample_request
    if sample is None:
        raise MissingSubjectError(f"{package.name} has no sample request")
    instances = json.loads(sample.body)["instances"][:1]
    return Subject(
        name=name,
        title=title,
        package=package,
        artifacts=artifacts,
        load=_json(instances),
        requests=tuple(requests),
        content_type=sample.content_type,
        plain_workers=plain_workers or {},
    )


def _json(instances: list[object], *, probabilities: bool = False) -> bytes:
    content: dict[str, object] = {"instances": instances}
    if probabilities:
        content["parameters"] = {"probabilities": True}
    return json.dumps(content).encode()
