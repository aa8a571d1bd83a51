"""What is said to a model that cannot be loaded, and to settings, good and bad."""

from __future__ import annotations

import re

import pytest

OK = """
from djl_python import Output

def handle(inputs):
    return None if inputs.is_empty() else Output().add("ok")
"""
OUTPUT = "from djl_python import Output\n"


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("def handle(", 500, "Python stream closed unexpectedly, exit code: 1"),
        ("raise RuntimeError('x')", 500, "Python stream closed unexpectedly, exit code: 1"),
        ("import os\nos._exit(3)", 500, "Python stream closed unexpectedly, exit code: 3"),
        ("import sys\nsys.exit()", 500, "Python stream closed unexpectedly, exit code: 0"),
        ("x = 1", 500, "Failed to initialize model: invoke handler failure"),
        (
            "def handle(inputs): raise ValueError('no weights')",
            500,
            "Failed to initialize model: invoke handler failure",
        ),
        (
            "def handle(inputs): return 'x'",
            500,
            "Failed to initialize model: invoke handler failure",
        ),
        (
            OUTPUT + "def handle(inputs): return Output().error('e', message='the reason')",
            500,
            "Failed to initialize model: the reason",
        ),
        (
            OUTPUT + "def handle(inputs): return Output().error('e', message='a\\r\\nb')",
            500,
            "Failed to initialize model: a\r\nb",
        ),
        (
            OUTPUT + "def handle(inputs): return Output(code=400, message='bad')",
            500,
            "Failed to initialize model: bad",
        ),
        (OUTPUT + "def handle(inputs): return Output(code=507, message='bad')", 507, "OOM"),
        ("def handle(inputs): raise MemoryError('x')", 507, "OOM"),
        ("import os\ndef handle(inputs): os._exit(3)", 500, "Python worker disconnected."),
    ],
    ids=[
        "syntax error",
        "raises at import",
        "exits at import",
        "exits at import without an error",
        "no handle",
        "raises at initialisation",
        "returns a str",
        "returns an error",
        "returns an error of two lines",
        "returns 400",
        "returns 507",
        "runs out of memory",
        "exits at initialisation",
    ],
)
def test_a_model_that_cannot_be_loaded_says_why_and_leaves_nothing(
    server, model_folder, says, until, code, status, message
):
    answer = server.load("broken", model_folder(code))

    # With worker slots it is another process that ends, and other words that say so.
    ended = server.slots and not message.startswith("Failed to") and status == 500
    says(answer, status, "EngineException", None if ended else message)
    until(lambda: server.client.get("/models").json() == {"models": []})
    assert server.client.get("/ping").json() == {}
    assert server.load("broken", model_folder(OK, name="mended")).status_code == 200


def test_a_model_without_a_python_file_says_so(server, model_folder, says):
    folder = model_folder(None)

    answer = server.load("no-file", folder)

    says(answer, 500, "FileNotFoundException", f".py file not found in: {folder}")


@pytest.mark.parametrize("properties", ["minWorkers=1\n", None])
def test_a_folder_that_names_no_engine_and_has_no_model_is_404(
    server, model_folder, says, properties
):
    folder = model_folder.of_text(None, properties)

    answer = server.load("no-engine", folder)

    message = f"Failed to detect engine of the model: {folder}"
    says(answer, 404, "ModelNotFoundException", message)


def test_a_model_that_does_not_load_in_time_is_given_up(server, model_folder, until):
    code = "import time\ndef handle(inputs):\n    time.sleep(60)\n"

    answer = server.load("slow", model_folder(code, option__model_loading_timeout=1))

    assert answer.status_code == 500
    assert answer.json()["type"] == "EngineException"
    until(lambda: server.client.get("/models").json() == {"models": []})


NUMBERS = (
    "batch_size",
    "job_queue_size",
    "max_batch_delay",
    "max_idle_time",
    "minWorkers",
    "maxWorkers",
    "required_memory_mb",
    "reserved_memory_mb",
    "option.tensor_parallel_degree",
)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["abc", "2\\ ", "99999999999"])
def test_a_setting_that_is_no_number_is_409(server, model_folder, says, name, value):
    folder = model_folder.of_text(OK, f"engine=Python\n{name}={value}\n")

    answer = server.load("settings", folder)

    text = re.compile("^" + re.escape(f'For input string: "{value.replace(chr(92), "")}"'))
    says(answer, 409, "NumberFormatException", text)


@pytest.mark.parametrize(
    ("properties", "status", "kind", "message"),
    [
        ("engine=python", 409, "IllegalArgumentException", "engine not found: python"),
        ("engine=Invented", 409, "IllegalArgumentException", "engine not found: Invented"),
        ("engine=", 409, "IllegalArgumentException", "engine not found: "),
        ("engine=Python ", 409, "IllegalArgumentException", "engine not found: Python "),
        ("a=\\u12", 409, "IllegalArgumentException", "Malformed"),
        ("engine=Python\njob_queue_size=0", 409, "IllegalArgumentException", None),
        ("engine=Python\njob_queue_size=-1", 409, "IllegalArgumentException", None),
        ("engine=Python\nminWorkers=-1\nmaxWorkers=1", 500, "IndexOutOfBoundsException", None),
        ("engine=Python\nload_on_devices=0", 500, "IllegalStateException", "No GPU device"),
        ("engine=Python\nload_on_devices=gpu0", 500, "IllegalStateException", "No GPU device"),
        ("engine=Python\noption.entryPoint=other.py", 500, "EngineException", "exit code: 1"),
        ("engine=Python\noption.handler=other", 500, "EngineException", "invoke handler failure"),
        ("engine=Python\noption.pythonExecutable=/no/python", 500, "EngineException", "error=2, "),
        ("engine=Python\nrequired_memory_mb=999999999", 507, "WlmOutOfMemoryException", "memory"),
        ("engine=Python\nreserved_memory_mb=999999999", 507, "WlmOutOfMemoryException", "memory"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(
    server, model_folder, says, until, properties, status, kind, message
):
    answer = server.load("settings", model_folder.of_text(OK, properties + "\n"))

    if message is None:
        assert (answer.status_code, answer.json()["type"]) == (status, kind)
    else:
        says(answer, status, kind, re.compile("" if server.slots else re.escape(message)))
    # DJL Serving answers before it has taken the model out.
    until(lambda: server.client.get("/models").json() == {"models": []})


@pytest.mark.parametrize(
    "properties",
    [
        None,
        "",
        "# nothing but a comment",
        "engine=Python\nbatch_size=0",
        "engine=Python\nbatch_size=+2",
        "engine=Python\nmax_batch_delay=-1",
        "engine=Python\nmax_idle_time=0",
        "engine=Python\nminWorkers=2\nmaxWorkers=1",
        "engine=Python\nmaxWorkers=0",
        "engine=Python\nrequired_memory_mb=-5",
        "engine=Python\nretry_threshold=abc",
        "engine=Python\noption.predict_timeout=abc",
        "engine=Python\noption.predict_timeout=0",
        "engine=Python\noption.model_loading_timeout=abc",
        "engine=Python\nload_on_devices=cpu",
        "engine=Python\nload_on_devices=-1",
        "engine=Python\noption.parallel_loading=true",
        "engine=Python\noption.modelName=a name/that is longer than fifteen characters",
        "engine=Python\nlog_request_metric=abc",
        "engine = Python\noption.entryPoint : model.py\noption.handler\thandle\nunknown=1",
    ],
)
def test_a_setting_that_makes_no_difference_is_let_pass(server, model_folder, properties):
    text = properties if properties is None else properties + "\n"

    assert server.load("settings", model_folder.of_text(OK, text)).status_code == 200
    assert server.invoke("settings", "x").text == "ok"


@pytest.mark.parametrize(
    ("properties", "sizes"),
    [
        ("max_dynamic_batch_size=5", {"batchSize": 5}),
        ("batch_size=4\nmax_dynamic_batch_size=5", {"batchSize": 4}),
        ("max_batch_delay=0\nmax_idle_time=0", {"maxBatchDelayMillis": 0, "maxIdleSeconds": 0}),
        ("job_queue_size=7", {"queueSize": 7}),
    ],
)
def test_settings_have_the_defaults_and_the_order_of_djl_serving(
    server, model_folder, properties, sizes
):
    server.load("settings", model_folder.of_text(OK, f"maxWorkers=1\n{properties}\n"))

    described = server.describe("settings")

    assert {name: described[name] for name in sizes} == sizes


@pytest.mark.parametrize(
    ("properties", "workers"),
    [
        ("minWorkers=2\nmaxWorkers=1", (1, 1)),
        ("option.minWorkers=2\noption.maxWorkers=3", (2, 3)),
        ("cpu.minWorkers=2\nminWorkers=1\nmaxWorkers=2", (2, 2)),
        ("minWorkers=0\nmaxWorkers=1", (0, 1)),
    ],
)
def test_workers_are_counted_as_djl_serving_counts_them(server, model_folder, properties, workers):
    server.load("settings", model_folder.of_text(OK, f"engine=Python\n{properties}\n"))

    (group,) = server.describe("settings")["workerGroups"]

    assert (group["minWorkers"], group["maxWorkers"]) == workers
    assert len(group["workers"]) == workers[0]


SEEN = """
import os
from djl_python import Output
seen = None
def handle(inputs):
    global seen
    if inputs.is_empty():
        seen = dict(inputs.get_properties())
        return None
    variables = {name: os.environ.get(name) for name in ("MINE", "OTHER", "OMP_NUM_THREADS")}
    return Output().add_as_json({"seen": seen, "variables": variables, "folder": os.getcwd()})
"""


def test_the_initialisation_carries_the_properties_and_the_process_the_environment(
    server, model_folder
):
    folder = model_folder(
        SEEN, option__foo="bar", option__env="MINE=yes, OTHER = a=b ,odd", max_idle_time=30
    )
    assert server.load("seen", folder).status_code == 200

    answer = server.invoke("seen", "x").json()

    seen = answer["seen"]
    assert {name: seen[name] for name in ("engine", "foo", "handler", "max_idle_time")} == {
        "engine": "Python",
        "foo": "bar",
        "handler": "handle",
        "max_idle_time": "30",
    }
    assert "env" not in seen
    assert "option.foo" not in seen
    assert answer["variables"] == {"MINE": "yes", "OTHER": "a=b", "OMP_NUM_THREADS": "1"}
    assert answer["folder"] == str(folder.resolve())


def test_the_name_of_the_handler_can_be_set(server, model_folder):
    code = OK.replace("def handle", "def serve").replace('"ok"', "inputs.get_property('handler')")

    assert server.load("named", model_folder(code, option__handler="serve")).status_code == 200
    assert server.invoke("named", "x").text == "serve"


def test_the_entry_point_can_be_set(server, model_folder):
    folder = model_folder("unused = True", option__entryPoint="other.py")
    (folder / "other.py").write_text(OK)

    assert server.load("entry", folder).status_code == 200
    assert server.invoke("entry", "x").text == "ok"
