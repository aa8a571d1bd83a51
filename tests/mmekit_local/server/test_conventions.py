"""Archives of SageMaker's and DJL's conventions on every rung that is here."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import joblib
import psutil
import pytest
from sklearn.linear_model import Ridge

from mmekit.archive import Measured, MeasuredMemory, pack, read_properties, unpack
from mmekit.archive.contents import read_contents
from mmekit.archive.conventions import convention_of
from mmekit.errors import ServerError
from mmekit_local.ports import free_port
from mmekit_local.server.djl import HOME_VARIABLE, DjlServing, distribution, java_version
from tests import skops_files
from tests.server_process import ServerProcess

FUNCTIONS = """
    import json, os, joblib
    from offsets import OFFSET

    def model_fn(model_dir):
        return joblib.load(os.path.join(model_dir, "model.joblib"))

    def predict_fn(data, model):
        if (data < 0).any():
            raise ValueError("a poisoned row")
        return model.predict(data) + OFFSET
"""
DECORATED = """
    import json, os, joblib
    import numpy as np
    from djl_python.input_parser import init_handler, input_formatter, prediction_handler
    from djl_python.output_formatter import output_formatter

    @init_handler
    def start(model_dir, **kwargs):
        return joblib.load(os.path.join(model_dir, "model.joblib"))

    @input_formatter
    def read(inputs, **kwargs):
        return np.array(inputs.get_as_json())

    @prediction_handler
    def predict(X, model, **kwargs):
        return model.predict(X) + 2000

    @output_formatter
    def write(predictions):
        return predictions.tolist()
"""
SKLEARN = (
    "engine=Python\noption.entryPoint=djl_python.sklearn_handler\n"
    "option.skops_trusted_types=numpy.ndarray\n"
)
PACKAGES = {
    "sagemaker": ({"code/inference.py": FUNCTIONS, "code/offsets.py": "OFFSET = 1000"}, 1000),
    "decorators": ({"model.py": DECORATED}, 2000),
    "no-code": ({"serving.properties": SKLEARN}, 0),
}


@pytest.fixture(scope="module")
def model_folders(tmp_path_factory):
    """Return a function that packs a package, and unpacks it as a server gets it."""
    root = tmp_path_factory.mktemp("packages")
    ridge = Ridge().fit([[0.0, 0], [1, 0], [0, 1]], [0.0, 1, 1])
    made = {}

    def make(name, worker_slots):
        if (name, worker_slots) in made:
            return made[name, worker_slots]
        package = root / f"{name}-{worker_slots}"
        for file, text in PACKAGES[name][0].items():
            (package / file).parent.mkdir(parents=True, exist_ok=True)
            (package / file).write_text(textwrap.dedent(text))
        artifacts = root / f"artifacts-{package.name}"
        artifacts.mkdir()
        if name == "no-code":
            skops_files.dump(ridge, artifacts / "model.skops")
        else:
            joblib.dump(ridge, artifacts / "model.joblib")
        measured = Measured(
            python="3.11.9",
            libraries={},
            required=(),
            imports=(),
            modules=(),
            preload=("joblib", "sklearn", "sklearn.linear_model"),
            threads={},
            memory=MeasuredMemory(
                120_000_000, 100_000_000, 150_000_000, "smaps_rollup", 20_000_000
            ),
            fork_failure=None,
            fingerprint="0" * 64,
        )
        (artifacts / "measured.json").write_bytes(measured.to_json())
        archive = root / f"{package.name}.tar.gz"
        pack(package, artifacts, archive, worker_slots=worker_slots)
        folder = root / "models" / package.name
        unpack(archive, folder)
        made[name, worker_slots] = folder
        return folder

    make.ridge = ridge
    return make


class Djl:
    """The real DJL Serving, for as long as a module's tests run."""

    def __init__(self, scratch):
        try:
            distribution()
            java_version()
        except ServerError as error:
            pytest.skip(str(error))
        self._slots = str(scratch / "f")
        environment = {"PYTHONPATH": "", "MMEKIT_SLOTS_DIR": self._slots, "TERM": "dumb"}
        self._server = DjlServing(scratch, free_port("127.0.0.1"), environment=environment)
        self._output = (scratch / "log").open("wb")
        self._server.start(self._output)
        self._server.wait_until_healthy()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self._server.port}", timeout=60)

    def close(self):
        self.client.close()
        self._server.stop()
        self._output.close()
        # Its fork server would stay for five minutes, without its folder.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(word.startswith(self._slots) for word in process.cmdline()):
                    process.kill()


@pytest.fixture(scope="module", params=["embedded", "djl"])
def server(request):
    if request.param == "embedded":
        running = ServerProcess()
        yield running
        running.close()
        return
    if not os.environ.get(HOME_VARIABLE):
        pytest.skip(f"{HOME_VARIABLE} names no DJL Serving")
    # Short, as the sockets of workers lie below it.
    with tempfile.TemporaryDirectory(prefix="c-") as scratch:
        running = Djl(Path(scratch))
        yield running
        running.close()


@pytest.mark.parametrize(
    ("name", "worker_slots"),
    [
        pytest.param("sagemaker", True, id="sagemaker-slots"),
        pytest.param("sagemaker", False, id="sagemaker-plain", marks=pytest.mark.thorough),
        pytest.param("decorators", True, id="decorators-slots", marks=pytest.mark.thorough),
        # The plain engine runs model.py once more by itself.
        pytest.param("decorators", False, id="decorators-plain", marks=pytest.mark.thorough),
        pytest.param("no-code", True, id="no-code-slots", marks=pytest.mark.thorough),
        pytest.param("no-code", False, id="no-code-plain", marks=pytest.mark.thorough),
    ],
)
def test_a_packed_model_of_another_convention_answers(server, model_folders, name, worker_slots):
    folder = model_folders(name, worker_slots)
    content = {"model_name": folder.name, "url": folder.as_uri()}
    answer = server.client.post("/models", json=content)
    assert answer.status_code == 200, answer.text
    path = f"/models/{folder.name}/invoke"
    json = {"Content-Type": "application/json", "Accept": "application/json"}

    def ask(row):
        answer = server.client.post(path, json=[row], headers=json)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        values = answer.json()
        return values["predictions"] if isinstance(values, dict) else values

    rows = [[float(i), float(i % 7)] for i in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, rows))
    refused = server.client.post(path, content=b"{", headers=json)
    server.client.delete(f"/models/{folder.name}")

    offset = PACKAGES[name][1]
    expected = [[value + offset] for value in model_folders.ridge.predict(rows)]
    assert answers == [pytest.approx(one, rel=1e-6) for one in expected]
    assert refused.status_code == (424 if name == "decorators" else 400)


@pytest.mark.parametrize(
    ("name", "artifact"),
    [
        ("no-code", "model.skops"),
        pytest.param("sagemaker", "model.joblib", marks=pytest.mark.thorough),
    ],
)
def test_a_raw_archive_runs_where_the_check_says_that_it_does(
    server, model_folders, tmp_path, name, artifact
):
    folder = tmp_path / f"raw-{name}"
    for file, text in PACKAGES[name][0].items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(textwrap.dedent(text))
    shutil.copyfile(model_folders(name, worker_slots=True) / artifact, folder / artifact)
    contents = read_contents(folder)
    found = convention_of(contents, read_properties(folder))

    answer = server.client.post("/models", json={"model_name": name, "url": folder.as_uri()})
    if answer.status_code == 200:
        server.client.delete(f"/models/{name}")

    platform = "the embedded server" if isinstance(server, ServerProcess) else "DJL Serving 0.36"
    assert (answer.status_code == 200) == (platform in found.platforms), answer.text


def test_an_exception_of_the_script_is_424_and_the_model_goes_on(server, model_folders):
    folder = model_folders("sagemaker", worker_slots=True)
    content = {"model_name": "poisoned", "url": folder.as_uri()}
    assert server.client.post("/models", json=content).status_code == 200

    answers = [server.client.post("/models/poisoned/invoke", json=[[x, 1]]) for x in (-1, 1)]
    server.client.delete("/models/poisoned")

    assert [answer.status_code for answer in answers] == [424, 200]
    assert answers[0].json()["error"] == "a poisoned row"
