"""What would go wrong in the container is found beforehand, with a remedy."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tarfile

import pytest

from mmekit.archive import check, pack
from mmekit.errors import ArchiveError, CheckError, PackageError


def rules(findings):
    return {finding.rule: finding.severity for finding in findings}


def test_a_sound_package_has_no_findings(workshop):
    workshop.pretend_measured()

    assert rules(check(workshop.package)) == {}


def test_of_a_sound_archive_only_its_worker_slots_are_told(workshop):
    workshop.pretend_measured()
    pack(workshop.package, workshop.artifacts, workshop.archive)

    assert rules(check(workshop.archive)) == {"worker-slots": "note"}


ENGINE = "engine=Python\nretry_threshold=1\n"

PROPERTIES = [
    ("retry_threshold=1", "engine-missing", "warning"),
    ("engine=python\nretry_threshold=1", "engine-unknown", "error"),
    ("engine=Python \nretry_threshold=1", "engine-unknown", "error"),
    ("engine=PyTorch\nretry_threshold=1", "engine-other", "warning"),
    ("engine=Python\nretry_threshold=0", "first-failure-is-final", "note"),
    (ENGINE + "batch_size=abc", "bad-integer", "error"),
    (ENGINE + "batch_size=8", "batch-shares-status", "warning"),
    (ENGINE + "batch_size=0", "batch-too-small", "error"),
    (ENGINE + "job_queue_size=0", "queue-too-short", "error"),
    (ENGINE + "max_idle_time=0", "idle-time-too-short", "warning"),
    (ENGINE + "option.predict_timeout=soon", "bad-integer", "warning"),
    (ENGINE + "minWorkers=0", "no-worker-at-load", "warning"),
    (ENGINE + "maxWorkers=0", "max-workers-ignored", "warning"),
    (ENGINE + "a=\\u00g0", "properties-unreadable", "error"),
    (ENGINE + "engine=Python", "duplicate-key", "warning"),
    (ENGINE + "max_workers=2", "misspelt-key", "warning"),
    (ENGINE + "option.entry_point=model.py", "misspelt-key", "warning"),
    (ENGINE + "predict_timeout=9", "misspelt-key", "warning"),
    (ENGINE + "colour=red", "unknown-key", "warning"),
    (ENGINE + "OMP_NUM_THREADS=2", "variable-as-key", "warning"),
    (ENGINE + 'batch_size="1"', "bad-integer", "error"),
    (ENGINE + 'option.predict_timeout="9"', "bad-integer", "warning"),
    (ENGINE + "option.modelName='ridge'", "quoted-value", "warning"),
    (ENGINE + 'option.env="A=1"', "quoted-value", "warning"),
    (ENGINE + "option.env=A=1,B='2'", "quoted-value", "warning"),
    (ENGINE + "option.modelName=ridge ", "trailing-blank", "warning"),
    (ENGINE + "option.greeting=\u00e9", "not-ascii", "warning"),
    (ENGINE + "option.env=OPTION_ENTRY_POINT=a.py", "server-variable", "warning"),
    (ENGINE + "option.modelName=model.py", "model-name-is-a-file", "error"),
    (ENGINE + "option.entryPoint=other.py", "entry-point-missing", "error"),
    (ENGINE + "option.entryPoint=other", "entry-point-missing", "error"),
    (ENGINE + "option.entryPoint=/opt/model.py", "entry-point-absolute", "warning"),
    (ENGINE + "option.entryPoint=https://example.com/a.py", "entry-point-from-the-net", "warning"),
    (ENGINE + "option.handler=answer", "handler-missing", "error"),
]


@pytest.mark.parametrize(("text", "rule", "severity"), PROPERTIES)
def test_a_trap_in_serving_properties_is_found(workshop, text, rule, severity):
    workshop.write("serving.properties", text)

    findings = check(workshop.package)

    assert rules(findings) == {rule: severity}
    assert all(finding.message and finding.remedy for finding in findings)
    assert all("/ridge" in finding.where for finding in findings)


MISSPELT = [
    ("maxWorker", "maxWorkers"),
    ("maxworkers", "maxWorkers"),
    ("max_workers", "maxWorkers"),
    ("min_workers", "minWorkers"),
    ("MAX_WORKERS", "maxWorkers"),
    ("cpu.min_workers", "cpu.minWorkers"),
    ("required_memory", "required_memory_mb"),
    ("requiredMemoryMb", "required_memory_mb"),
    ("batchsize", "batch_size"),
    ("option.batch_size", "batch_size"),
    ("max_batch_delay_ms", "max_batch_delay"),
    ("job_queue", "job_queue_size"),
    ("model_name", "option.modelName"),
    ("handler", "option.handler"),
    ("option.entrypoint", "option.entryPoint"),
    ("option.entry-point", "option.entryPoint"),
    ("option.predict_timout", "option.predict_timeout"),
    ("option.model_load_timeout", "option.model_loading_timeout"),
    ("option.python_executable", "option.pythonExecutable"),
    ("option.modeName", "option.modelName"),
    ("option.trust_insecure_model_file", "option.trust_insecure_model_files"),
    ("option.process", "option.processes"),
    ("OPTION_ENTRY_POINT", "option.entryPoint"),
    ("OPTION_DEPTH", "option.depth"),
    ("SERVING_MAX_WORKERS", "maxWorkers"),
    ("SAGEMAKER_MODEL_SERVER_TIMEOUT", "option.predict_timeout"),
]


@pytest.mark.parametrize(("key", "meant"), MISSPELT)
def test_a_misspelt_key_is_told_the_right_one(workshop, key, meant):
    workshop.write("serving.properties", f"{ENGINE}{key}=9\n")

    (finding,) = check(workshop.package)

    assert (finding.rule, finding.severity) == ("misspelt-key", "warning")
    assert f"does not know {key}" in finding.message
    assert finding.remedy == f"Write {meant}=9"
    assert finding.where.endswith("serving.properties:3")


@pytest.mark.parametrize(
    "line",
    [
        "option.depth=6",
        "option.threshold=0.5",
        "option.labels=a,b",
        "option.model_path=weights",
        "option.minWorkers=1",
        "option.tensor_parallel_degree=max",
        "option.skops_trusted_types=numpy.ndarray",
        "gpu.required_memory_mb=1",
        "log_request_metric=true",
        "option.question=Who said 'no'?",
        'option.prompts=["a", "b"]',
        'option.env=A={"b"}',
    ],
)
def test_known_keys_and_options_of_the_handlers_own_are_left_alone(workshop, line):
    workshop.write("serving.properties", f"{ENGINE}{line}\n")

    assert rules(check(workshop.package)) == {}


def test_what_another_engine_reads_is_not_known_here(workshop):
    workshop.write("serving.properties", "engine=PyTorch\nretry_threshold=1\ntopK=5\n")

    assert rules(check(workshop.package)) == {"engine-other": "warning"}


QUOTED = [
    ('option.env="A=1"', "option.env=A=1"),
    ("option.env=A='1', B=2", "option.env=A=1,B=2"),
    ("option.entryPoint='model.py'", "option.entryPoint=model.py"),
    ('engine="Python"', "engine=Python"),
    ('maxWorkers="8"', "maxWorkers=8, with digits only."),
]


@pytest.mark.parametrize(("line", "right"), QUOTED)
def test_quotes_are_part_of_a_value_and_the_remedy_has_none(workshop, line, right):
    workshop.write("serving.properties", f"engine=Python\n{line}\nretry_threshold=1\n")

    assert f"Write {right}" in [finding.remedy for finding in check(workshop.package)]


def test_a_variable_of_the_servers_in_option_env_is_told_the_key(workshop):
    workshop.write("serving.properties", ENGINE + "option.env=SERVING_BATCH_SIZE=1\n")

    (finding,) = check(workshop.package)

    assert finding.rule == "server-variable"
    assert "Write batch_size=1 in serving.properties" in finding.remedy


TWO_CONSEQUENCES = [
    (
        "option.pythonExecutable=python3.9",
        {"python-executable": "warning", "own-fork-server": "note"},
    ),
    ("option.enable_venv=true", {"virtual-environment": "note", "slots-unused": "warning"}),
    (
        "minWorkers=9\nmaxWorkers=8",
        {"workers-contradict": "warning", "many-slots-at-load": "note"},
    ),
]


@pytest.mark.parametrize(("text", "expected"), TWO_CONSEQUENCES)
def test_what_has_two_consequences_is_found_twice(workshop, text, expected):
    workshop.write("serving.properties", ENGINE + text)

    assert rules(check(workshop.package)) == expected


def test_djls_own_handlers_need_no_file(workshop):
    workshop.write("serving.properties", ENGINE + "option.entryPoint=djl_python.huggingface\n")

    assert rules(check(workshop.package)) == {}


HANDLE = "def handle(inputs):\n    return None\n"

SOURCES = [
    ("def handle(inputs:\n", "syntax-error", "error"),
    ("def predict(inputs): ...\n", "handler-missing", "error"),
    ("import logging\nlogging.disable()\n" + HANDLE, "log-level-raised", "error"),
    ("import logging\nlogging.disable(logging.INFO)\n" + HANDLE, "log-level-raised", "error"),
    (
        "import logging as l\nl.getLogger().setLevel(l.WARNING)\n" + HANDLE,
        "log-level-raised",
        "error",
    ),
    (
        "from logging import getLogger\nroot = getLogger()\nroot.setLevel('ERROR')\n" + HANDLE,
        "log-level-raised",
        "error",
    ),
    ("import logging\nlogging.root.setLevel(50)\n" + HANDLE, "log-level-raised", "error"),
    (
        "import logging\ntry:\n    logging.basicConfig(level=logging.ERROR, force=True)\n"
        "finally:\n    pass\n" + HANDLE,
        "log-level-raised",
        "error",
    ),
    ("import joblib\nmodel = joblib.load('model.joblib')\n" + HANDLE, "loads-at-import", "warning"),
    (
        "from pickle import load\nwith open('m') as f:\n    model = load(f)\n" + HANDLE,
        "loads-at-import",
        "warning",
    ),
    (
        "from setfit import SetFitModel\nM = SetFitModel.from_pretrained('.')\n" + HANDLE,
        "loads-at-import",
        "warning",
    ),
    (
        "import threading as t\nt.Thread(target=print).start()\n" + HANDLE,
        "thread-at-import",
        "warning",
    ),
    (
        "class Model:\n    import torch\n    net = torch.load('m')\nhandle = Model()\n",
        "loads-at-import",
        "warning",
    ),
]


@pytest.mark.parametrize(("code", "rule", "severity"), SOURCES)
def test_a_trap_in_model_py_is_found_without_running_it(workshop, code, rule, severity):
    workshop.write("model.py", code)

    findings = check(workshop.package)

    assert rules(findings) == {rule: severity}
    assert "model.py" in findings[0].where


HARMLESS = [
    "import logging\nlogging.getLogger(__name__).setLevel('ERROR')\n" + HANDLE,
    "import logging\nlogging.getLogger('sklearn').setLevel(logging.ERROR)\n" + HANDLE,
    "import logging\nlogging.basicConfig(level=logging.ERROR)\n" + HANDLE,
    "import logging\nlogging.getLogger().setLevel(logging.DEBUG)\n" + HANDLE,
    "import logging\nlogging.disable(logging.DEBUG)\n" + HANDLE,
    "import logging\ndef load():\n    logging.disable()\n" + HANDLE,
    "import joblib\ndef load():\n    return joblib.load('m')\n" + HANDLE,
    "import threading\ndef load():\n    threading.Thread(target=print).start()\n" + HANDLE,
    "import joblib\nload = lambda: joblib.load('m')\n" + HANDLE,
    "import joblib\nif __name__ == '__main__':\n    joblib.load('m')\n" + HANDLE,
    "try:\n    from fast import handle\nexcept ImportError:\n    from slow import handle\n",
    "from handlers import *\n",
    "handle: object = print\n",
    "async def handle(inputs): ...\n",
    "(handle, other) = 1, 2\n",
]


@pytest.mark.parametrize("code", HARMLESS)
def test_harmless_code_is_left_alone(workshop, code):
    workshop.write("model.py", code)

    assert rules(check(workshop.package)) == {}


def test_the_file_that_the_entry_point_names_is_the_one_looked_at(workshop):
    workshop.write("serving.properties", ENGINE + "option.entryPoint=app.main\n")
    workshop.write("app/main.py", "x = 1\n")

    assert rules(check(workshop.package)) == {"handler-missing": "error"}


FILES = [
    (".env", b"PASSWORD=1", "looks-like-a-secret", "error"),
    ("keys/id_rsa", b"x", "looks-like-a-secret", "error"),
    (".aws/credentials", b"x", "looks-like-a-secret", "error"),
    ("tls.pem", b"-----BEGIN RSA PRIVATE KEY-----\n", "secret-in-text", "error"),
    ("a\\b.txt", b"x", "awkward-name", "error"),
]


@pytest.mark.parametrize(("name", "content", "rule", "severity"), FILES)
def test_a_file_that_should_not_be_there_is_found(workshop, name, content, rule, severity):
    workshop.write(name, content)

    assert rules(check(workshop.package)) == {rule: severity}


@pytest.mark.skipif(sys.platform != "linux", reason="names are UTF-8 or refused by the system")
def test_a_name_that_is_not_utf_8_is_found(workshop):
    (workshop.package / os.fsdecode(b"caf\xe9.txt")).write_bytes(b"x")
    workshop.pretend_measured()

    findings = check(workshop.package, artifacts=workshop.artifacts)

    assert rules(findings)["awkward-name"] == "error"
    assert r"caf\udce9.txt" in findings[0].message
    findings[0].message.encode()


def test_a_link_that_leads_out_of_the_package_is_found(workshop, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "features.py").write_text("x = 1\n")
    (workshop.package / "lib").symlink_to(tmp_path / "shared")
    (workshop.package / "same.py").symlink_to(workshop.package / "model.py")
    workshop.pretend_measured()

    findings = check(workshop.package)

    assert rules(findings) == {"outward-link": "error"}
    assert findings[0].where.endswith("/ridge/lib")
    with pytest.raises(CheckError):
        pack(workshop.package, workshop.artifacts, workshop.archive)


def test_a_file_that_matters_to_worker_slots_as_well_is_found_twice(workshop):
    workshop.write("requirements.txt", "catboost\n")
    expected = {"installs-at-load": "warning", "own-fork-server": "note"}
    assert rules(check(workshop.package)) == expected

    (workshop.package / "requirements.txt").unlink()
    workshop.write("MAR-INF/MANIFEST.json", "{}")
    expected = {"torchserve-archive": "error", "slots-unused": "warning"}
    assert rules(check(workshop.package)) == expected


def test_a_certificate_is_no_secret(workshop):
    workshop.write("ca.pem", b"-----BEGIN CERTIFICATE-----\n")

    assert rules(check(workshop.package)) == {}


@pytest.mark.parametrize("name", ["model.json", "model.onnx", "model.pt", "config.pbtxt"])
def test_a_file_that_would_pick_another_engine_makes_a_missing_engine_an_error(workshop, name):
    workshop.write(name, b"{}")
    assert rules(check(workshop.package)) == {}

    workshop.write("serving.properties", "retry_threshold=1\n")
    assert rules(check(workshop.package)) == {"engine-missing": "error"}


def test_a_package_without_model_file_or_sample_is_told_so(workshop):
    (workshop.package / "model.py").unlink()
    (workshop.package / "sample_request.json").unlink()

    found = rules(check(workshop.package))

    assert found == {"model-file-missing": "error", "no-sample": "note"}


def test_an_awkward_package_name_is_found(workshop, tmp_path):
    renamed = workshop.package.rename(tmp_path / "my model")

    assert rules(check(renamed)) == {"package-name": "warning"}


LIBRARIES = {"scikit-learn": "1.7.2", "numpy": "2.4.3", "torch": "2.7.1"}

TRAINED = [
    ({"libraries": LIBRARIES | {"numpy": "1.26.4"}}, {"library-version": "error"}),
    ({"libraries": LIBRARIES | {"numpy": "2.0.0"}}, {}),
    ({"libraries": LIBRARIES | {"torch": "2.9.0"}}, {"library-version": "warning"}),
    ({"libraries": LIBRARIES | {"torch": "2.7.1+cpu"}}, {}),
    ({"libraries": {"catboost": "1.2"}, "required": ("catboost",)}, {"library-missing": "warning"}),
    ({"libraries": {"psutil": "7.0"}, "required": ()}, {}),
    ({"python": "3.12.1"}, {"python-version": "note"}),
    ({"python": "3.12.1", "required": ("cloudpickle",)}, {"python-version": "warning"}),
]


@pytest.mark.parametrize(("changes", "expected"), TRAINED)
def test_versions_of_training_are_compared_with_the_images(workshop, changes, expected):
    workshop.pretend_measured(**changes)

    assert rules(check(workshop.package, artifacts=workshop.artifacts)) == expected


def written_by(workshop, version):
    """Make the artefact one of another scikit-learn."""
    artefact = workshop.artifacts / "model.joblib"
    artefact.write_bytes(artefact.read_bytes().replace(b"1.7.2", version.encode()))


@pytest.mark.parametrize(("version", "severity"), [("1.9.0", "error"), ("1.7.0", "warning")])
def test_the_version_that_a_pickle_names_counts_and_not_the_installed_one(
    workshop, version, severity
):
    written_by(workshop, version)
    workshop.pretend_measured()

    (finding,) = check(workshop.package, artifacts=workshop.artifacts)

    assert (finding.rule, finding.severity) == ("library-version", severity)
    assert f"model.joblib says that it was made with scikit-learn {version}" in finding.message
    assert finding.where.endswith("model.joblib")


def test_a_pickle_of_the_images_release_is_sound_whatever_was_installed(workshop):
    workshop.pretend_measured(libraries=LIBRARIES | {"scikit-learn": "1.9.0"})

    assert rules(check(workshop.package, artifacts=workshop.artifacts)) == {}


def test_of_a_pickle_that_does_not_tell_the_installed_version_counts(workshop):
    (workshop.artifacts / "model.joblib").write_bytes(pickle.dumps({"trees": 3}))
    workshop.pretend_measured(libraries=LIBRARIES | {"scikit-learn": "1.9.0"})

    (finding,) = check(workshop.package, artifacts=workshop.artifacts)

    assert (finding.rule, finding.severity) == ("library-version", "error")
    assert "does not say what it was made with, and was measured with" in finding.message


def test_a_version_is_found_without_a_measurement_and_in_an_archive(workshop):
    written_by(workshop, "1.9.0")
    assert rules(check(workshop.package, artifacts=workshop.artifacts)) == {
        "library-version": "error"
    }

    artefact = (workshop.artifacts / "model.joblib").read_bytes()
    files = {"serving.properties": ENGINE.encode(), "model.py": HANDLE.encode()}
    archive = by_hand(workshop.archive, files | {"model.joblib": artefact})
    assert rules(check(archive))["library-version"] == "error"


def test_a_version_that_the_requirements_bring_is_not_compared(workshop):
    written_by(workshop, "1.9.0")
    workshop.write("requirements.txt", "scikit-learn==1.9.0\n")

    assert "library-version" not in rules(check(workshop.package, artifacts=workshop.artifacts))


def test_a_measurement_of_other_files_is_found(workshop):
    workshop.pretend_measured()
    workshop.write("model.py", HANDLE)

    assert rules(check(workshop.package, artifacts=workshop.artifacts)) == {
        "stale-measurement": "warning"
    }


OF_MAIN = b"\x80\x03c__main__\nDoubler\n)\x81."


def test_a_class_of_the_training_script_is_found_before_anything_is_run(workshop):
    (workshop.artifacts / "model.joblib").write_bytes(OF_MAIN)

    (finding,) = check(workshop.package, artifacts=workshop.artifacts)

    assert (finding.rule, finding.severity) == ("class-of-main", "error")
    assert "model.joblib looks for Doubler in __main__" in finding.message
    assert "module beside model.py" in finding.remedy
    with pytest.raises(CheckError, match="Doubler"):
        pack(workshop.package, workshop.artifacts, workshop.archive)
    assert not (workshop.artifacts / "measured.json").exists()


@pytest.mark.parametrize(
    ("code", "severity"),
    [
        ("import __main__\n__main__.Doubler = dict\n", "warning"),
        ("import sys\nsys.modules['__main__'].Doubler = dict\n", "warning"),
        ("if __name__ == '__main__':\n    print('by hand')\n", "error"),
    ],
)
def test_code_that_puts_the_class_there_makes_it_a_warning(workshop, code, severity):
    (workshop.artifacts / "model.joblib").write_bytes(OF_MAIN)
    workshop.write("model.py", code + HANDLE)

    found = rules(check(workshop.package, artifacts=workshop.artifacts))

    assert found == {"class-of-main": severity}


def test_what_a_requirement_brings_along_is_not_missing(workshop):
    # scikit-learn is not there for this test: what hypothesis requires is what it brings along.
    workshop.write("requirements.txt", "hypothesis\n")
    workshop.pretend_measured(required=("hypothesis", "sortedcontainers"))

    found = rules(check(workshop.package, artifacts=workshop.artifacts))

    assert "library-missing" not in found


def test_nothing_is_compared_with_an_image_of_ones_own(workshop):
    workshop.pretend_measured(python="3.13.0", libraries={"scikit-learn": "1.9.0"})

    found = rules(check(workshop.package, artifacts=workshop.artifacts, image=None))

    assert found == {
        "installs-at-load": "warning",
        "own-fork-server": "note",
    }


def test_too_little_memory_is_found(workshop):
    workshop.pretend_measured()
    workshop.write("serving.properties", ENGINE + "required_memory_mb=50\n")
    pack(workshop.package, workshop.artifacts, workshop.archive)
    assert "memory-too-low" not in rules(check(workshop.archive))

    pack(workshop.package, workshop.artifacts, workshop.archive, worker_slots=False)
    assert rules(check(workshop.archive))["memory-too-low"] == "warning"

    workshop.write("serving.properties", ENGINE + "required_memory_mb=10\n")
    pack(workshop.package, workshop.artifacts, workshop.archive)
    assert rules(check(workshop.archive))["memory-too-low"] == "warning"


def by_hand(archive, files):
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return archive


def test_an_archive_made_by_hand_is_told_what_packing_would_have_added(workshop):
    files = {"serving.properties": ENGINE.encode(), "model.py": HANDLE.encode()}
    expected = {
        "memory-undeclared": "warning",
        "model-name-missing": "note",
        "worker-slots": "note",
    }

    assert rules(check(by_hand(workshop.archive, files))) == expected

    nested = {f"model/{name}": content for name, content in files.items()}
    found = rules(check(by_hand(workshop.archive, nested)))
    assert found == expected | {"nested-folder": "note"}


def test_unsafe_damaged_and_changed_archives_are_errors(workshop):
    assert rules(check(by_hand(workshop.archive, {"../a": b""}))) == {"unsafe-archive": "error"}

    workshop.archive.write_bytes(b"nothing")
    assert rules(check(workshop.archive)) == {"damaged-archive": "error"}

    workshop.pretend_measured()
    pack(workshop.package, workshop.artifacts, workshop.archive)
    with tarfile.open(workshop.archive) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    changed = by_hand(workshop.archive, files | {"model.py": HANDLE.encode()})
    assert rules(check(changed)) == {"manifest-contradicted": "error", "worker-slots": "note"}


def test_errors_come_first(workshop):
    workshop.write("serving.properties", "engine=python\nminWorkers=2\nbatch_size=2\n")

    severities = [finding.severity for finding in check(workshop.package)]

    assert severities == ["error", "warning", "note"]


def test_what_is_not_there_is_an_error_of_its_own(tmp_path):
    with pytest.raises(ArchiveError, match="does not exist"):
        check(tmp_path / "nothing.tar.gz")
    with pytest.raises(PackageError, match="neither"):
        check(tmp_path)
