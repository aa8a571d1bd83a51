"""A model is loaded and asked once, in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import sys

import pytest

from mmekit.archive import measure, read_measured
from mmekit.archive.measure import fingerprint
from mmekit.errors import MeasureError, PackageError
from tests.server_process import wait_until

MIB = 1 << 20


def test_memory_versions_and_imports_are_what_the_process_had(measurement):
    assert measurement.python == platform.python_version()
    assert measurement.libraries["scikit-learn"] == "1.7.2"
    assert {"numpy", "scipy", "joblib"} <= set(measurement.libraries)
    assert set(measurement.required) == {"joblib", "scikit-learn"}
    assert {"joblib", "numpy", "sklearn"} <= set(measurement.imports)
    assert not {"djl_python", "mmekit", "mmekit_runtime", "json"} & set(measurement.imports)
    assert "sklearn.linear_model" in measurement.modules
    memory = measurement.memory
    assert 30 * MIB < memory.private <= memory.proportional <= memory.peak < 1000 * MIB
    assert 0 <= memory.required_mb * MIB - memory.proportional < MIB


def test_the_peak_is_the_models_and_not_that_of_the_process_which_asks(workshop):
    ballast = b"x" * (700 * MIB)
    workshop.write("model.py", "def handle(inputs): ...\n")

    measured = measure(workshop.package, workshop.artifacts)

    assert measured.memory.private <= measured.memory.peak < len(ballast) - 100 * MIB


@pytest.mark.parametrize("number", [1, 2])
def test_an_older_measurement_is_none(workshop, number):
    (workshop.artifacts / "measured.json").write_text(f'{{"format": {number}}}')

    assert read_measured(workshop.artifacts) is None


ASKING_AWS = """\
import json, os, boto3
def handle(inputs):
    if inputs.is_empty():
        session = boto3.Session()
        found = session.get_credentials()
        with open(os.environ["SEEN"], "w") as file:
            seen = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            seen["profiles"] = session.available_profiles
            json.dump({**seen, "key": found and found.access_key}, file)
"""


@pytest.fixture
def seen(workshop, tmp_path, monkeypatch):
    """Return what a model sees of an account while it is measured, of a user who has one."""
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = AKIA\naws_secret_access_key = of-the-users\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-the-users")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    workshop.write("model.py", ASKING_AWS)

    def seen(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        measure(workshop.package, workshop.artifacts)
        return json.loads((tmp_path / "seen").read_text())

    return seen


def test_a_model_that_is_measured_has_no_way_to_the_users_account(seen):
    assert seen() == {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "profiles": [],
        "key": None,
    }


@pytest.mark.thorough
def test_a_model_that_is_measured_has_the_account_that_the_environment_names(seen):
    url = "http://127.0.0.1:8950"
    rehearsed = seen(AWS_ENDPOINT_URL=url, AWS_ACCESS_KEY_ID="l", AWS_SECRET_ACCESS_KEY="l")
    assert (rehearsed["AWS_ENDPOINT_URL"], rehearsed["key"]) == (url, "l")
    assert "AWS_ENDPOINT_URL_S3" not in rehearsed
    assert seen(MME_TARGET="aws", MME_REGION="eu-central-1")["AWS_ENDPOINT_URL_S3"]


THREADED = """\
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """Return a function that writes a library which the measured processes can import."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(folder), *(path for path in sys.path if path)])
    )

    def write(name, code):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)

    return write


def test_only_what_the_model_asks_for_itself_is_preloaded(workshop, libraries):
    libraries("lib_a/__init__.py", "import lib_b\n")
    libraries("lib_a/deep.py", "")
    libraries("lib_b.py", "")
    libraries("lib_c.py", "")
    libraries("lib_d.py", "")
    libraries("lib_e.py", "import importlib\nlazily = lambda: importlib.import_module('lib_f')\n")
    libraries("lib_f.py", "")
    workshop.write(
        "model.py",
        "import json\nimport features\ndef handle(inputs):\n    from lib_a import deep\n"
        "    if not inputs.is_empty():\n        import lib_e; lib_e.lazily()\n",
    )
    workshop.write("features/__init__.py", "from features import more\n")
    workshop.write("features/more.py", "import lib_d\ntry:\n    import absent, lib_c\n" + EXCEPT)

    measured = measure(workshop.package, workshop.artifacts)

    assert measured.preload == ("lib_d", "lib_c", "lib_a", "lib_a.deep", "lib_e", "lib_f")


EXCEPT = "except ImportError:\n    import lib_c\n"


def test_a_module_that_cannot_be_imported_by_itself_is_left_out(workshop, libraries):
    libraries(
        "needs_model.py",
        "import sys\nassert any(one.startswith('model_') for one in sys.modules)\n",
    )
    libraries("sound.py", "")
    workshop.write("model.py", "import needs_model, sound\n\n\ndef handle(inputs): ...\n")

    measured = measure(workshop.package, workshop.artifacts)

    assert measured.preload == ("sound",)


def test_what_a_module_leaves_that_is_gone_again_is_preloaded_all_the_same(workshop, libraries):
    libraries("fickle.py", "import steady\nraise ImportError\n")
    libraries("steady.py", "")
    workshop.write(
        "model.py",
        "try:\n    import fickle\nexcept ImportError: ...\n\n\ndef handle(inputs): ...\n",
    )

    assert measure(workshop.package, workshop.artifacts).preload == ("steady",)


linux_only = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="worker slots need Linux"
)


@linux_only
def test_an_import_that_starts_threads_is_counted_and_the_fork_does_without_it(workshop, libraries):
    libraries("threaded.py", THREADED * 2)
    libraries("outer.py", "import threaded\n")
    libraries("calm.py", "")
    workshop.write("model.py", "import calm, threaded, outer\n\n\ndef handle(inputs): ...\n")

    measured = measure(workshop.package, workshop.artifacts)

    assert measured.preload == ("calm", "threaded", "outer")
    # Without threaded before it, outer is what starts them.
    assert measured.threads == {"threaded": 2, "outer": 2}
    assert measured.memory.forked is not None
    assert measured.fork_failure is None


FORKED_FAILURES = {
    "raises": ("raise RuntimeError('not after a fork')", "RuntimeError: not after a fork"),
    "crashes": ("os.kill(os.getpid(), 11)", "signal SIGSEGV"),
    "leaves": ("os._exit(3)", "exit code 3"),
    "hangs": ("time.sleep(1000)", "longer than 5 s"),
}


@linux_only
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param(*given, id=name, marks=[pytest.mark.thorough] if name != "crashes" else [])
        for name, given in FORKED_FAILURES.items()
    ],
)
def test_a_model_that_fails_only_when_forked_says_how(workshop, libraries, code, reason):
    libraries("unforkable.py", "import os\npid = os.getpid()\n")
    workshop.write(
        "model.py",
        "import os, time, unforkable\n\n\ndef handle(inputs):\n"
        f"    if os.getpid() != unforkable.pid:\n        {code}\n",
    )

    patience = 5 if "longer" in reason else 60
    measured = measure(workshop.package, workshop.artifacts, timeout_s=patience)

    assert reason in measured.fork_failure
    assert measured.preload == ("unforkable",)
    assert measured.memory.forked is None


def test_the_measurement_is_written_beside_the_artefacts_and_read_back(workshop):
    workshop.write("model.py", "def handle(inputs):\n    return None\n")

    measured = measure(workshop.package, workshop.artifacts)

    assert read_measured(workshop.artifacts) == measured
    assert (workshop.artifacts / "measured.json").read_bytes() == measured.to_json()


# As DJL's documentation shows it: nothing of mmekit, and no library.
HANDLER_OF_DJL = """\
import os
import pathlib

from djl_python import Output

here = pathlib.Path.cwd()


def handle(inputs):
    if inputs.is_empty():
        assert os.path.samefile(inputs.get_property("model_dir"), here)
        assert (here / "model.joblib").exists() and (here / "mmekit_runtime").is_dir()
        assert inputs.get_property("depth") == "6" and os.environ["GREETING"] == "hello"
        return None
    assert inputs.get_property("content-type") == "application/json"
    assert inputs.get_as_json() == {"instances": [[1.0, 2.0]]}
    return Output().add("3.0")
"""


def test_the_process_has_what_a_worker_of_djl_serving_has(workshop):
    workshop.write("model.py", HANDLER_OF_DJL)
    workshop.write(
        "serving.properties", "engine=Python\noption.depth=6\noption.env=GREETING=hello\n"
    )

    assert measure(workshop.package, workshop.artifacts).required == ()


@pytest.mark.thorough
def test_a_folder_of_weights_may_be_called_as_a_library_is(workshop):
    workshop.write("model.py", "import features\n\n\ndef handle(inputs):\n    import joblib\n")
    workshop.write("features.py", "import idna\n")
    (workshop.artifacts / "joblib").mkdir()
    (workshop.artifacts / "joblib" / "weights.bin").write_bytes(b"x")

    measured = measure(workshop.package, workshop.artifacts)

    assert measured.required == ("idna", "joblib")
    assert "features" not in measured.imports


FAILURES = {
    "raises at import": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "raises in load": (
        "def handle(inputs):\n    raise ValueError('bad weights')",
        "ValueError: bad weights",
    ),
    "says so itself": (
        (
            "from djl_python import Output\n"
            "def handle(inputs):\n    return Output().error('too old', message='too old')"
        ),
        "answered 424 too old",
    ),
    "returns something else": ("def handle(inputs):\n    return 3", "returned int"),
    "has no handler": ("x = 1", "no attribute 'handle'"),
    "leaves": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "leaves at once": ("import os\nprint('bye', flush=True)\nos._exit(3)", "exit code 3\nbye"),
    "crashes": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
}


@pytest.mark.parametrize(("code", "reason"), FAILURES.values(), ids=FAILURES.keys())
def test_a_model_that_fails_says_its_own_reason(workshop, code, reason):
    workshop.write("model.py", code)

    with pytest.raises(MeasureError) as caught:
        measure(workshop.package, workshop.artifacts)

    assert reason in caught.value.what
    assert caught.value.where == str(workshop.package)
    assert read_measured(workshop.artifacts) is None


# A module of the package, a handler of mmekit_runtime, and where each fails.
FEATURES = """\
def halves(rows):
    return [row / 0 for row in rows]
"""
HANDLER = """\
from features import halves
from mmekit_runtime import Handler


class Model(Handler):
    def load(self, folder):
        return {load}

    def predict(self, model, rows, parameters):
        return halves(rows)


handle = Model()
"""


def failure_of(workshop):
    with pytest.raises(MeasureError) as caught:
        measure(workshop.package, workshop.artifacts)
    return caught.value


def test_a_load_that_fails_shows_the_users_own_lines_and_the_error_once(workshop):
    workshop.write("features.py", FEATURES)
    workshop.write("model.py", HANDLER.format(load="halves([1])"))

    assert failure_of(workshop).what == (
        "The model failed:\n"
        "  model.py, line 7, in load\n"
        "    return halves([1])\n"
        "  features.py, line 2, in halves\n"
        "    return [row / 0 for row in rows]\n"
        + LIST_COMPREHENSION
        + "ZeroDivisionError: division by zero"
    )


# Before Python 3.12, a comprehension was a function of its own.
LIST_COMPREHENSION = (
    ""
    if sys.version_info >= (3, 12)
    else "  features.py, line 2, in <listcomp>\n    return [row / 0 for row in rows]\n"
)


def test_a_prediction_that_fails_shows_the_users_own_lines_and_the_error_once(workshop):
    workshop.write("features.py", "def halves(rows):\n    raise ValueError('no\\nhalves')\n")
    workshop.write("model.py", HANDLER.format(load="None"))

    assert failure_of(workshop).what == (
        "The model failed:\n"
        "  model.py, line 10, in predict\n"
        "    return halves(rows)\n"
        "  features.py, line 2, in halves\n"
        "    raise ValueError('no\\nhalves')\n"
        "ValueError: no\nhalves"
    )


def test_a_handler_that_raises_shows_its_lines_and_those_that_led_to_it(workshop):
    workshop.write(
        "model.py",
        """\
        def handle(inputs):
            try:
                {}["weights"]
            except KeyError as error:
                raise OSError("no weights") from error
        """,
    )

    assert failure_of(workshop).what == (
        "The model failed:\n"
        "  model.py, line 3, in handle\n"
        '    {}["weights"]\n'
        "  model.py, line 5, in handle\n"
        '    raise OSError("no weights") from error\n'
        "OSError: no weights"
    )


def test_what_a_handler_logged_and_what_it_answered_are_both_told(workshop):
    workshop.write(
        "model.py",
        """\
        import logging
        from djl_python import Output

        def handle(inputs):
            try:
                1 / 0
            except ArithmeticError:
                logging.exception("no luck")
                return Output().error("try again later")
        """,
    )

    assert failure_of(workshop).what == (
        "The model failed:\n"
        "  model.py, line 6, in handle\n"
        "    1 / 0\n"
        "ZeroDivisionError: division by zero\n"
        "the handler answered 424 invoke handler failure: try again later"
    )


def test_a_sample_that_does_not_fit_says_so_once(workshop):
    workshop.write("sample_request.json", '{"instances": [["a"]]}')

    what = failure_of(workshop).what

    assert "answered 400 expected" in what
    assert what.count("received") == 1


def test_a_file_that_is_no_python_shows_the_line(workshop):
    workshop.write("features.py", "def halves(rows:\n")
    workshop.write("model.py", HANDLER.format(load="None"))

    assert "  features.py, line 1\n    def halves(rows:\n" in failure_of(workshop).what


def test_an_error_of_a_library_alone_shows_the_librarys_last_lines(workshop, libraries):
    libraries("lib_a.py", "def handle(inputs):\n    raise RuntimeError('not here')\n")
    workshop.write("model.py", "from lib_a import handle\n")

    assert "lib_a.py, line 2, in handle\n    raise RuntimeError" in failure_of(workshop).what


def test_endless_recursion_shows_each_line_once(workshop):
    workshop.write("model.py", "def handle(inputs):\n    handle(inputs)\n")

    what = failure_of(workshop).what

    assert what.count("handle(inputs)") == 1
    assert "RecursionError" in what


def test_a_class_that_was_pickled_from_a_script_says_where_to_put_it(workshop):
    # Written as a script or notebook does it that defines the class itself.
    (workshop.artifacts / "model.joblib").write_bytes(b"\x80\x03c__main__\nDoubler\n)\x81.")

    error = failure_of(workshop)

    assert "model.py, line 8, in load\n    return joblib.load" in error.what
    assert error.what.count("Doubler") == 1
    assert "put Doubler into a module beside model.py" in error.remedy
    assert "from features import Doubler" in error.remedy


def test_a_model_that_takes_too_long_is_stopped_with_everything_it_started(workshop, tmp_path):
    started = tmp_path / "started"
    workshop.write(
        "model.py",
        f"""\
        import os, subprocess, time
        child = subprocess.Popen(["sleep", "1000"])
        with open({str(started)!r}, "w") as stream:
            stream.write(f"{{os.getpid()}} {{child.pid}}")
        time.sleep(1000)
        """,
    )

    with pytest.raises(MeasureError, match="longer than"):
        measure(workshop.package, workshop.artifacts, timeout_s=6)

    for pid in map(int, started.read_text().split()):
        wait_until(lambda pid=pid: not _is_running(pid))


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stream:  # noqa: PTH123
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_interpreter_that_is_not_there_is_named(workshop):
    workshop.write("serving.properties", "engine=Python\noption.pythonExecutable=/no/python\n")

    with pytest.raises(MeasureError, match="/no/python"):
        measure(workshop.package, workshop.artifacts)


def test_a_missing_folder_and_a_foreign_measurement_are_named(workshop):
    with pytest.raises(PackageError, match="does not exist"):
        measure(workshop.package, workshop.artifacts / "nowhere")
    (workshop.artifacts / "measured.json").write_text('{"format": 99}')

    with pytest.raises(PackageError, match="cannot be read"):
        read_measured(workshop.artifacts)


# What is shared with other models.

SHARING = """\
from mmekit_runtime import Handler
import os


class Model(Handler):
    def load_shared(self, folder):
        assert not (folder / "model.joblib").exists()
        big = bytearray((folder / "body" / "big.bin").read_bytes())
        {shared}
        return big, os.getpid()

    def load(self, folder, shared):
        assert not (folder / "body" / "big.bin").exists() and (folder / "model.joblib").exists()
        return shared

    def predict(self, model, rows, parameters):
        return [{answer}] * len(rows)


handle = Model()
"""
BIG = 24 * MIB


@pytest.fixture
def sharing(workshop):
    (workshop.artifacts / "body").mkdir()
    (workshop.artifacts / "body" / "big.bin").write_bytes(b"x" * BIG)
    (workshop.artifacts / "body" / "own.txt").write_text("this model's")
    workshop.write("serving.properties", "engine=Python\noption.shared=body/big.bin\n")

    def write(shared="", answer="len(model[0])"):
        workshop.write("model.py", SHARING.format(shared=shared, answer=answer))
        return workshop

    return write


@linux_only
def test_a_shared_body_is_loaded_before_the_fork_and_counted_apart(sharing):
    workshop = sharing()

    measured = measure(workshop.package, workshop.artifacts)

    assert measured.unshared is None
    assert measured.fork_failure is None
    assert BIG <= measured.memory.shared < BIG + 8 * MIB
    assert measured.memory.forked < BIG
    assert read_measured(workshop.artifacts) == measured


@linux_only
@pytest.mark.parametrize(
    ("shared", "reason"),
    [
        pytest.param(
            "exec(__import__('pathlib').Path(os.environ['THREADED']).read_text())",
            "starts threads",
            marks=pytest.mark.thorough,
        ),
        (
            "if os.path.basename(os.getcwd()).startswith('mmekit-body-'): 1 / 0",
            "ZeroDivisionError",
        ),
    ],
)
def test_a_body_that_cannot_be_forked_is_loaded_by_each_process(
    sharing, tmp_path, monkeypatch, shared, reason
):
    (tmp_path / "threaded.py").write_text(THREADED)
    monkeypatch.setenv("THREADED", str(tmp_path / "threaded.py"))
    workshop = sharing(shared)

    measured = measure(workshop.package, workshop.artifacts)

    assert reason in measured.unshared
    assert measured.memory.shared is None
    assert measured.memory.forked > BIG
    assert measured.fork_failure is None


@linux_only
@pytest.mark.thorough
def test_a_handler_without_load_shared_reads_the_shared_files_itself(workshop):
    (workshop.artifacts / "big.bin").write_bytes(b"x")
    workshop.write("serving.properties", "engine=Python\noption.shared=big.bin\n")
    workshop.write(
        "model.py",
        "import os\ndef handle(inputs):\n"
        "    open(os.path.join(os.environ['MMEKIT_SHARED_FOLDER'], 'big.bin')).close()\n",
    )

    measured = measure(workshop.package, workshop.artifacts)

    assert measured.unshared == "model.py has no handler with a load_shared of its own"
    assert measured.memory.forked is not None


@linux_only
def test_a_body_that_knows_its_process_is_refused(sharing):
    workshop = sharing(answer="float(model[1] == os.getpid())")

    with pytest.raises(MeasureError, match="answers its sample differently") as caught:
        measure(workshop.package, workshop.artifacts)

    assert "load_shared" in caught.value.what
    assert "must not depend on the process" in caught.value.remedy


def test_what_is_shared_is_a_part_of_what_was_measured(sharing):
    workshop = sharing()
    before = fingerprint(workshop.contents())

    workshop.write("serving.properties", "engine=Python\noption.shared=body\n")

    assert fingerprint(workshop.contents()) != before
