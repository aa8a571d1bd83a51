"""Models of SageMaker's and DJL's conventions behind mmekit_runtime.conventions."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from types import ModuleType

import joblib
import numpy as np
import pytest
import xgboost
from sklearn.linear_model import Ridge

import mmekit_runtime
from mmekit.archive import read_properties
from mmekit.archive.conventions import ENTRY_POINT
from mmekit.engine import engine_folder
from mmekit.errors import ModelLoadError
from mmekit_local.server.djl import HOME_VARIABLE
from mmekit_runtime.conventions.entry_point import EntryPoint
from tests import skops_files

ROWS = np.arange(12.0).reshape(6, 2)
TRUSTED = "option.skops_trusted_types=sklearn.linear_model._ridge.Ridge"
SKLEARN = "engine=Python\noption.entryPoint=djl_python.sklearn_handler\n"
XGBOOST = "engine=Python\noption.entryPoint=djl_python.xgboost_handler\n"
TRUST = "option.trust_insecure_model_files=true\n"

INFERENCE = """
    import json
    import os

    import joblib
    from scales import SCALE

    def model_fn(model_dir):
        return joblib.load(os.path.join(model_dir, "model.joblib"))

    def input_fn(request_body, request_content_type):
        assert isinstance(request_body, str)
        return json.loads(request_body)["rows"]

    def predict_fn(input_data, model):
        return model.predict(input_data) * SCALE

    def output_fn(prediction, accept):
        return json.dumps({"scaled": prediction.tolist(), "accept": accept})
"""
MODEL_FN = """
    import os, joblib

    def model_fn(model_dir):
        return joblib.load(os.path.join(model_dir, "model.joblib"))
"""
DECORATED = """
    import joblib, os
    import numpy as np
    from djl_python import Input
    from djl_python.input_parser import init_handler, input_formatter, prediction_handler
    from djl_python.output_formatter import output_formatter

    @init_handler
    def start(model_dir, **kwargs):
        return joblib.load(os.path.join(model_dir, "model.joblib"))

    @input_formatter
    def read(inputs: Input, **kwargs):
        assert kwargs["content_type"] == "application/json"
        return np.array(inputs.get_as_json()["features"])

    @prediction_handler
    def predict(X, model, **kwargs):
        return {"values": model.predict(X)}

    @output_formatter
    def write(predictions):
        return {"tenfold": (predictions["values"] * 10).tolist()}
"""
DJL_FUNCTIONS = """
    import json
    import numpy as np

    def input_fn(request_body, request_content_type):
        return np.array(json.loads(request_body.decode("utf-8"))["features"])

    def output_fn(prediction, response_content_type):
        return json.dumps({"given": prediction.tolist()}).encode("utf-8")
"""


@pytest.fixture(scope="module")
def ridge():
    return Ridge(alpha=0).fit(ROWS, ROWS.sum(axis=1))


@pytest.fixture(scope="module")
def booster():
    matrix = xgboost.DMatrix(ROWS, label=ROWS.sum(axis=1))
    return xgboost.train({"max_depth": 2, "nthread": 1}, matrix, num_boost_round=3)


@pytest.fixture
def folder(tmp_path, ridge, booster):
    """Return a function that writes a model folder: artefacts, by name, and texts."""

    def write(*artifacts, properties="engine=Python\n", **texts):
        target = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        target.mkdir()
        if properties is not None:
            (target / "serving.properties").write_text(properties)
        for name, text in texts.items():
            path = target / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(text))
        for name in artifacts:
            if name.endswith(".skops"):
                skops_files.dump(ridge, target / name)
            elif name.endswith((".json", ".ubj")):
                booster.save_model(target / name)
            elif name.endswith(".bst"):
                (target / name).write_bytes(bytes(booster.save_raw("ubj")))
            elif name.endswith((".joblib", ".jl")):
                joblib.dump(ridge, target / name)
            else:
                (target / name).write_bytes(pickle.dumps(ridge))
        return target

    return write


@pytest.fixture
def load(folder, mme_model):
    def load(*arguments, **options):
        return mme_model(folder(*arguments, **options))

    return load


class TestSageMakersFunctions:
    def test_a_script_in_code_is_served_with_what_lies_beside_it(self, load):
        model = load("model.joblib", code__inference=INFERENCE, code__scales="SCALE = 100\n")

        answer = model.invoke('{"rows": [[1, 2], [3, 4]]}')

        assert answer.status == 200
        assert answer.json()["scaled"] == pytest.approx([300, 700])
        assert answer.json()["accept"] == "application/json"
        assert answer.headers["content-type"] == "application/json"

    def test_a_folder_without_serving_properties_is_served(self, load):
        model = load("model.joblib", properties=None, code__inference=MODEL_FN)

        assert model.invoke("[[1, 2]]").json() == pytest.approx([3])

    def test_two_models_have_a_script_of_one_name_each(self, load):
        scripts = [
            MODEL_FN + f"    def predict_fn(data, model):\n        return [{n}]\n" for n in "12"
        ]
        first, second = (load("model.joblib", code__inference=text) for text in scripts)

        assert first.invoke("[[1, 2]]").json() == [1]
        assert second.invoke("[[1, 2]]").json() == [2]
        assert first.invoke("[[1, 2]]").json() == [1]

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [
            ("[[1, 2], [3, 4]]", "application/json"),
            ("[[1, 2], [3, 4]]", "application/json; charset=utf-8"),
            ("1,2\n3,4\n", "text/csv"),
            ("1,2\r\n3,4", "text/csv"),
        ],
    )
    def test_what_is_left_out_is_what_the_scikit_learn_container_does(
        self, load, body, content_type
    ):
        model = load("model.joblib", code__inference=MODEL_FN)

        answer = model.invoke(body, content_type=content_type)

        assert answer.json() == pytest.approx([3, 7])
        assert answer.headers["content-type"] == "application/json"

    def test_arrays_come_and_go_as_npy(self, load):
        model = load("model.joblib", code__inference=MODEL_FN)
        body = io.BytesIO()
        np.save(body, np.array([[1.0, 2.0], [3.0, 4.0]]))

        answer = model.invoke(
            body.getvalue(), content_type="application/x-npy", accept="application/x-npy"
        )

        assert np.load(io.BytesIO(answer.body)) == pytest.approx([3, 7])
        assert answer.headers["content-type"] == "application/x-npy"

    def test_a_list_of_numbers_is_one_record_and_a_line_of_csv_always_is(self, load):
        model = load("model.joblib", code__inference=MODEL_FN)

        assert model.invoke("[1, 2]").json() == pytest.approx([3])
        assert model.invoke("1,2", content_type="text/csv").json() == pytest.approx([3])
        assert model.invoke("1\n2\n", content_type="text/csv").status == 424

    def test_csv_is_answered_as_csv(self, load):
        text = MODEL_FN + "    def predict_fn(data, model):\n        return data\n"
        model = load("model.joblib", code__inference=text)

        answer = model.invoke("1,2\n3,4", content_type="text/csv", accept="text/csv")

        assert answer.body == b"1.0,2.0\n3.0,4.0\n"

    def test_what_is_no_number_is_null(self, load):
        text = MODEL_FN + "    def predict_fn(data, model):\n        return data / 0\n"
        model = load("model.joblib", code__inference=text)

        with np.errstate(all="ignore"):
            assert model.invoke("[[1, 0]]").body == b"[[null, null]]"

    def test_a_missing_cell_is_nan(self, load):
        text = MODEL_FN + "    def predict_fn(data, model):\n        return data\n"
        model = load("model.joblib", code__inference=text)

        assert model.invoke(",2\n", content_type="text/csv").json() == [[None, 2]]

    @pytest.mark.parametrize(
        ("body", "content_type", "status", "message"),
        [
            ("{", "application/json", 400, "JSONDecodeError"),
            ('{"instances": [[1, 2]]}', "application/json", 400, "cannot be read"),
            ("[]", "application/json", 400, "no row"),
            ("[[1, 2], [3]]", "application/json", 400, "cannot be read"),
            ("a,b\n1,2\n", "text/csv", 400, "the cell 'a' in row 0"),
            ("1,2\n3\n", "text/csv", 400, "ragged"),
            (b"\xff", "text/csv", 400, "UTF-8"),
            (b"x", "application/x-npy", 400, "cannot be read"),
            (b"x", "image/png", 415, "content type"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, load, body, content_type, status, message):
        model = load("model.joblib", code__inference=MODEL_FN)

        answer = model.invoke(body, content_type=content_type)

        assert answer.status == status
        assert message in answer.json()["message"]

    def test_a_pickle_inside_of_an_npy_is_refused(self, load):
        model = load("model.joblib", code__inference=MODEL_FN)
        body = io.BytesIO()
        np.save(body, np.array([{}], dtype=object), allow_pickle=True)

        assert model.invoke(body.getvalue(), content_type="application/x-npy").status == 400

    def test_an_unknown_accept_is_406_and_any_is_json(self, load):
        model = load("model.joblib", code__inference=MODEL_FN)

        assert model.invoke("[[1, 2]]", accept="image/png").status == 406
        assert model.invoke("[[1, 2]]", accept="*/*").status == 200
        assert model.invoke("[[1, 2]]", accept="image/png, text/csv").status == 200

    def test_an_exception_is_424_and_memory_that_ran_out_507(self, load):
        text = MODEL_FN + (
            "    def predict_fn(data, model):\n"
            "        raise {3: ValueError('unlucky'), 4: MemoryError()}[len(data)]\n"
        )
        model = load("model.joblib", code__inference=text)

        answer = model.invoke("[[1], [2], [3]]")
        assert (answer.status, answer.json()["error"]) == (424, "unlucky")
        assert model.invoke("[[1], [2], [3], [4]]").status == 507

    def test_transform_fn_does_it_all_and_may_answer_its_own_content_type(self, load):
        text = MODEL_FN + (
            "    def transform_fn(model, body, content_type, accept):\n"
            "        return f'{body} {content_type} {accept}', 'text/plain'\n"
        )
        model = load("model.joblib", code__inference=text)

        answer = model.invoke("[1]", accept="text/csv")

        assert answer.body == b"[1] application/json text/csv"
        assert answer.headers["content-type"] == "text/plain"

    def test_a_function_with_an_argument_more_gets_the_context(self, load):
        text = """
            def model_fn(model_dir, context):
                return context.system_properties["model_dir"] == model_dir

            def predict_fn(data, model, context):
                name = "x-amzn-sagemaker-custom-attributes"
                return [model, context.get_request_header(0, name)]
        """
        model = load("model.joblib", code__inference=text)

        assert model.invoke("[1]", attributes="trace=7").json() == [True, "trace=7"]

    def test_a_body_of_text_is_a_str_that_decodes_too(self, load):
        text = MODEL_FN + (
            "    import io, json\n"
            "    def input_fn(body, content_type):\n"
            "        assert io.StringIO(body).read() == body.decode('utf-8')\n"
            "        return json.loads(body)\n"
        )
        text = text.replace("model.joblib", "ridge.joblib")
        model = load("ridge.joblib", model=text)

        assert model.invoke("[[1, 2]]").json() == pytest.approx([3])

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("def predict_fn(data, model):\n    return data\n", "no model_fn"),
            (MODEL_FN + "    def transform_fn(*_): ...\n    def input_fn(*_): ...\n", "replaces"),
            ("import nothing_of_that_name\ndef model_fn(model_dir): ...\n", "nothing_of_that_name"),
        ],
    )
    def test_a_script_that_cannot_serve_says_why(self, load, text, reason):
        with pytest.raises(ModelLoadError, match=reason):
            load("model.joblib", code__inference=text)

    def test_a_pickle_may_hold_a_class_of_the_script(self, folder, mme_model):
        text = """
            import os, pickle

            class Doubler:
                def predict(self, rows):
                    return rows * 2

            def model_fn(model_dir):
                with open(os.path.join(model_dir, "doubler.pkl"), "rb") as file:
                    return pickle.load(file)
        """
        target = folder(code__inference=text)
        make = (
            "import inference, pickle; "
            "pickle.dump(inference.Doubler(), open('../doubler.pkl', 'wb'))"
        )
        subprocess.run([sys.executable, "-c", make], cwd=target / "code", check=True)

        assert mme_model(target).invoke("[[1, 2]]").json() == [[2, 4]]


class TestDjlsHandlers:
    @pytest.mark.parametrize(
        ("artifact", "options"),
        [
            ("model.skops", TRUSTED),
            ("other.skops", f"{TRUSTED}, numpy.ndarray\noption.model_format=skops"),
            ("model.joblib", f"option.model_format=joblib\n{TRUST}"),
            ("model.pkl", f"option.model_format=pickle\n{TRUST}"),
            ("model.cloudpkl", f"option.model_format=cloudpickle\n{TRUST}"),
        ],
    )
    def test_scikit_learn_needs_no_code(self, load, artifact, options):
        model = load(artifact, properties=SKLEARN + options)

        answer = model.invoke('{"inputs": [[1.0, 2.0], [3, 4]]}')

        assert answer.json()["predictions"] == pytest.approx([3, 7])
        assert answer.body.startswith(b'{\n  "predictions":[')
        assert answer.headers["content-type"] == "application/json"

    @pytest.mark.parametrize(
        ("artifact", "options"),
        [
            ("model.json", ""),
            ("model.ubj", "option.model_format=ubj"),
            ("model.bst", f"option.model_format=xgb\n{TRUST}"),
        ],
    )
    def test_xgboost_needs_no_code(self, load, booster, artifact, options):
        model = load(artifact, properties=XGBOOST + options)

        answer = model.invoke("[[1.0, 2.0], [9, 10]]")

        expected = booster.predict(xgboost.DMatrix(np.array([[1.0, 2], [9, 10]])))
        assert answer.json()["predictions"] == pytest.approx(expected.tolist())

    def test_without_an_entry_point_the_artefact_chooses(self, load):
        model = load("model.skops", properties=f"engine=Python\n{TRUSTED}\n")

        assert model.invoke("[[1, 2]]").json()["predictions"] == pytest.approx([3])

    def test_csv_comes_and_goes(self, load):
        model = load("model.skops", properties=SKLEARN + TRUSTED)

        answer = model.invoke("1,2\n3,4\n", content_type="text/csv", accept="text/csv")

        assert [round(float(line)) for line in answer.body.split(b"\n")] == [3, 7]
        assert answer.headers["content-type"] == "text/csv"

    def test_a_default_accept_counts_where_none_is_named(self, load, monkeypatch):
        model = load(
            "model.skops", properties=f"{SKLEARN}{TRUSTED}\noption.default_accept=text/csv"
        )
        assert model.invoke("[[1, 2]]", accept="*/*").headers["content-type"] == "text/csv"

        monkeypatch.setenv("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", "text/csv")
        model = load("model.skops", properties=SKLEARN + TRUSTED)
        assert model.invoke("[[1, 2]]", accept="*/*").headers["content-type"] == "text/csv"

    @pytest.mark.parametrize(
        ("artifact", "options", "reason"),
        [
            ("model.skops", "", "skops_trusted_types must be set"),
            ("model.joblib", "option.model_format=joblib", "trust_insecure_model_files must be"),
            ("model.pkl", "option.model_format=onnx", "may be one of skops, joblib"),
            ("model.skops", "option.model_format=joblib", "no file of the format joblib"),
        ],
    )
    def test_what_djl_refuses_is_refused(self, load, artifact, options, reason):
        with pytest.raises(ModelLoadError, match=reason):
            load(artifact, properties=SKLEARN + options)

    def test_two_files_of_a_format_are_refused_and_a_manifest_is_no_model(self, folder, mme_model):
        target = folder("model.json", properties=XGBOOST)
        (target / "manifest.json").write_text("{}")
        assert mme_model(target).invoke("[[1, 2]]").status == 200

        (target / "other.json").write_text("{}")
        with pytest.raises(ModelLoadError, match=r"model\.json, other\.json"):
            mme_model(target)

    @pytest.mark.parametrize(
        ("body", "content_type", "accept", "status"),
        [
            ("{", "application/json", None, 400),
            ('{"instances": [[1, 2]]}', "application/json", None, 400),
            ('{"inputs": []}', "application/json", None, 400),
            ("[[1, 2], [3]]", "application/json", None, 400),
            ("a,b\n1,2", "text/csv", None, 400),
            ("1,2\n3", "text/csv", None, 400),
            ("", "text/csv", None, 400),
            ("[[1, 2]]", "application/json", "image/png", 406),
            ("[[1, 2, 3]]", "application/json", None, 424),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, load, body, content_type, accept, status):
        model = load("model.skops", properties=SKLEARN + TRUSTED)

        assert model.invoke(body, content_type=content_type, accept=accept).status == status

    def test_djls_decorators_replace_the_steps(self, load):
        model = load("model.joblib", model=DECORATED)

        answer = model.invoke('{"features": [1, 2]}', content_type="application/json")

        assert answer.json() == {"tenfold": pytest.approx([30])}

    def test_sagemakers_functions_get_bytes_there_as_djl_hands_them_over(self, load):
        model = load("model.skops", model=DJL_FUNCTIONS, properties=SKLEARN + TRUSTED)

        answer = model.invoke('{"features": [[1, 2]]}', accept="application/x-mine")

        assert answer.json() == {"given": pytest.approx([3])}
        assert answer.headers["content-type"] == "application/x-mine"

    def test_predict_fn_is_called_whatever_its_parameters_are_called(self, load):
        text = "def predict_fn(anything, model):\n    return model.predict(anything) * 100\n"
        model = load("model.skops", model=text, properties=SKLEARN + TRUSTED)

        assert model.invoke("[[1, 2]]").json() == {"predictions": pytest.approx([300])}


def test_a_handle_in_code_is_called_as_it_is(load):
    text = """
        from djl_python import Output

        def handle(inputs):
            return Output().add("loaded" if inputs.is_empty() else inputs.get_as_string()[::-1])
    """
    model = load(
        properties="engine=Python\noption.entryPoint=code/inference.py\n", code__inference=text
    )

    assert model.invoke("abc").body == b"cba"


def test_a_batch_of_the_servers_is_answered_one_by_one(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(engine_folder()))
    from djl_python import Input

    for name in ("djl_python.input_parser", "djl_python.output_formatter"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # and away again

    inputs = Input()
    inputs.properties = {"batch_size": "2", "skops_trusted_types": "x"}
    inputs.properties["model_dir"] = str(folder("model.skops"))
    for index, body in enumerate((b"[[1, 2]]", b"{")):
        inputs.properties[f"batch_{index:03d}_Content-Type"] = "application/json"
        inputs.content.add(f"batch_{index:03d}.data", bytearray(body))

    output = EntryPoint()(inputs)

    good, bad = map(json.loads, output.content.values)
    assert good["predictions"] == pytest.approx([3])
    assert bad["code"] == 400


def test_the_decorators_of_a_model_leave_the_engine_as_it_was(load):
    model = load("model.joblib", model=DECORATED)

    from djl_python.input_parser import parse_input_with_formatter

    assert callable(parse_input_with_formatter)
    assert model.invoke('{"features": [1, 2]}').status == 200


ASK = """
import json, sys
from importlib import import_module
from djl_python import Input

folder, entries, properties, requests = json.loads(sys.argv[1])
sys.path.append(folder)

def ask(handle, properties, body=None):
    inputs = Input()
    inputs.properties = {**properties, "model_dir": folder}
    if body is not None:
        inputs.content.add("data", bytearray(body.encode("latin-1")))
    return handle(inputs)

def answers(entry):
    handle = import_module(entry).handle
    started = ask(handle, properties)
    assert started is None or started.code == 200, started
    for body, content_type, accept in requests:
        try:
            answer = ask(handle, {"Content-Type": content_type, "Accept": accept}, body)
        except Exception as error:
            yield [424, str(error)]
        else:
            yield [answer.code, bytes(answer.content.value_at(0)).decode("latin-1")]

print("FOUND" + json.dumps([list(answers(entry)) for entry in entries]))
"""


def _ask(engine, folder, *entries):
    """Ask handlers in a process of its own, under an engine of any version."""
    properties = read_properties(folder).init_parameters
    argument = json.dumps([str(folder), entries, properties, REQUESTS])
    runtime = Path(mmekit_runtime.__file__).parents[1]
    # xgboost and scikit-learn would each start threads for three rows.
    environment = os.environ | {"PYTHONPATH": f"{engine}:{runtime}", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", ASK, argument],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    (line,) = [one for one in process.stdout.splitlines() if one.startswith("FOUND")]
    return json.loads(line.removeprefix("FOUND"))


@pytest.fixture(scope="session")
def engine_036(tmp_path_factory):
    """Return the engine of the DJL Serving that is named, unpacked."""
    home = os.environ.get(HOME_VARIABLE)
    jars = sorted(Path(home, "lib").glob("python-*.jar")) if home else []
    if not jars:
        pytest.skip(f"{HOME_VARIABLE} names no DJL Serving, whose own handlers could be asked")
    folder = tmp_path_factory.mktemp("engine")
    with zipfile.ZipFile(jars[0]) as jar:
        names = [name for name in jar.namelist() if name.startswith("djl_python/")]
        jar.extractall(folder, names)
    if "djl_python/sklearn_handler.py" not in names:
        pytest.skip(f"{jars[0].name} has no djl_python.sklearn_handler")
    return folder


JSON, CSV = "application/json", "text/csv"
REQUESTS = [
    ('{"inputs": [[1.0, 2.5], [3, 4]]}', JSON, JSON),
    ('{"inputs": [1, 2]}', JSON, "*/*"),
    ("[[1, 2]]", JSON, CSV),
    ("[[1, 2], [3, 4]]", JSON, f"{CSV}, {JSON}"),
    ("1,2.5\n3,4\n", CSV, JSON),
    ("1,2", CSV, CSV),
    ("1\n2\n", CSV, JSON),
    ("1,2\r\n3,4\r\n", f"{CSV}; charset=utf-8", f"{JSON}; charset=utf-8"),
    ("# a comment\n1,2 # another\n", CSV, JSON),
    ("[[true, false]]", JSON, JSON),
    ("[[1e400, 1]]", JSON, JSON),
    ("[[NaN, 1]]", JSON, JSON),
    ("[[null, 1]]", JSON, JSON),
    ('[["1", "2"]]', JSON, JSON),
    ('[["a", "b"]]', JSON, JSON),
    ("[[[1, 2]]]", JSON, JSON),
    ("{", JSON, JSON),
    ("{}", JSON, JSON),
    ("7", JSON, JSON),
    ("[]", JSON, JSON),
    ("[[1, 2], [3]]", JSON, JSON),
    ("a,b\n1,2\n", CSV, JSON),
    ("1,2\n3\n", CSV, JSON),
    ("[[1, 2, 3]]", JSON, JSON),
    ("[[1, 2]]", JSON, "image/png"),
    ("some words", "text/plain", JSON),
    ("x", "application/x-npy", JSON),
    ("x", "application/octet-stream", JSON),
]


@pytest.mark.parametrize(
    ("artifact", "properties", "texts"),
    [
        ("model.skops", SKLEARN + TRUSTED, {}),
        ("model.json", XGBOOST, {}),
        ("model.joblib", SKLEARN, {"model": DECORATED.replace('["features"]', "")}),
        ("model.skops", SKLEARN + TRUSTED, {"model": DJL_FUNCTIONS.replace('["features"]', "")}),
    ],
    ids=["scikit-learn", "xgboost", "decorators", "functions"],
)
def test_answers_are_those_of_djls_own_handlers(engine_036, folder, artifact, properties, texts):
    theirs = properties.partition("entryPoint=")[2].partition("\n")[0]
    properties += f"\noption.convention={theirs}\noption.entryPoint={ENTRY_POINT}\n"
    target = folder(artifact, properties=properties, **texts)

    expected, found = _ask(engine_036, target, theirs, ENTRY_POINT)
    (older,) = _ask(engine_folder(), target, ENTRY_POINT)

    for request, their, our, in_older in zip(REQUESTS, expected, found, older, strict=True):
        assert in_older[0] == our[0], request
        assert in_older == our or our[0] == 424, request  # some errors tell an address or a time
        if their[0] == 200 and request[0] != "[]":  # their XGBoost answers a row of nothing
            assert our == their, request
        else:
            # Theirs is the engine's 424 for everything; ours says whose fault it is.
            assert our[0] in (400, 406, 424), request
    assert sum(code == 200 for code, _ in expected) >= 3
