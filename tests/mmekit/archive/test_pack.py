"""The same input gives the same archive, and only what belongs there is in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile

import pytest

from mmekit.archive import pack, parse_properties, read_measured, unpack, verify
from mmekit.errors import CheckError, MeasureError, PackageError


def read_all(archive):
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def test_an_archive_is_flat_and_holds_model_runtime_and_manifest(workshop):
    workshop.pretend_measured()

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    files = read_all(workshop.archive)
    assert tuple(sorted(files)) == packed.files
    own = {name for name in files if not name.startswith("mmekit_runtime/")}
    assert own == {
        "manifest.json",
        "model.joblib",
        "model.py",
        "serving.properties",
        "sitecustomize.py",
    }
    assert "mmekit_runtime/handler.py" in files
    assert packed.size == workshop.archive.stat().st_size
    assert verify(workshop.archive).name == "ridge"
    assert not any(finding.is_error for finding in packed.findings)


def test_serving_properties_are_the_packages_own_with_what_was_missing(workshop):
    workshop.pretend_measured()
    own = b"engine=Python\nminWorkers=1\n# the end \\\nretry_threshold=1\\"
    workshop.write("serving.properties", own)

    pack(workshop.package, workshop.artifacts, workshop.archive)

    text = read_all(workshop.archive)["serving.properties"].decode("latin-1")
    properties = parse_properties(text)
    assert text.startswith(own.decode())
    assert (properties.engine, properties.min_workers) == ("Python", 1)
    assert properties.retry_threshold == 1
    assert properties.max_workers == 16
    assert properties.required_memory_mb == 20  # 20,000,000 bytes, rounded up
    assert properties.model_name == "ridge"


def test_what_the_package_says_itself_is_left_alone(workshop):
    workshop.pretend_measured()
    own = (
        "engine=Python\nminWorkers=2\nmaxWorkers=9\nretry_threshold=0\nrequired_memory_mb=900\n"
        "option.modelName=mine\n"
    )
    workshop.write("serving.properties", own)

    pack(workshop.package, workshop.artifacts, workshop.archive)

    assert read_all(workshop.archive)["serving.properties"].decode() == own


def test_a_name_beyond_ascii_is_escaped(workshop, tmp_path):
    workshop.pretend_measured()
    renamed = workshop.package.rename(tmp_path / "r\u00edg\u00ebt \U0001f600")

    pack(renamed, workshop.artifacts, workshop.archive)

    text = read_all(workshop.archive)["serving.properties"].decode("ascii")
    assert parse_properties(text).model_name == renamed.name


def test_requirements_that_the_image_provides_are_left_out(workshop):
    workshop.pretend_measured()
    workshop.write(
        "requirements.txt", "# why\nscikit-learn==1.7.2\ncatboost>=1.2  # slow\njoblib\n"
    )

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert read_all(workshop.archive)["requirements.txt"] == b"catboost>=1.2\n"
    assert "installs-at-load" in {finding.rule for finding in packed.findings}


def test_leftovers_of_editors_and_caches_stay_outside(workshop):
    workshop.write("__pycache__/model.cpython-311.pyc", b"x")
    workshop.write(".ipynb_checkpoints/model.py", b"x")
    workshop.write(".DS_Store", b"x")
    workshop.write("model.py~", b"x")
    workshop.write("features.py", b"x = 1\n")
    workshop.pretend_measured()

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert "features.py" in packed.files
    assert not [name for name in packed.files if "pyc" in name or "~" in name or "DS" in name]


def test_links_become_the_files_that_they_lead_to(workshop, tmp_path):
    (tmp_path / "blob").write_bytes(b"weights")
    (workshop.artifacts / "weights.bin").symlink_to(tmp_path / "blob")
    workshop.pretend_measured()

    pack(workshop.package, workshop.artifacts, workshop.archive)

    assert read_all(workshop.archive)["weights.bin"] == b"weights"


def test_a_link_in_a_circle_is_named(workshop):
    (workshop.artifacts / "again").symlink_to(workshop.artifacts)

    with pytest.raises(PackageError, match="leads back"):
        pack(workshop.package, workshop.artifacts, workshop.archive)


PACK = """\
import os, sys
from pathlib import Path
from mmekit.archive import pack
os.umask(int(sys.argv[4], 8))
print(pack(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])).sha256)
"""


def test_clock_umask_user_folder_order_and_environment_have_no_say(workshop, tmp_path):
    for name in ("b.txt", "a.txt", "c/d.txt"):
        workshop.write(name, name)
    workshop.pretend_measured()

    here = pack(workshop.package, workshop.artifacts, workshop.archive)

    elsewhere = tmp_path / "another place" / "deeper"
    elsewhere.mkdir(parents=True)
    copy = elsewhere / "ridge"
    copy.mkdir()
    for path in sorted(workshop.package.rglob("*"), reverse=True):
        target = copy / path.relative_to(workshop.package)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            shutil.copyfile(path, target)
            target.chmod(0o700)
            os.utime(target, (1, 1))
    shutil.copytree(workshop.artifacts, elsewhere / "artifacts")
    variables = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "5"}
    there = subprocess.run(
        [sys.executable, "-c", PACK, "ridge", "artifacts", "out.tar.gz", "077"],
        cwd=elsewhere,
        env={
            **os.environ,
            **variables,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        check=True,
        capture_output=True,
        text=True,
    )

    assert there.stdout.strip() == here.sha256
    assert (elsewhere / "out.tar.gz").read_bytes() == workshop.archive.read_bytes()
    assert (elsewhere / "out.tar.gz").stat().st_mode & 0o777 == 0o644


def test_what_was_packed_unpacks_to_the_same_files(workshop, tmp_path):
    workshop.pretend_measured()
    for compress in (None, 6):
        pack(workshop.package, workshop.artifacts, workshop.archive, compress=compress)
        unpack(workshop.archive, tmp_path / f"unpacked-{compress}")
        assert verify(tmp_path / f"unpacked-{compress}") == verify(workshop.archive)


def test_the_first_pack_measures_and_later_ones_do_not(workshop, measurement):
    first = pack(workshop.package, workshop.artifacts, workshop.archive)
    measured = read_measured(workshop.artifacts)
    assert measured is not None
    assert measured.required == measurement.required

    workshop.write("serving.properties", "engine=Python\noption.pythonExecutable=/no/python\n")
    second = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert first.sha256 != second.sha256
    assert read_measured(workshop.artifacts) == measured
    assert "measured.json" not in second.files


def test_an_error_of_the_check_refuses_before_anything_is_run_or_written(workshop):
    workshop.write("model.py", "raise RuntimeError('was run')\n")

    with pytest.raises(CheckError, match="called handle") as caught:
        pack(workshop.package, workshop.artifacts, workshop.archive)

    assert [finding.rule for finding in caught.value.findings if finding.is_error] == [
        "handler-missing"
    ]
    assert not workshop.archive.parent.exists()


def test_a_trained_anew_artefact_is_measured_anew_and_packing_says_so(workshop):
    # That this is no measurement of the model shows when it is replaced.
    workshop.pretend_measured(libraries={"invented": "1"})
    (workshop.artifacts / "notes.txt").write_text("trained anew\n")
    said = []

    packed = pack(workshop.package, workshop.artifacts, workshop.archive, say=said.append)

    measured = read_measured(workshop.artifacts)
    assert "invented" not in measured.libraries
    assert said == ["ridge: measured.json does not match the files; measuring again"]
    assert verify(workshop.archive).measured == measured
    assert not packed.findings

    again = pack(workshop.package, workshop.artifacts, workshop.archive, say=said.append)

    assert again.sha256 == packed.sha256
    assert len(said) == 1


def test_a_failed_measurement_leaves_the_archive_and_the_old_measurement(workshop):
    workshop.pretend_measured()
    pack(workshop.package, workshop.artifacts, workshop.archive)
    before = workshop.archive.read_bytes()
    measured = read_measured(workshop.artifacts)
    workshop.write("model.py", "def handle(inputs):\n    raise ValueError('bad weights')\n")

    with pytest.raises(MeasureError, match="bad weights"):
        pack(workshop.package, workshop.artifacts, workshop.archive)

    assert workshop.archive.read_bytes() == before
    assert read_measured(workshop.artifacts) == measured


def test_the_manifest_says_what_a_worker_needs(workshop):
    workshop.pretend_measured()

    pack(workshop.package, workshop.artifacts, workshop.archive, worker_slots=False)

    content = json.loads(read_all(workshop.archive)["manifest.json"])
    assert content["worker_slots"] is False
    assert content["image"] == "djl-inference:0.36.0-cpu-full"
    assert content["measured"]["imports"] == ["joblib", "numpy", "sklearn"]
    assert content["measured"]["memory"]["private"] == 100_000_000
    assert content["files"]["model.py"]["size"] == len((workshop.package / "model.py").read_bytes())


@pytest.mark.parametrize("name", ["model.py", "manifest.json", "mmekit_runtime/handler.py"])
def test_an_artefact_with_a_name_that_is_taken_is_refused(workshop, name):
    target = workshop.artifacts / name
    target.parent.mkdir(exist_ok=True)
    target.write_text("x = 1\n")

    with pytest.raises(PackageError, match=name):
        pack(workshop.package, workshop.artifacts, workshop.archive)


def test_a_missing_package_and_empty_artefacts_are_named(workshop, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PackageError, match="does not exist"):
        pack(tmp_path / "nowhere", workshop.artifacts, workshop.archive)
    with pytest.raises(PackageError, match="neither"):
        pack(empty, workshop.artifacts, workshop.archive)
    with pytest.raises(PackageError, match="empty"):
        pack(workshop.package, empty, workshop.archive)


def test_a_failed_write_leaves_an_earlier_archive_as_it_was(workshop):
    workshop.pretend_measured()
    pack(workshop.package, workshop.artifacts, workshop.archive)
    before = workshop.archive.read_bytes()
    workshop.write("model.py", "not python at all\n")

    with pytest.raises(CheckError):
        pack(workshop.package, workshop.artifacts, workshop.archive)

    assert workshop.archive.read_bytes() == before
    assert [path.name for path in workshop.archive.parent.iterdir()] == [workshop.archive.name]
