"""Packages of SageMaker's and DJL's conventions: what check says, what packing makes of them."""

from __future__ import annotations

import io
import os
import tarfile

import joblib
import pytest

from mmekit.archive import check, pack, read_package
from mmekit.archive.contents import Contents, Member
from mmekit.archive.conventions import ENTRY_POINT, convention_of
from mmekit.archive.package import as_served
from mmekit.archive.properties import parse_properties
from mmekit.errors import CheckError, PackageError
from mmekit.testing import load_handler
from tests import skops_files

EVERY = ("the embedded server", "DJL Serving 0.36", "SageMaker's stock image")
FUNCTIONS = """\
import os

import joblib


def model_fn(model_dir):
    return joblib.load(os.path.join(model_dir, "model.joblib"))


def predict_fn(input_data, model):
    return model.predict(input_data) * 2
"""
HANDLE = "from djl_python import Output\ndef handle(inputs): return Output()\n"
DECORATED = (
    "from djl_python import input_parser\n@input_parser.init_handler\ndef start(folder): ...\n"
)
SKLEARN = "option.entryPoint=djl_python.sklearn_handler\n"
XGBOOST = "option.entryPoint=djl_python.xgboost_handler\n"
PROGRAM = "option.env=SAGEMAKER_PROGRAM="
TRUSTED = "option.skops_trusted_types=numpy.ndarray\n"


def contents(**files: str) -> Contents:
    """Return files; a double underscore in a name is a slash, a single one the dot of a suffix."""
    named = {name.replace("__", "/").replace("_", "."): text for name, text in files.items()}
    members = [Member.made_of(name, text.encode()) for name, text in named.items()]
    return Contents.of("model", members)


def convention(**files: str):
    return convention_of(contents(**files), parse_properties(files.get("serving_properties", "")))


def findings(path, rule="convention"):
    return [one for one in check(path) if one.rule == rule]


def by_hand(path, **files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for member in contents(**files):
            info = tarfile.TarInfo(member.name)
            info.size = member.size
            tar.addfile(info, io.BytesIO(member.data))
    return path


@pytest.mark.parametrize(
    ("files", "made_for", "platforms"),
    [
        ({"serving_properties": SKLEARN, "model_skops": ""}, "djl_python.sklearn_handler", EVERY),
        ({"serving_properties": XGBOOST, "model_json": ""}, "djl_python.xgboost_handler", EVERY),
        ({"model_skops": ""}, "djl_python.sklearn_handler", EVERY),
        ({"model_py": FUNCTIONS, "model_joblib": ""}, "djl_python.sklearn_handler", EVERY),
        ({"model_py": DECORATED, "model_pkl": ""}, "djl_python.sklearn_handler", EVERY),
        ({"model_py": FUNCTIONS, "ridge_joblib": ""}, "model.py", ()),
        ({"model_py": DECORATED}, "model.py", ()),
        (
            {"model_py": "def transform_fn(*_): ...\n", "model_joblib": ""},
            "model.py",
            (),
        ),
        ({"code__inference_py": FUNCTIONS, "model_joblib": ""}, "code/inference.py", ()),
        (
            {"code__inference_py": FUNCTIONS, "model_py": "class Mine: ...\n"},
            "code/inference.py",
            (),
        ),
        (
            {
                "code__mine_py": FUNCTIONS,
                "serving_properties": "option.env=SAGEMAKER_PROGRAM=mine.py",
            },
            "code/mine.py",
            (),
        ),
        (
            {"code__a_py": HANDLE, "serving_properties": "option.entryPoint=code/a.py"},
            "code/a.py",
            EVERY,
        ),
        (
            {"serve_py": FUNCTIONS, "serving_properties": "option.entryPoint=serve.py"},
            "serve.py",
            (),
        ),
    ],
)
def test_what_a_package_was_made_for_and_where_it_runs_is_seen_without_running_it(
    files, made_for, platforms
):
    found = convention(**files)

    assert (found.made_for, found.platforms) == (made_for, platforms)


@pytest.mark.parametrize(
    "files",
    [
        {"model_py": HANDLE, "model_joblib": ""},
        {"model_py": HANDLE + FUNCTIONS},
        {"model_py": HANDLE, "code__inference_py": FUNCTIONS},
        {"model_py": "def hanlde(inputs): ...\n", "model_joblib": ""},
        {"model_py": "no Python", "model_joblib": ""},
        {"serve_py": HANDLE, "serving_properties": "option.entryPoint=serve.py"},
        {"model_py": FUNCTIONS, "serving_properties": "option.handler=model_fn"},
        {"model_onnx": ""},
    ],
)
def test_a_handle_in_model_py_and_what_nobody_knows_are_no_convention(files):
    assert convention(**files) is None
    assert as_served(contents(**files)).files.keys() == contents(**files).files.keys()


def test_packing_writes_the_entry_point_and_what_it_was_made_for():
    given = contents(
        serving_properties="engine=Python\r\n" + SKLEARN + "minWorkers=1", model_skops=""
    )

    served = as_served(given)

    text = served.text("serving.properties")
    properties = parse_properties(text)
    assert properties.entry_point == ENTRY_POINT
    assert properties.options["convention"] == "djl_python.sklearn_handler"
    assert (properties.engine, properties.min_workers) == ("Python", 1)
    assert "# option.entryPoint=djl_python.sklearn_handler" in text
    assert as_served(served).text("serving.properties") == text


def test_an_entry_point_over_two_lines_and_a_name_in_another_script_are_kept_right():
    two = "option.entryPoint=djl_python.\\\n  sklearn_handler\n"
    served = as_served(contents(serving_properties=two, model_skops=""))
    assert parse_properties(served.text("serving.properties")).entry_point == ENTRY_POINT

    program = PROGRAM + "m\\u00fcsli.py"
    given = Contents.of(
        "model",
        [
            Member.made_of("serving.properties", program.encode()),
            Member.made_of("code/müsli.py", FUNCTIONS.encode()),
        ],
    )
    properties = parse_properties(as_served(given).text("serving.properties"))
    assert properties.options["convention"] == "code/müsli.py"


def test_what_sagemaker_installs_is_found_where_djl_looks_for_it():
    given = contents(code__inference_py=FUNCTIONS, code__requirements_txt="shap\n")

    assert as_served(given).text("requirements.txt") == "shap\n"


class TestCheck:
    def test_a_raw_archive_of_djls_handler_is_said_to_run_on_every_rung(self, tmp_path):
        archive = by_hand(
            tmp_path / "a.tar.gz",
            serving_properties="engine=Python\n" + SKLEARN + TRUSTED,
            model_skops="",
        )

        (found,) = findings(archive)

        assert found.severity == "note"
        assert "the embedded server, DJL Serving 0.36 and SageMaker's stock image" in found.message
        assert "mme pack" in found.remedy
        assert not any(one.is_error for one in check(archive))

    def test_a_raw_archive_that_only_sagemakers_containers_run_is_an_error(self, tmp_path):
        archive = by_hand(tmp_path / "a.tar.gz", code__inference_py=FUNCTIONS, ridge_joblib="")

        (found,) = findings(archive)

        assert found.severity == "error"
        assert "(model_fn, predict_fn in code/inference.py). As it is, only" in found.message

    def test_a_package_is_told_that_packing_makes_it_run_on_all(self, tmp_path):
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "inference.py").write_text(FUNCTIONS)

        (found,) = findings(tmp_path)

        assert (found.severity, "runs everywhere" in found.remedy) == ("note", True)
        assert not any(one.is_error for one in check(tmp_path))

    def test_functions_that_djl_takes_no_notice_of_are_named(self, tmp_path):
        archive = by_hand(
            tmp_path / "a.tar.gz",
            serving_properties="engine=Python\n" + SKLEARN,
            model_py=FUNCTIONS.replace("input_data", "data"),
            model_joblib="",
        )

        (found,) = findings(archive)

        assert "ignores predict_fn" in found.message

    @pytest.mark.parametrize(
        ("properties", "rule"),
        [
            (SKLEARN, "skops-types-missing"),
            (SKLEARN + "option.model_format=joblib\n", "model-format-untrusted"),
            (SKLEARN + "option.model_format=onnx\n", "model-format-unknown"),
            (XGBOOST + "option.model_format=xgb\n", "model-format-untrusted"),
        ],
    )
    def test_options_that_djls_handlers_want_are_asked_for(self, tmp_path, properties, rule):
        archive = by_hand(
            tmp_path / "a.tar.gz", serving_properties="engine=Python\n" + properties, model_skops=""
        )

        assert [one.severity for one in findings(archive, rule)] == ["error"]

    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            ("def predict_fn(data, model): ...\n", "model-fn-missing"),
            (FUNCTIONS + "def transform_fn(*_): ...\n", "transform-fn-and-parts"),
        ],
    )
    def test_a_script_that_sagemaker_refuses_is_an_error(self, tmp_path, text, rule):
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "inference.py").write_text(text)

        assert [one.severity for one in findings(tmp_path, rule)] == ["error"]

    def test_the_script_is_looked_at_as_a_model_py_is(self, tmp_path):
        (tmp_path / "code").mkdir()
        text = "import logging\nlogging.getLogger().setLevel('ERROR')\n" + FUNCTIONS
        (tmp_path / "code" / "inference.py").write_text(text)

        (found,) = findings(tmp_path, "log-level-raised")

        assert found.where.endswith("code/inference.py:2")


class TestPack:
    def test_a_sagemaker_folder_becomes_an_archive_that_answers(self, workshop, tmp_path):
        for file in workshop.package.iterdir():
            file.unlink()
        workshop.write("code/inference.py", FUNCTIONS)
        workshop.write("sample_request.json", "[[1, 2]]")

        packed = pack(workshop.package, workshop.artifacts, workshop.archive)

        assert {"code/inference.py", "mmekit_runtime/conventions/__init__.py"} <= set(packed.files)
        (found,) = findings(workshop.archive)
        assert found.severity == "note"
        assert "runs everywhere" in found.message
        assert not any(one.is_error for one in check(workshop.archive))
        with load_handler(workshop.archive) as model:
            (answer,) = model.invoke("[[1, 2]]").json()
        with load_handler(workshop.package, workshop.artifacts) as model:
            assert model.invoke("[[1, 2]]").json() == [answer]
        expected = joblib.load(workshop.artifacts / "model.joblib").predict([[1, 2]])
        assert answer == pytest.approx(2 * float(expected[0]))

    @pytest.mark.thorough
    def test_an_archive_that_was_unpacked_is_package_and_artefacts_in_one(self, workshop):
        for file in workshop.package.iterdir():
            file.unlink()
        workshop.write("serving.properties", "engine=Python\n" + SKLEARN + TRUSTED)
        ridge = joblib.load(workshop.artifacts / "model.joblib")
        skops_files.dump(ridge, workshop.package / "model.skops")

        packed = pack(workshop.package, workshop.package, workshop.archive)

        assert "model.skops" in packed.files
        assert os.listdir(workshop.package).count("measured.json") == 1  # noqa: PTH208
        assert "measured.json" not in read_package(workshop.package).contents
        with load_handler(workshop.archive) as model:
            found = model.invoke('{"inputs": [[1, 2]]}').json()["predictions"]
        assert found == pytest.approx(ridge.predict([[1, 2]]).tolist())

    def test_what_djl_would_refuse_to_load_is_not_packed(self, workshop):
        (workshop.package / "model.py").unlink()
        workshop.write("serving.properties", "engine=Python\n" + SKLEARN)

        with pytest.raises(CheckError, match="skops_trusted_types"):
            pack(workshop.package, workshop.artifacts, workshop.archive)

    def test_a_folder_of_something_else_is_no_package(self, tmp_path):
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "train.py").touch()

        with pytest.raises(PackageError, match=r"code/inference\.py"):
            read_package(tmp_path)
