"""One package, many artefact folders: one archive for each, one measurement for those alike."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tarfile
from dataclasses import replace

import pytest

from mmekit.archive import (
    PackedSeries,
    check,
    pack,
    pack_all,
    parse_properties,
    read_measured,
    verify,
)
from mmekit.archive.contents import read_contents
from mmekit.archive.likeness import Outline
from mmekit.archive.package import read_package
from mmekit.archive.trial import Seen
from mmekit.errors import MeasureError, PackageError
from mmekit.testing import read_sample
from mmekit_runtime.signature import Column, Signature

MODEL = """\
import pickle

from mmekit_runtime import Handler
from mmekit_runtime.signature import Column, Signature


class Shop(Handler):
    features = 1

    def load(self, folder):
        with (folder / "model.pickle").open("rb") as file:
            model = pickle.load(file)
        self.signature = Signature((Column("size", "double", known=tuple(model["sizes"])),))
        return model

    def predict(self, model, rows, parameters):
        return model["factor"] * rows[:, 0]


handle = Shop()
"""


class Shops:
    """A package, a folder of artefact folders, and where the archives go."""

    def __init__(self, root):
        self.package, self.folder, self.output = root / "shop", root / "shops", root / "archives"
        self.package.mkdir()
        self.folder.mkdir()
        (self.package / "model.py").write_text(MODEL)
        (self.package / "serving.properties").write_text(
            "engine=Python\nretry_threshold=10\noption.modelName=shop\n"
        )
        (self.package / "sample_request.json").write_text('{"instances": [[7.0]]}')
        (self.package / "sample_response.json").write_text('{"predictions": [14.0]}')

    def add(self, name, factor, **more):
        """Write the artefacts of one shop, and return its folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        model = {"factor": factor, "sizes": [1.0, factor]} | more
        (folder / "model.pickle").write_bytes(pickle.dumps(model))
        return folder

    def pack(self, **options):
        """Pack all of them."""
        return pack_all(self.package, self.folder, self.output, say=print, **options)

    def archive(self, name):
        """Return the archive of a shop."""
        return self.output / f"{name}.tar.gz"


@pytest.fixture
def shops(tmp_path):
    return Shops(tmp_path)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Return shops of which one is like no other and one is broken, and what became of them."""
    shops = Shops(tmp_path_factory.mktemp("packed"))
    shops.add("aachen", 2.0)
    shops.add("berlin", 3.0)
    shops.add("cottbus", 4.0, ballast=os.urandom(300_000))
    shops.add("dresden", 5.0, when=__import__("datetime").date(2026, 3, 1))
    (shops.folder / "emden").mkdir()
    (shops.folder / "emden" / "model.pickle").write_bytes(b"\x80\x04broken")
    (shops.folder / "notes.txt").write_text("of a file beside them nothing is packed")
    (shops.folder / "freiburg").symlink_to(shops.folder / "berlin")
    shops.output.mkdir()
    shops.archive("emden").write_bytes(b"of last week")
    return shops, shops.pack()


def test_one_model_is_measured_and_those_like_it_take_that_over(packed):
    _, result = packed

    assert sorted(result.packed) == ["aachen", "berlin", "cottbus", "dresden", "freiburg"]
    assert result.left_out == ("notes.txt",)
    # One is larger, and one asks for a class that the others do not know.
    assert {"cottbus", "dresden"} < set(result.measured)
    assert len(result.measured) + len(result.reused) == len(result.packed)
    like = {"aachen", "berlin", "freiburg"}
    assert set(result.reused) < like
    assert set(result.reused.values()) < like


def test_what_a_model_says_of_itself_is_never_anothers(packed):
    shops, _ = packed

    for name, factor in (("aachen", 2.0), ("berlin", 3.0), ("cottbus", 4.0), ("dresden", 5.0)):
        manifest = verify(shops.archive(name))
        assert manifest.signature.inputs[0].known == (1.0, factor)
        assert json.loads(manifest.example.answer) == {"predictions": [7 * factor]}
        assert read_sample(shops.archive(name)).answer == {"predictions": [7 * factor]}
        measured = read_measured(shops.folder / name)
        assert manifest.measured == measured
    assert read_measured(shops.folder / "aachen").answer is None  # it is the package's


def test_which_of_a_series_answers_nothing_is_its_own(shops):
    for name, factor in (("aachen", 2.0), ("berlin", float("nan")), ("cottbus", 3.0)):
        shops.add(name, factor, sizes=[7.0])
    result = shops.pack()
    warned = {
        name
        for name, packed in result.packed.items()
        if any(one.rule == "answers-nothing" for one in packed.findings)
    }
    assert (len(result.packed), warned) == (3, {"berlin"})


def members(archive):
    with tarfile.open(archive) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar if one.isfile()}


def test_an_archive_has_what_packing_it_alone_makes_but_for_its_name(packed, tmp_path):
    shops, result = packed

    for name in ("aachen", "berlin", "freiburg"):
        file = shops.archive(name)
        assert result.packed[name].sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        alone = members(pack(shops.package, shops.folder / name, tmp_path / file.name).path)
        one_of_many = members(file)
        assert alone.keys() == one_of_many.keys()
        differ = {member for member in alone if alone[member] != one_of_many[member]}
        assert differ == {"serving.properties", "manifest.json"}
        added = (
            one_of_many["serving.properties"].decode().split(alone["serving.properties"].decode())
        )
        assert added == ["", f"option.modelName={name}\n"]


def test_each_model_is_called_after_its_folder_whatever_the_package_says(packed):
    shops, result = packed

    for name in result.packed:
        text = members(shops.archive(name))["serving.properties"].decode()
        assert verify(shops.archive(name)).name == name
        # Of two lines the later one counts, and it is no mistake.
        assert parse_properties(text).model_name == name
        assert not [one for one in result.packed[name].findings if one.rule == "duplicate-key"]
        assert not [one for one in check(shops.archive(name)) if one.rule == "duplicate-key"]


def test_what_a_model_takes_more_in_its_fork_is_added_and_twice_as_much_is_measured(packed):
    shops, result = packed
    like = read_measured(shops.folder / next(iter(result.reused.values())))
    told = {"signature": None, "answer": None, "proof": None}
    first = Seen(("numbers.Scale",), ("numpy",), 20 << 20, told)

    more = replace(first, forked=23 << 20).beside(first)
    less = replace(first, forked=15 << 20).beside(first)

    package = read_package(shops.package)
    measured = more.measured(package, like, "f" * 64)
    assert measured.memory.forked == like.memory.forked + (3 << 20)
    assert measured.memory.proportional == like.memory.proportional + (3 << 20)
    assert less.measured(package, like, "f" * 64).memory == like.memory
    assert replace(first, forked=41 << 20).beside(first) is None
    assert replace(first, modules=("numpy", "pandas")).beside(first) is None


def test_a_model_that_fails_stops_no_other_and_leaves_its_old_archive(packed):
    shops, result = packed

    assert list(result.failures) == ["emden"]
    assert isinstance(result.failures["emden"], MeasureError)
    assert shops.archive("emden").read_bytes() == b"of last week"


def test_what_has_not_changed_is_left_alone_whatever_the_clock_says(packed, tmp_path):
    shops, _ = packed
    copy = Shops(tmp_path)
    shutil.rmtree(copy.folder)
    shutil.copytree(shops.folder, copy.folder, symlinks=False)
    shutil.rmtree(copy.folder / "emden")
    shutil.copytree(shops.output, copy.output)
    before = copy.archive("aachen").stat().st_mtime_ns
    os.utime(copy.folder / "aachen" / "model.pickle")
    damaged = copy.archive("berlin")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    copy.archive("cottbus").unlink()

    result = copy.pack()

    assert result.unchanged == ["aachen", "dresden", "freiburg"]
    assert sorted(result.packed) == ["berlin", "cottbus"]
    assert (result.measured, result.reused, result.failures) == ([], {}, {})
    assert copy.archive("aachen").stat().st_mtime_ns == before
    assert damaged.read_bytes() == shops.archive("berlin").read_bytes()


def test_a_further_model_is_tried_beside_one_that_was_measured_before(packed, tmp_path):
    shops, _ = packed
    copy = Shops(tmp_path)
    shutil.copytree(shops.folder / "cottbus", copy.folder / "cottbus")
    copy.add("giessen", 6.0, ballast=os.urandom(301_000))

    result = copy.pack()

    assert result.reused == {"giessen": "cottbus"}
    assert result.measured == []


@pytest.mark.thorough
def test_each_can_be_measured_by_itself(packed, tmp_path):
    shops, _ = packed
    copy = Shops(tmp_path)
    for name in ("aachen", "berlin"):
        shutil.copytree(shops.folder / name, copy.folder / name)

    result = copy.pack(measure_each=True)

    assert set(result.packed) == {"aachen", "berlin"}
    assert result.reused == {}
    assert all(read_measured(copy.folder / name).measured_on is None for name in result.packed)


def test_an_empty_folder_of_artefacts_fails_alone(shops):
    (shops.folder / "empty").mkdir()

    result = shops.pack()

    assert result == PackedSeries(failures=result.failures)
    assert "empty" in str(result.failures["empty"])


def test_a_sample_that_is_refused_for_want_of_a_signature_says_where_it_belongs(shops):
    model = MODEL.replace("    features = 1\n", "")
    lines = [line for line in model.splitlines() if "self.signature" not in line]
    (shops.package / "model.py").write_text("\n".join(lines) + "\n")
    (shops.package / "sample_request.json").write_text('{"instances": [{"size": 7.0}]}')
    shops.add("north", 2.0)

    told = str(shops.pack().failures["north"])

    assert "the handler answered 400" in told
    assert "There is no signature.json" in told
    assert f"into {shops.package}" in told
    signature = Signature((Column("size", "double"),))
    (shops.package / "signature.json").write_bytes(signature.to_json())
    assert list(shops.pack().packed) == ["north"]


@pytest.mark.parametrize("name", ["two words", "köln", "a" * 240, "a=b"])
def test_a_name_that_can_be_no_key_is_told_before_anything_is_done(shops, name):
    shops.add("aachen", 2.0)
    (shops.folder / name).mkdir()

    with pytest.raises(PackageError, match="by its key") as caught:
        shops.pack()

    assert "rename" in caught.value.remedy
    assert not shops.output.exists()


def test_a_folder_without_sub_folders_is_told_what_it_may_be(shops):
    (shops.folder / "model.pickle").write_bytes(b"")

    with pytest.raises(PackageError, match="no sub-folder") as caught:
        shops.pack()

    assert "--artifacts" in caught.value.remedy


def test_a_link_that_leads_nowhere_is_an_error(shops):
    shops.add("aachen", 2.0)
    (shops.folder / "berlin").symlink_to("gone")

    with pytest.raises(PackageError, match="'berlin': a link that leads nowhere"):
        shops.pack()


def test_archives_do_not_become_artefacts(shops):
    shops.add("aachen", 2.0)

    with pytest.raises(PackageError, match="would be written into aachen"):
        pack_all(shops.package, shops.folder, shops.folder / "aachen" / "archives")


@pytest.mark.parametrize(
    ("changed", "alike"),
    [
        ({"model.bin": b"y" * 200_000}, True),
        ({"model.bin": b"x" * 900_000}, True),
        ({"model.bin": b"x" * 1_200_000}, False),
        ({"model.bin": b"x" * 800_000}, False),
        ({"model.pickle": b"\x78\x9c"}, False),
        ({"features.py": b"x = 2"}, False),
        ({"more.bin": b""}, False),
    ],
)
def test_models_are_alike_by_names_kinds_code_and_sizes(tmp_path, changed, alike):
    size = 1_000_000 if len(changed.get("model.bin", b"")) > 500_000 else 200_000
    files = {"model.bin": b"x" * size, "model.pickle": b"\x80\x04", "features.py": b"x = 1"}
    outlines = []
    for place, content in (("one", files), ("other", files | changed)):
        (tmp_path / place).mkdir()
        for name, data in content.items():
            (tmp_path / place / name).write_bytes(data)
        outlines.append(Outline.of(read_contents(tmp_path / place)))

    assert outlines[1].is_like(outlines[0]) is alike
