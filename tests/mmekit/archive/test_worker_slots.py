"""Worker slots travel in an archive, and what keeps a model from them is said."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import mmekit_runtime
from mmekit.archive import MeasuredMemory, check, container_environment, pack, parse_properties
from mmekit.archive.contents import Contents
from mmekit.archive.runtime import build_of, packed_runtime
from mmekit.errors import CheckError
from mmekit_runtime.slots.settings import read_preload, read_processes

RUNTIME = Path(mmekit_runtime.__file__).parent
ENGINE = "engine=Python\n"


def read_all(archive):
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def rules(findings):
    return {finding.rule: finding.severity for finding in findings}


def finding(findings, rule):
    (found,) = [finding for finding in findings if finding.rule == rule]
    return found


def settings(workshop):
    return parse_properties(read_all(workshop.archive)["serving.properties"].decode("latin-1"))


# What is in the archive.


def test_an_archive_has_the_hook_the_whole_runtime_and_its_build(workshop):
    workshop.pretend_measured()

    pack(workshop.package, workshop.artifacts, workshop.archive)

    files = read_all(workshop.archive)
    assert files["sitecustomize.py"] == (RUNTIME / "site_hook.py").read_bytes()
    installed = {f"mmekit_runtime/{it.relative_to(RUNTIME)}": it for it in RUNTIME.rglob("*.py")}
    # What gets layers ready is in archives that have some.
    layers = "mmekit_runtime/layers/"
    needed = {f"{layers}__init__.py", f"{layers}provided.py"}
    expected = {it for it in installed if it in needed or not it.startswith(layers)}
    assert {name for name in files if name.startswith("mmekit_runtime/")} == expected
    namespace = {}
    exec(files["mmekit_runtime/slots/build.py"], namespace)  # noqa: S102
    # It is that of the whole runtime: models with and without layers share a fork server.
    hashed = sorted(set(installed) - {"mmekit_runtime/slots/build.py"})
    digests = {name: hashlib.sha256(installed[name].read_bytes()).hexdigest() for name in hashed}
    lines = "".join(f"{name}\0{digest}\n" for name, digest in digests.items())
    assert namespace["BUILD"] == hashlib.sha256(lines.encode()).hexdigest()[:16]


def test_another_runtime_has_another_build(monkeypatch, tmp_path):
    copy = tmp_path / "mmekit_runtime"
    shutil.copytree(RUNTIME, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "wire.py").write_text("# another one\n")
    here = build_of(Contents.of("", packed_runtime(worker_slots=True)))

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mmekit_runtime")
    there = build_of(Contents.of("", packed_runtime(worker_slots=True)))

    assert re.fullmatch("[0-9a-f]{16}", here)
    assert re.fullmatch("[0-9a-f]{16}", there)
    assert here != there


def test_without_worker_slots_nothing_of_them_is_there(workshop):
    workshop.pretend_measured()
    workshop.write("serving.properties", ENGINE)

    packed = pack(workshop.package, workshop.artifacts, workshop.archive, worker_slots=False)

    assert "sitecustomize.py" not in packed.files
    assert not [name for name in packed.files if name.startswith("mmekit_runtime/slots")]
    assert "mmekit_runtime/handler.py" in packed.files
    assert settings(workshop).raw == {
        "engine": "Python",
        "required_memory_mb": "115",  # 120,000,000 bytes of a whole worker
        "option.modelName": "ridge",
    }


def test_a_runtime_without_worker_slots_still_imports(workshop, tmp_path):
    for member in packed_runtime(worker_slots=False):
        target = tmp_path / member.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(member.read())

    code = "import sys; sys.path.insert(0, '.'); import mmekit_runtime as m; m.TextHandler"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("folder", ["package", "artifacts"])
def test_a_sitecustomize_of_the_models_own_is_refused(workshop, folder):
    (getattr(workshop, folder) / "sitecustomize.py").write_text("x = 1\n")
    workshop.pretend_measured()

    with pytest.raises(CheckError, match=r"sitecustomize\.py already") as caught:
        pack(workshop.package, workshop.artifacts, workshop.archive)
    assert "--no-worker-slots" in caught.value.remedy

    pack(workshop.package, workshop.artifacts, workshop.archive, worker_slots=False)
    assert read_all(workshop.archive)["sitecustomize.py"] == b"x = 1\n"
    assert rules(check(workshop.archive)) == {"worker-slots": "note"}


# What packing adds to serving.properties.


def test_packing_adds_one_slot_at_load_sixteen_at_most_and_patience(workshop):
    workshop.pretend_measured()
    workshop.write("serving.properties", ENGINE)

    pack(workshop.package, workshop.artifacts, workshop.archive)

    properties = settings(workshop)
    assert (properties.min_workers, properties.max_workers) == (1, 16)
    assert properties.retry_threshold == 10


def test_sixteen_is_never_less_than_the_minimum(workshop):
    workshop.pretend_measured()
    workshop.write("serving.properties", ENGINE + "minWorkers=20\n")

    pack(workshop.package, workshop.artifacts, workshop.archive)

    assert settings(workshop).max_workers == 20


MEMORY = [
    (MeasuredMemory(120 << 20, 0, 0, "smaps_rollup", 40 << 20), "", "40"),
    (MeasuredMemory(120 << 20, 0, 0, "smaps_rollup", (40 << 20) + 1), "", "41"),
    (MeasuredMemory(120 << 20, 0, 0, "smaps_rollup", 2 << 20), "", "16"),
    (MeasuredMemory(120 << 20, 0, 0, "psutil", None), "", "120"),
    (MeasuredMemory(120 << 20, 0, 0, "smaps_rollup", 40 << 20), "option.preload=none\n", "120"),
    (MeasuredMemory(120 << 20, 0, 0, "smaps_rollup", 40 << 20), "option.async_mode=true\n", "120"),
]


@pytest.mark.parametrize(("memory", "line", "expected"), MEMORY)
def test_the_memory_declared_is_what_a_load_will_take(workshop, memory, line, expected):
    workshop.pretend_measured(memory=memory)
    workshop.write("serving.properties", ENGINE + line)

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert settings(workshop).raw["required_memory_mb"] == expected
    assert "memory-too-low" not in rules(packed.findings)


def test_a_model_whose_workers_never_become_slots_gets_no_sixteen_processes(workshop):
    workshop.pretend_measured()
    workshop.write("serving.properties", ENGINE + "option.enable_venv=true\n")

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert settings(workshop).max_workers is None
    assert rules(packed.findings)["slots-unused"] == "warning"


# What the check says.


def test_the_check_of_an_archive_says_whether_slots_are_in_and_what_is_preloaded(workshop):
    workshop.pretend_measured()
    pack(workshop.package, workshop.artifacts, workshop.archive)
    namespace = {}
    exec(read_all(workshop.archive)["mmekit_runtime/slots/build.py"], namespace)  # noqa: S102

    note = finding(check(workshop.archive), "worker-slots")

    assert f"build {namespace['BUILD']}" in note.message
    assert "before the fork: joblib, sklearn, sklearn.linear_model." in note.message
    assert "takes 20 MiB, a process of its own would take 115 MiB" in note.message

    pack(workshop.package, workshop.artifacts, workshop.archive, worker_slots=False)
    assert "no worker slots" in finding(check(workshop.archive), "worker-slots").message


def test_what_option_preload_says_counts_and_not_what_was_measured(workshop):
    workshop.pretend_measured(threads={"joblib": 2}, fork_failure="it ended with signal SIGSEGV")
    workshop.write("serving.properties", ENGINE + "option.preload=none\n")
    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert not {"import-starts-threads", "fails-when-forked"} & set(rules(packed.findings))
    note = finding(check(workshop.archive), "worker-slots")
    assert "option.preload says what is imported before the fork: none." in note.message


PROPERTIES = [
    ("maxWorkers=4", {"few-slots": "warning"}),
    ("maxWorkers=8", {}),
    ("minWorkers=2", {"many-slots-at-load": "note"}),
    ("batch_size=4", {"batch-shares-status": "warning"}),
    ("retry_threshold=0", {"first-failure-is-final": "note"}),
    ("option.async_mode=true", {"slots-unused": "warning", "first-failure-is-final": "note"}),
    ("option.async_mode=false", {}),
    ("option.mpi_mode=true", {"slots-unused": "warning", "first-failure-is-final": "note"}),
    ("option.processes=1", {}),
    ("option.processes=4", {"processes-copy-the-model": "note"}),
    ("option.processes=auto", {}),
    ("option.park_after=0", {}),
    ("option.park_after=2.5", {}),
    ("option.park_after=never", {"park-after-ignored": "warning"}),
    ("option.parkAfter=0", {"misspelt-key": "warning"}),
    ("option.processes=0", {"processes-ignored": "warning"}),
    ("option.processes=all", {"processes-ignored": "warning"}),
    ("option.processes=-1", {"processes-ignored": "warning"}),
    ("option.processes=" + "9" * 5000, {"processes-ignored": "warning"}),
    (
        "option.processes=2 ",
        {"processes-copy-the-model": "note", "trailing-blank": "warning"},
    ),
    (
        "option.env=OMP_NUM_THREADS=auto",
        {"threads-ignored": "warning", "own-fork-server": "note"},
    ),
    (
        "option.processes=2\noption.env=OMP_NUM_THREADS=2",
        {
            "processes-copy-the-model": "note",
            "threads-in-processes": "warning",
            "own-fork-server": "note",
        },
    ),
    ("option.preload=none", {}),
    ("option.preload=joblib, sklearn.linear_model", {}),
    ("option.preload=joblib,sklaern", {"preload-unknown": "warning"}),
    ("option.preload=joblib sklearn", {"preload-unknown": "warning"}),
    ("option.preload=model", {"preload-unknown": "warning"}),
    ("option.env=OMP_NUM_THREADS=2", {"own-fork-server": "note"}),
    ("option.env=COLOUR=blue", {}),
    ("option.pre_load=none", {"misspelt-key": "warning"}),
]


@pytest.mark.parametrize(("line", "expected"), PROPERTIES)
def test_what_works_against_worker_slots_is_found(workshop, line, expected):
    workshop.write("serving.properties", ENGINE + line + "\n")

    findings = check(workshop.package)

    assert rules(findings) == expected
    assert all(finding.message and finding.remedy for finding in findings)


def test_without_slots_a_worker_is_a_process_and_is_counted_as_one(workshop):
    workshop.pretend_measured()
    workshop.write("serving.properties", ENGINE + "maxWorkers=4\nminWorkers=2\n")

    packed = pack(workshop.package, workshop.artifacts, workshop.archive, worker_slots=False)

    assert "memory-of-workers" in rules(packed.findings)
    assert not {"few-slots", "many-slots-at-load"} & set(rules(packed.findings))


def test_torch_that_only_skops_brought_in_is_no_reason_for_cores(workshop):
    workshop.pretend_measured(preload=("skops",), imports=("skops", "sklearn", "torch"))
    workshop.write("serving.properties", ENGINE)

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert "one-core" not in rules(packed.findings)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", True),
        ("option.env=OMP_NUM_THREADS=2", False),
        ("option.env=OMP_NUM_THREADS=1", False),
        ("option.env=MKL_NUM_THREADS=2", False),
        ("option.processes=auto", False),
    ],
)
def test_torch_is_said_to_use_one_core_unless_a_setting_says_how_many(workshop, line, said):
    workshop.pretend_measured(preload=("setfit",), imports=("setfit", "torch"))
    workshop.write("serving.properties", ENGINE + line + "\n")

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert ("one-core" in rules(packed.findings)) is said


def test_imports_that_start_threads_are_named(workshop):
    workshop.pretend_measured(threads={"joblib": 2})

    packed = pack(workshop.package, workshop.artifacts, workshop.archive)

    assert "joblib (2)" in finding(packed.findings, "import-starts-threads").message


def test_a_model_that_fails_when_forked_is_refused_unless_it_need_not_be(workshop):
    workshop.pretend_measured(fork_failure="it ended with signal SIGSEGV")

    with pytest.raises(CheckError, match="SIGSEGV"):
        pack(workshop.package, workshop.artifacts, workshop.archive)
    pack(workshop.package, workshop.artifacts, workshop.archive, worker_slots=False)


# What is preloaded, end to end.

LOAD_AND_PREDICT = """\
import joblib, sys
joblib.load(sys.argv[1]).predict([[1.0, 2.0]])
"""
PRELOAD = """\
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
SHOW = """
specs = {name: getattr(module, "__spec__", None) for name, module in sys.modules.items()}
print(*(name for name, spec in specs.items() if spec is not None and spec.name == name))
"""


def modules_after(code, *arguments):
    shown = subprocess.run(
        [sys.executable, "-c", code + SHOW, *arguments], capture_output=True, text=True, check=True
    ).stdout.split()
    return {name for name in shown if name.partition(".")[0] not in sys.stdlib_module_names}


def test_the_preload_brings_in_every_library_module_that_the_model_needs(workshop, measurement):
    needed = modules_after(LOAD_AND_PREDICT, str(workshop.artifacts / "model.joblib"))
    assert "sklearn.linear_model._ridge" in needed

    assert needed <= modules_after(PRELOAD, *measurement.preload)


def test_the_preload_is_what_the_model_named_in_its_order_after_its_packages(measurement):
    assert measurement.preload == (
        "joblib",
        "sklearn",
        "sklearn.linear_model",
        "sklearn.linear_model._ridge",
    )
    assert measurement.threads == {}
    assert measurement.fork_failure is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="worker slots need Linux")
def test_a_forked_model_takes_a_fraction_of_a_process(measurement):
    assert 0 < measurement.memory.forked < measurement.memory.private / 4


def test_the_container_reads_the_preload_from_the_manifest(workshop, tmp_path):
    workshop.pretend_measured()
    pack(workshop.package, workshop.artifacts, workshop.archive)
    (tmp_path / "manifest.json").write_bytes(read_all(workshop.archive)["manifest.json"])

    found = read_preload(str(tmp_path))
    # The libraries that they bring in come before the modules that the model asks for.
    assert found[-3:] == ["joblib", "sklearn", "sklearn.linear_model"]
    assert {"joblib", "sklearn"} < set(found[:-3]) | {"joblib"}


def test_a_build_that_was_not_packed_is_no_build():
    assert build_of(Contents.of("", packed_runtime(worker_slots=False))) is None


# What to put around the archive.


def test_the_containers_environment_keeps_the_images_options_and_adds_threads():
    environment = container_environment()

    assert environment["OMP_NUM_THREADS"] == "1"
    options = environment["JAVA_OPTS"].split()
    assert options[:3] == ["-Xmx1g", "-Xms1g", "-XX:+ExitOnOutOfMemoryError"]
    assert "-Djava.util.concurrent.ForkJoinPool.common.parallelism=16" in options


@pytest.mark.parametrize(
    ("lines", "processes", "preload"),
    [
        ("option.processes=3\noption.preload=joblib, sklearn", 3, ["joblib", "sklearn"]),
        ("option.processes 3", 3, []),
        ("  option.processes : 03 \r\noption.preload=none\r\n", 3, []),
        ("option.processes=\n3", None, []),
        ("option.preload=\noption.processes=2", 2, []),
        ("option.processes=2\noption.processes=4.5", None, []),
        ("option.processes=" + "9" * 5000, None, []),
        ("#option.processes=2\noption.processes.old=3", None, []),
    ],
)
def test_the_container_reads_its_settings_line_by_line(tmp_path, lines, processes, preload):
    (tmp_path / "serving.properties").write_text(lines, newline="")

    assert read_processes(str(tmp_path)) == processes
    assert read_preload(str(tmp_path)) == preload


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("calls = 0\ndef handle(inputs):\n    global calls\n    calls += 1\n", "calls"),
        ("seen = []\ndef handle(inputs):\n    seen.append(1)\n", "seen"),
        ("from collections import deque\nseen = deque()\ndef handle(i):\n    seen.pop()\n", "seen"),
        ("cache: dict = {}\ndef handle(inputs):\n    cache[1] = 2\n", "cache"),
        ("class H:\n    def predict(self):\n        self.n += 1\nhandle = H()\n", "self.n"),
        # A model that is loaded when it is first needed is loaded again.
        ("model = None\ndef handle(i):\n    global model\n    model = model or 1\n", None),
        ("class H:\n    def load(self, folder):\n        self.n += 1\nhandle = H()\n", None),
        ("def handle(inputs):\n    rows = []\n    rows.append(1)\n", None),
    ],
)
def test_state_that_parking_loses_is_found(workshop, code, name):
    workshop.write("serving.properties", ENGINE)
    workshop.write("model.py", code)

    found = [one for one in check(workshop.package) if one.rule == "state-in-globals"]

    assert [one.message.partition(" ")[0] for one in found] == ([] if name is None else [name])


def test_a_model_that_never_parks_may_keep_state(workshop):
    workshop.write("serving.properties", ENGINE + "option.park_after=0\n")
    workshop.write("model.py", "seen = []\ndef handle(inputs):\n    seen.append(1)\n")

    assert "state-in-globals" not in rules(check(workshop.package))


def test_with_layers_alone_packing_adds_the_hook_and_no_slots():
    files = Contents.of("", packed_runtime(worker_slots=False, layers=True))

    assert "sitecustomize.py" in files
    assert not any(name.startswith("mmekit_runtime/slots/") for name in files.files)
    assert build_of(files) is None
