"""What a pickle names of the training script, and what wrote it, is read without unpickling it."""

from __future__ import annotations

import io
import pickle
import zipfile

import cloudpickle
import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier

from mmekit.archive import check
from mmekit.archive.contents import Member
from mmekit.archive.pickles import Pickled, name_of_main, read_pickle


class First(BaseEstimator):
    """Stands for what a training script defines."""


class Second(BaseEstimator):
    """And one more."""


for _class in (First, Second):
    _class.__module__ = "__main__"


@pytest.fixture
def of_main(monkeypatch):
    """Let pickle find both classes where they say that they are."""
    import __main__

    for one in (First, Second):
        monkeypatch.setattr(__main__, one.__name__, one, raising=False)


def read(data, name="model.joblib"):
    return read_pickle(Member.made_of(name, data))


def dumped(model, **options):
    stream = io.BytesIO()
    joblib.dump(model, stream, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def forest():
    """Return a model whose first array comes soon."""
    random = np.random.default_rng(0)
    rows = random.random((400, 3))
    return RandomForestClassifier(5, random_state=0).fit(rows, random.integers(0, 2, 400))


@pytest.fixture(scope="module")
def neighbours():
    """Return a model of 24 MiB that begins with its largest array."""
    rows = np.random.default_rng(0).random((500_000, 6))
    return KNeighborsClassifier(algorithm="brute").fit(rows, np.arange(500_000) % 2)


WRITERS = {
    **{f"joblib {n}": lambda model, n=n: dumped(model, protocol=n) for n in (2, 3, 4, 5)},
    **{
        f"joblib {method}": lambda model, method=method: dumped(model, compress=(method, 3))
        for method in ("zlib", "gzip", "bz2", "lzma", "xz")
    },
    **{f"pickle {n}": lambda model, n=n: pickle.dumps(model, protocol=n) for n in range(6)},
    "cloudpickle": cloudpickle.dumps,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_the_version_that_wrote_an_estimator_and_its_classes_of_main_are_read(
    forest, of_main, write
):
    model = {"first": First(), "forest": forest, "arrays": np.ones(5000), "second": Second()}

    found = read(write(model))

    assert found.scikit_learn == (sklearn.__version__,)
    # cloudpickle writes the classes themselves, by value.
    assert found.of_main == (() if write is cloudpickle.dumps else ("First", "Second"))


@pytest.mark.parametrize("options", [{}, {"compress": 3}, {"protocol": 2}], ids=str)
def test_a_version_behind_large_arrays_is_read_too(neighbours, options):
    assert read(dumped(neighbours, **options)).scikit_learn == (sklearn.__version__,)


def test_a_version_that_the_pickle_has_remembered_is_read(forest):
    data = pickle.dumps({"made with": sklearn.__version__, "model": forest})

    assert read(data).scikit_learn == (sklearn.__version__,)


def test_skops_says_it_in_its_schema(tmp_path, forest, of_main):
    skops = pytest.importorskip("skops.io")
    skops.dump({"model": forest, "own": First()}, tmp_path / "model.skops")

    found = read((tmp_path / "model.skops").read_bytes(), "model.skops")

    assert found == Pickled("model.skops", ("First",), (sklearn.__version__,))


def test_a_whole_module_of_torch_names_its_class(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02c__main__\nNet\n)\x81.")

    assert read(content.getvalue(), "net.pt").of_main == ("Net",)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    for data in (pickle.dumps(Trap()), dumped(Trap(), compress=3)):
        assert read(data).of_main == ()
    assert not (tmp_path / "sprung").exists()


DAMAGED = {
    "empty": b"",
    "no pickle": b"x",
    "cut off": pickle.dumps(list(range(1000)))[:500],
    "a wrong place": b"\x80\x04h\xff\x93.",
    "a text that is no text": b"\x80\x04\x8c\x02\xff\xff.",
    "half a version": b"\x80\x04\x8c\x10_sklearn_version\x94\x8c\x051.",
    "no version": b"\x80\x04\x8c\x10_sklearn_version\x94\x8c\x05a\nb c.",
    "half of zlib": dumped(np.arange(1000), compress=3)[:100],
    "half of xz": dumped(np.arange(1000), compress=("xz", 3))[:30],
    "half of a zip": b"PK\x03\x04 and no more",
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_say_nothing_and_do_no_harm(data):
    found = read(data)

    assert found is None or (found.of_main == () and set(found.scikit_learn) <= {"1."})


def test_a_zip_that_names_its_parts_a_thousand_times_is_read_a_few_times(monkeypatch):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(1000):
            archive.writestr(f"{number}/data.pkl", pickle.dumps(number))
    opened = []
    real = zipfile.ZipFile.open

    def counted(self, info, *arguments, **options):
        opened.append(info)
        return real(self, info, *arguments, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", counted)

    read(data.getvalue(), "model.pt")
    assert 0 < len(opened) < 10


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.py", b"x = '_sklearn_version'\n"),
        ("numbers.csv", b"x,y\n1,2\n"),
        ("weights.bin", b"\x80\x09 not a protocol"),
        ("numbers.gz", b"\x1f\x8b and something else"),
    ],
)
def test_other_files_are_none(name, data):
    assert read(data, name) is None


def test_a_pickle_is_known_by_its_first_bytes_whatever_it_is_called(forest):
    assert read(pickle.dumps(forest), "model.sav").scikit_learn == (sklearn.__version__,)


@pytest.mark.parametrize(
    ("failure", "name"),
    [
        ("AttributeError: Can't get attribute 'Log' on <module '__main__' from 'a.py'>", "Log"),
        ("AttributeError: module '__main__' has no attribute 'Log'", "Log"),
        ("AttributeError: Can't get attribute 'Log' on <module 'features'>", None),
        ("ValueError: __main__", None),
    ],
)
def test_the_name_is_taken_from_the_error(failure, name):
    assert name_of_main(failure) == name


def test_a_real_pickle_of_a_scripts_class_is_found_by_the_check(workshop, of_main):
    joblib.dump(First(), workshop.artifacts / "model.joblib")

    (finding,) = check(workshop.package, artifacts=workshop.artifacts)

    assert "First" in finding.message
