"""What requirements.txt asks for and the image lacks becomes a layer of unpacked wheels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile

import pytest

from mmekit.archive import check, describe, layer_file, pack, verify
from mmekit.archive.images import image_of
from mmekit.archive.lock import RequirementsLock
from mmekit.archive.resolution import _resolved
from mmekit.errors import CheckError, LibrariesError, MissingExtraError
from mmekit_runtime.layers.listing import LIBRARIES, parse_layers
from tests.mmekit.archive.wheelhouse import add_wheel

IMAGE = "mine:1=python3.11,numpy==2.4.3,heavy==2.7.1,old==1.0,blurred"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Return a cache of uv that knows the Python that runs this, and no wheel of another test."""
    return tmp_path_factory.mktemp("uv")


@pytest.fixture(name="wheels")
def a_wheelhouse(tmp_path, monkeypatch, cache):
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(cache))
    return folder


@pytest.fixture
def packing(workshop, wheels):
    """Return a function that packs the ridge model with other requirements."""
    workshop.pretend_measured()
    said = []

    def run(requirements, **options):
        workshop.write("requirements.txt", requirements)
        given = {"layers": True, "image": image_of(IMAGE), "say": said.append, **options}
        return pack(workshop.package, workshop.artifacts, workshop.archive, **given)

    run.said = said
    return run


def read_all(archive):
    with tarfile.open(archive) as tar:
        return {m.name: (m.mode, tar.extractfile(m).read()) for m in tar if m.isfile()}


def layer_of(packed):
    (layer,) = packed.layers
    prefix = f"layers/{layer.sha256}/"
    files = read_all(packed.path)
    return {name.removeprefix(prefix): it for name, it in files.items() if name.startswith(prefix)}


def versions(packed):
    return {source.name: source.version for source in packed.layers[0].sources}


def test_wheels_are_unpacked_into_a_layer_and_requirements_stay_outside(packing, wheels):
    needed = add_wheel(wheels, "needed", "1.5")
    add_wheel(
        wheels,
        "wanted",
        "2.0",
        {"wanted/__init__.py": "from needed import v\n", "wanted/bin/tool": "#!/bin/sh\n"},
        ["needed>=1", "numpy>=2"],
    )

    packed = packing("wanted>=1\nnumpy>=2\n")

    (layer,) = packed.layers
    assert (layer.kind, layer.python, layer.platform) == (LIBRARIES, "3.11", "linux-x86_64")
    assert layer.says == "wanted 2.0, needed 1.5"
    files = layer_of(packed)
    assert files["wanted/__init__.py"] == (0o644, b"from needed import v\n")
    assert files["wanted/bin/tool"][0] == 0o755
    assert {name.partition("/")[0] for name in files} == {
        "needed.py",
        "needed-1.5.dist-info",
        "wanted",
        "wanted-2.0.dist-info",
    }
    assert "requirements.txt" not in packed.files
    assert parse_layers(read_all(packed.path)["layers.json"][1]) == (layer.entry,)
    sources = {one.name: one for one in verify(packed.path).layers[0].sources}
    assert (sources["needed"].sha256, sources["needed"].license) == (needed, "MIT")
    assert not [one for one in packed.findings if one.rule == "installs-at-load"]


def test_what_an_installer_adds_is_no_part_of_it(packing, wheels):
    add_wheel(
        wheels,
        "wanted",
        "2.0",
        {"wanted.py": "", "wanted-2.0.data/scripts/wanted-run": "#!python\n", "x.pyc": b"x"},
    )

    files = layer_of(packing("wanted\n"))

    info = "wanted-2.0.dist-info"
    assert set(files) == {
        "wanted.py",
        *(f"{info}/{it}" for it in ("METADATA", "RECORD", "WHEEL", "entry_points.txt")),
    }
    recorded = files[f"{info}/RECORD"][1].decode().splitlines()
    assert [line.partition(",")[0] for line in recorded] == sorted(files, key=str.encode)


def test_an_option_of_the_package_asks_for_the_layer_too(packing, wheels, workshop):
    add_wheel(wheels, "wanted", "2.0")
    workshop.write("serving.properties", "engine=Python\noption.layers=true\n")

    assert versions(packing("wanted\n", layers=False)) == {"wanted": "2.0"}


def test_without_it_requirements_are_installed_at_the_load_as_ever(packing):
    packed = packing("wanted\n", layers=False)

    assert packed.layers == ()
    assert "requirements.txt" in packed.files
    (finding,) = [one for one in packed.findings if one.rule == "installs-at-load"]
    assert "--layers" in finding.remedy


def test_what_the_image_has_brings_nothing_of_what_it_needs_elsewhere(packing, wheels):
    add_wheel(wheels, "heavy", "2.7.1", requires=["drivers"])
    add_wheel(wheels, "drivers", "12.0")
    add_wheel(wheels, "wanted", "2.0", requires=["heavy>=2", "blurred"])

    assert versions(packing("wanted\nheavy\n")) == {"wanted": "2.0"}


def test_an_extra_of_what_the_image_has_brings_what_the_image_lacks(packing, wheels):
    add_wheel(
        wheels,
        "heavy",
        "2.7.1",
        requires=["web>=3; extra == 'http'"],
        said="Provides-Extra: http\n",
    )
    add_wheel(wheels, "web", "3.1")
    add_wheel(wheels, "wanted", "2.0", requires=["heavy[http]>=2"])

    assert versions(packing("wanted\n")) == {"wanted": "2.0", "web": "3.1"}


def test_where_the_image_has_everything_there_is_no_layer(packing):
    packed = packing("numpy>=2\nheavy==2.7.1\n")

    assert packed.layers == ()
    assert "requirements.txt" not in packed.files


def test_a_release_that_goes_with_the_images_is_taken_before_a_newer_one(packing, wheels):
    add_wheel(wheels, "wanted", "2.0", requires=["numpy>=2,<2.5"])
    add_wheel(wheels, "wanted", "3.0", requires=["numpy>=2.5"])
    add_wheel(wheels, "numpy", "2.6.0")

    assert versions(packing("wanted\n")) == {"wanted": "2.0"}


def test_where_none_goes_with_the_images_the_layer_replaces_it(packing, wheels):
    add_wheel(wheels, "wanted", "2.0", requires=["old>=2", "numpy"])
    add_wheel(wheels, "old", "2.1", requires=["older"])
    add_wheel(wheels, "older", "0.1")

    packed = packing("wanted\n")

    assert versions(packed) == {"wanted": "2.0", "old": "2.1", "older": "0.1"}
    (finding,) = [one for one in packed.findings if one.rule == "layer-replaces"]
    assert "old 2.1" in finding.message
    assert "1.0" in finding.message


def test_a_version_that_requirements_name_is_the_one(packing, wheels):
    add_wheel(wheels, "old", "2.0")
    add_wheel(wheels, "old", "2.1")

    assert versions(packing("old==2.0\n")) == {"old": "2.0"}


def test_of_several_wheels_the_images_own_is_taken(packing, wheels):
    for tag in ("py3-none-any", "cp311-cp311-musllinux_1_2_x86_64", "cp312-cp312-linux_x86_64"):
        add_wheel(wheels, "wanted", "2.0", tag=tag)
    add_wheel(wheels, "wanted", "2.0", tag="cp311-cp311-manylinux_2_40_x86_64")
    best = add_wheel(wheels, "wanted", "2.0", tag="cp311-cp311-manylinux_2_17_x86_64")

    assert packing("wanted\n").layers[0].sources[0].sha256 == best


def test_wheels_beside_requirements_are_found_and_stay_outside(packing, workshop):
    (workshop.package / "requirements").mkdir()
    add_wheel(workshop.package / "requirements", "ours", "0.3")
    workshop.pretend_measured()

    packed = packing("ours\n")

    assert versions(packed) == {"ours": "0.3"}
    assert not [name for name in packed.files if name.endswith(".whl")]


def test_a_thin_archive_has_its_libraries_beside_it(packing, wheels):
    add_wheel(wheels, "wanted", "2.0")

    packed = packing("wanted\n", thin=True)

    libraries, runtime = packed.layers
    assert (libraries.kind, runtime.kind) == (LIBRARIES, "runtime")
    assert "wanted.py" in read_all(layer_file(packed.path, libraries.sha256))
    assert describe(packed.path).layers == packed.layers


def test_a_backport_that_would_hide_pythons_own_module_is_refused(packing, wheels, workshop):
    add_wheel(wheels, "wanted", "2.0", requires=["enum34"])
    add_wheel(wheels, "enum34", "1.1.10", {"enum/__init__.py": ""})

    with pytest.raises(CheckError, match=r"enum34 1\.1\.10"):
        packing("wanted\n")

    assert not workshop.archive.exists()


def test_what_a_layer_does_without_is_said_when_it_is_packed(packing, wheels):
    add_wheel(wheels, "wanted", "2.0", {"wanted.py": "", "wanted.pth": "import wanted\n"})

    packed = packing("wanted\n")

    (said,) = [one for one in packed.findings if one.rule == "layer-pth"]
    assert "wanted 2.0" in said.message
    assert said.message in {one.message for one in check(packed.path, image=image_of(IMAGE))}


# The lock.


def test_the_lock_decides_as_long_as_requirements_and_image_are_the_same(packing, wheels, workshop):
    add_wheel(wheels, "wanted", "2.0")
    first = packing("wanted\n")
    add_wheel(wheels, "wanted", "3.0")

    again = packing("wanted\n")

    assert again.sha256 == first.sha256
    assert len(packing.said) == 1
    text = (workshop.package / "requirements.lock").read_text()
    assert "mine:1 (Python 3.11, x86_64-manylinux_2_28)" in text
    assert f"wanted==2.0 --hash=sha256:{first.layers[0].sources[0].sha256}\n" in text

    assert versions(packing("wanted>=1\n")) == {"wanted": "3.0"}
    assert len(packing.said) == 2


def test_for_another_image_it_is_made_anew(packing, wheels, workshop):
    add_wheel(wheels, "wanted", "2.0")
    packing("wanted\n")
    add_wheel(wheels, "wanted", "3.0")

    packed = packing("wanted\n", image=image_of(f"{IMAGE},wanted==1.0"))

    assert packed.layers == ()  # the image has it
    packed = packing("wanted>=2\n", image=image_of(f"{IMAGE},wanted==1.0"))
    assert versions(packed) == {"wanted": "3.0"}


def test_the_lock_is_no_part_of_the_archive_nor_of_what_was_measured(packing, wheels, workshop):
    add_wheel(wheels, "wanted", "2.0")

    packed = packing("wanted\n")

    assert "requirements.lock" not in packed.files
    assert (workshop.package / "requirements.lock").is_file()
    assert packing("wanted\n").sha256 == packed.sha256  # nothing is measured again


def test_a_wheel_that_is_another_one_by_now_is_refused(packing, wheels, workshop, monkeypatch):
    add_wheel(wheels, "wanted", "2.0")
    packing("wanted\n")
    lock = (workshop.package / "requirements.lock").read_bytes()
    add_wheel(wheels, "wanted", "2.0", {"wanted.py": "tampered = True\n"})
    monkeypatch.setenv("UV_CACHE_DIR", str(wheels.parent / "another-cache"))

    with pytest.raises(LibrariesError, match="wanted") as caught:
        packing("wanted\n")

    assert "lock stays as it is" in caught.value.remedy
    assert (workshop.package / "requirements.lock").read_bytes() == lock


def test_the_cache_of_uv_is_enough_once_it_is_locked(packing, wheels):
    add_wheel(wheels, "wanted", "2.0", tag="cp311-cp311-manylinux_2_17_x86_64")
    first = packing("wanted\n")

    assert packing("wanted\n").sha256 == first.sha256


@pytest.mark.parametrize("text", ["", "# key: x\nwanted>=2\n", "\xff", "wanted==2.0\n"])
def test_a_lock_that_packing_has_not_written_counts_for_nothing(text):
    assert RequirementsLock.from_text(text) is None or not RequirementsLock.from_text(text).wheels


# What cannot be done.


def test_a_set_that_cannot_be_had_says_why_and_loses_nothing(packing, wheels, workshop):
    add_wheel(wheels, "wanted", "2.0", requires=["absent>3"])
    workshop.archive.parent.mkdir(exist_ok=True)
    workshop.archive.write_bytes(b"the one before")

    with pytest.raises(LibrariesError, match="absent") as caught:
        packing("wanted\n")

    assert caught.value.where.endswith("requirements.txt")
    assert "without --layers" in caught.value.remedy
    assert workshop.archive.read_bytes() == b"the one before"
    assert not (workshop.package / "requirements.lock").exists()


def test_a_distribution_without_a_wheel_for_the_image_is_named(packing, wheels):
    add_wheel(wheels, "wanted", "2.0", tag="cp311-cp311-manylinux_2_40_x86_64")

    with pytest.raises(LibrariesError, match="wanted"):
        packing("wanted\n")


@pytest.mark.parametrize(
    "line", ["wanted @ file:///tmp/wanted-2.0-py3-none-any.whl", "-r more.txt", "./wanted.whl"]
)
def test_what_no_index_has_by_name_is_refused(packing, line):
    with pytest.raises(LibrariesError, match="by name") as caught:
        packing(f"{line}\n")

    assert "folder requirements" in caught.value.remedy


def test_nothing_can_be_resolved_for_an_image_that_nobody_knows(packing):
    with pytest.raises(LibrariesError, match="which Python") as caught:
        packing("wanted\n", image=None)

    assert "--image" in caught.value.remedy


def test_without_uv_the_error_names_the_extra(packing, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setitem(sys.modules, "uv", None)

    with pytest.raises(MissingExtraError, match="uv") as caught:
        packing("wanted\n")

    assert "mmekit[layers]" in caught.value.remedy


# The same everywhere.

PACK = """\
import os, sys
from pathlib import Path
from mmekit.archive import pack
from mmekit.archive.images import image_of
os.umask(0o077)
packed = pack(Path("ridge"), Path("artifacts"), Path("out.tar.gz"), layers=True,
    image=image_of(sys.argv[1]))
print(packed.sha256)
"""


def test_the_layer_is_the_same_whatever_the_folder_umask_and_cache(
    packing, wheels, workshop, tmp_path
):
    add_wheel(wheels, "wanted", "2.0", {"wanted/bin/x": "#!/bin/sh\n", "wanted/y.py": "y = 1\n"})
    here = packing("wanted\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    workshop.package.rename(elsewhere / "ridge")
    workshop.artifacts.rename(elsewhere / "artifacts")

    there = subprocess.run(
        [sys.executable, "-c", PACK, IMAGE],
        cwd=elsewhere,
        env={
            **os.environ,
            "UV_CACHE_DIR": str(tmp_path / "another-cache"),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        check=True,
        capture_output=True,
        text=True,
    )

    assert there.stdout.strip() == here.sha256
    assert json.loads(read_all(here.path)["layers.json"][1])["layers"][0]["files"] == 6


def test_what_a_check_says_of_the_archive_is_what_packing_said(packing, wheels):
    add_wheel(wheels, "wanted", "2.0")
    packed = packing("wanted\n")

    found = check(packed.path, image=image_of(IMAGE))

    assert not [one for one in found if one.is_error]
    assert "layers" in {one.rule for one in found}


@pytest.mark.parametrize(
    "line",
    [
        "wanted @ https://me:hush@here/wanted-2.0-py3-none-any.whl?signature=hush",
        "https://me:hush@here/wanted-2.0-py3-none-any.whl?signature=hush",
        "-c https://me:hush@here/constraints.txt?signature=hush\nwanted",
    ],
)
def test_an_address_is_refused_without_its_secrets(packing, line):
    with pytest.raises(LibrariesError, match="cannot become a part of a layer") as caught:
        packing(f"{line}\n")

    assert "wanted" in str(caught.value) or "constraints" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_what_a_distribution_needs_from_an_address_is_named_without_its_secrets():
    line = "needed @ https://me:hush@here/needed-1.0-py3-none-any.whl?signature=hush"
    with pytest.raises(LibrariesError, match=r"needed.* is an address") as caught:
        list(_resolved(f"{line}\n", {}))

    assert "hush" not in str(caught.value)


def test_wheels_that_both_have_a_file_and_differ_in_it_are_refused(packing, wheels):
    add_wheel(wheels, "first", "1.0", {"first.py": "", "common.py": "a = 1\n"})
    add_wheel(wheels, "second", "1.0", {"second.py": "", "common.py": "a = 2\n"})

    with pytest.raises(LibrariesError, match=r"first-1\.0 and second-1\.0 both have .*common\.py"):
        packing("first\nsecond\n")

    add_wheel(wheels, "third", "1.0", {"third.py": "", "common.py": "a = 1\n"})
    assert "common.py" in layer_of(packing("first\nthird\n"))
