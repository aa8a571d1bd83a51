"""images.json, and `mme images`, which shows and changes it."""

import json
import os
import subprocess

import pytest
from typer.testing import CliRunner

from mmekit.archive import STOCK_IMAGE
from mmekit.archive.images import image_of
from mmekit.cli import app
from mmekit.errors import ImageError
from mmekit.settings import Settings
from mmekit_local.containers import ImageRules

ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com"


@pytest.fixture
def mme(tmp_path):
    """A function that runs `mme images` in this process: tests/test_cli.py has `mme` as one."""

    def run(*arguments, folder=tmp_path, **variables):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for name, value in {"COLUMNS": "200", **variables}.items():
                patch.setenv(name, str(value))
            words = ["images", *map(str, arguments)]
            done = CliRunner().invoke(app, words, prog_name="mme")
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """A function that writes images.json and reads it as mmekit does."""
    monkeypatch.chdir(tmp_path)

    def read(content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "images.json").write_text(text)
        return ImageRules.read()

    return read


@pytest.mark.parametrize(
    "uri",
    [
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full",
        "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-lmi18.0.0-cu128",
        "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/djl-inference:0.36.0-cpu-full",
        "763104351884.dkr.ecr.eu-west-1.amazonaws.com/djl-inference@sha256:0123456789abcdef",
        "deepjavalibrary/djl-serving:0.36.0-cpu-full",
        f"{ECR}/mmekit-djl:latest",
    ],
)
def test_an_image_of_djl_serving_is_known(uri, tmp_path):
    assert ImageRules(tmp_path / "images.json").find(uri).command == ("djl",)


def test_the_default_image_of_the_settings_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert ImageRules.read().find(Settings().image_uri).command == ("djl",)


def test_an_image_that_no_rule_is_about_is_none(tmp_path):
    for uri in (f"{ECR}/djl-inference-of-mine:1", "djl-inference", ""):
        assert ImageRules(tmp_path / "images.json").find(uri) is None


def test_the_first_rule_that_matches_decides_before_what_is_built_in(rules):
    read = rules(
        {
            "images": [
                {"pattern": "*/djl-inference:mine", "command": ["one"]},
                {"pattern": "*:mine", "command": ["two"]},
            ]
        }
    )

    assert read.find(f"{ECR}/djl-inference:mine").command == ("one",)
    assert read.find(f"{ECR}/other:mine").command == ("two",)
    assert read.find(f"{ECR}/djl-inference:theirs").command == ("djl",)


def test_files_in_a_command_count_from_the_folder_of_the_file(rules, tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "serve.py").touch()

    command = ["python", "serving/serve.py", "text/csv", "/bin/true", "serving"]
    rule = rules({"images": [{"pattern": "*", "command": command}]}).find("a")

    served = str(tmp_path / "serving" / "serve.py")
    assert rule.words() == ["python", served, "text/csv", "/bin/true", "serving"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting property name"),
        ([], "the whole file: Input should be"),
        ({}, "images: Field required"),
        ({"images": [], "version": 1}, "version: Extra inputs are not permitted"),
        ({"images": [{"pattern": "*"}]}, "images[0].command: Field required"),
        ({"images": [{"pattern": "*", "command": []}]}, "images[0].command: List should have"),
        ({"images": [{"pattern": "*", "command": "a b"}]}, "images[0].command: Input should be"),
        ({"images": [{"pattern": "*", "command": [""]}]}, "images[0].command[0]: String should"),
        ({"images": [{"pattern": "", "command": ["a"]}]}, "images[0].pattern: String should"),
        (
            {"images": [{"pattern": "*", "command": ["a"], "holds": "python3.11"}]},
            "images[0].holds: Input should be a valid list",
        ),
        (
            {"images": [{"pattern": "*", "command": ["a"], "environment": {"N": 1}}]},
            "images[0].environment.N: Input should be a valid string",
        ),
    ],
)
def test_a_file_that_is_not_right_is_refused_with_the_place(rules, content, said):
    with pytest.raises(ImageError) as refused:
        rules(content)

    assert said in refused.value.what
    assert refused.value.where.endswith("images.json")
    assert "mme images add" in refused.value.remedy


def test_a_file_that_a_variable_names_must_be_there(mme, tmp_path):
    listed = mme("list", MME_IMAGES=tmp_path / "none.json")

    assert listed.returncode == 1
    assert "MME_IMAGES names a file that does not exist" in listed.stderr


def test_a_rule_is_added_shown_replaced_and_removed(mme, tmp_path):
    added = mme("add", "*/mine:*", "--env", "A=1", "--env", "B=x=y", "--", "serve", "--fast")
    assert added.returncode == 0, added.stderr
    assert json.loads((tmp_path / "images.json").read_text()) == {
        "images": [
            {
                "pattern": "*/mine:*",
                "command": ["serve", "--fast"],
                "environment": {"A": "1", "B": "x=y"},
            }
        ]
    }
    shown = mme("list").stdout
    assert "*/mine:*" in shown
    assert "serve --fast" in shown
    assert "built in" in shown
    assert mme("list", f"{ECR}/mine:3").stdout == "serve --fast\n"

    mme("add", "*/other:*", "--", "djl")
    mme("add", "*/mine:*", "--", "serve")
    images = json.loads((tmp_path / "images.json").read_text())["images"]
    assert [rule["pattern"] for rule in images] == ["*/other:*", "*/mine:*"]
    assert images[1] == {"pattern": "*/mine:*", "command": ["serve"]}

    assert mme("remove", "*/mine:*").returncode == 0
    again = mme("remove", "*/mine:*")
    assert again.returncode == 1
    assert "There is no rule for */mine:*." in again.stderr


def test_a_rule_is_added_to_the_file_above_with_its_files_as_seen_from_there(mme, tmp_path):
    (tmp_path / "images.json").write_text('{"images": []}')
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "serve.py").touch()

    mme("add", "*", "--", "python", "./serve.py", folder=tmp_path / "below")

    (rule,) = json.loads((tmp_path / "images.json").read_text())["images"]
    assert rule["command"] == ["python", "below/serve.py"]


def test_the_search_for_the_file_ends_at_the_root_of_the_project(mme, tmp_path):
    (tmp_path / "images.json").write_text("{")
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)

    assert mme("list", folder=project).returncode == 0
    assert mme("list", folder=tmp_path).returncode == 1


def test_what_an_image_holds_is_declared_once_and_found_by_its_uri(mme, tmp_path, monkeypatch):
    holds = ("--holds", "djl-inference:0.36.0-cpu-full", "--holds", "catboost==1.2.8")
    added = mme("add", "*/mine:*", *holds, "--", "djl")
    assert added.returncode == 0, added.stderr
    monkeypatch.chdir(tmp_path)

    image = image_of(f"{ECR}/mine:7")

    assert (image.name, image.python) == (f"{ECR}/mine:7", "3.11")
    assert image.version("catboost") == "1.2.8"
    assert "catboost==1.2.8" in mme("list").stdout
    mme("add", "*/other:*", "--", "djl")
    assert image_of(f"{ECR}/mine:7") == image
    with pytest.raises(ImageError, match="not known which Python"):
        image_of(f"{ECR}/other:7")


def test_what_nobody_understands_is_not_written(mme, tmp_path):
    refused = mme("add", "*/mine:*", "--holds", "catboost>=1", "--", "djl")

    assert refused.returncode == 1
    assert "not a version of a distribution" in refused.stderr
    assert not (tmp_path / "images.json").exists()


def test_an_image_is_a_stock_one_a_declared_one_or_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert image_of(Settings().image_uri) is STOCK_IMAGE
    assert image_of("mine:1=python3.12").python == "3.12"
    assert image_of("none") is None
    with pytest.raises(ImageError) as refused:
        image_of("mine:1")
    assert "mine:1=python3.11,catboost==1.2.8" in refused.value.remedy
    assert "djl-inference:0.35.0-cpu-full" in refused.value.remedy


def test_a_variable_without_a_value_is_refused(mme):
    refused = mme("add", "*", "--env", "A", "--", "serve")

    assert refused.returncode == 2
    assert "NAME=VALUE" in refused.stderr


def test_the_file_of_this_repository_is_right(root):
    rules = ImageRules.read(root / "images.json")

    rule = rules.find(f"{ECR}/mmekit-mms-catboost:latest")
    program, handler, _, entrypoint = rule.words()
    assert program == "mms"
    assert os.path.isfile(handler)  # noqa: PTH113
    assert os.path.isfile(entrypoint)  # noqa: PTH113


def test_a_rule_works_as_it_was_typed_wherever_the_file_is(mme, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "not" / "there" / "yet" / "images.json"
    (here / "conf").mkdir(parents=True)
    for name in ("serve.py", "conf/serve.yml", "fast"):
        (here / name).touch()
    typed = ("python", "serve.py", "--config=conf/serve.yml", "fast", "none.py", "--name=a/b")

    # A file that the variable names and that is not there yet is made, with its folder.
    added = mme("add", "*/mine:*", "--", *typed, folder=here, MME_IMAGES=there)

    assert added.returncode == 0, added.stderr
    monkeypatch.setenv("MME_IMAGES", str(there))
    rule = ImageRules.read().find(f"{ECR}/mine:1")
    assert rule.words() == [
        *("python", str(here / "serve.py"), f"--config={here / 'conf' / 'serve.yml'}"),
        *("fast", "none.py", "--name=a/b"),
    ]
    # Both may move together.
    assert not any(word.startswith("/") for word in rule.command)


def test_a_file_beside_images_json_is_found_from_any_folder(mme, tmp_path):
    (tmp_path / "handler.py").write_text("import json\n")

    assert mme("add", "*/mine:*", "--", "mms", "handler.py").returncode == 0

    rule = ImageRules.read(tmp_path / "images.json").find(f"{ECR}/mine:1")
    assert rule.words() == ["mms", str(tmp_path / "handler.py")]


@pytest.mark.parametrize("command", [("mms", "handler.py"), ("mms",)])
def test_a_handler_that_is_not_there_is_not_written(mme, tmp_path, command):
    refused = mme("add", "*/mine:*", "--", *command)

    assert refused.returncode == 1
    assert "mms HANDLER.py" in refused.stderr
    assert not (tmp_path / "images.json").exists()


def test_what_a_handler_imports_and_its_requirements_lack_is_warned_of(mme, tmp_path):
    (tmp_path / "beside.py").touch()
    (tmp_path / "requirements.txt").write_text("scikit-learn>=1  # and so joblib\n")
    (tmp_path / "handler.py").write_text(
        "import json, numpy, joblib, beside\nfrom sklearn import svm\nimport pandas as pd\n"
        "from sagemaker_inference import errors\nfrom typing import TYPE_CHECKING\n"
        "try:\n    import torch\nexcept ImportError:\n    torch = None\n"
        "if TYPE_CHECKING:\n    import mms\n"
        "def handle(data, context):\n    import cv2\n"
    )

    added = mme("add", "*/mine:*", "--", "mms", "handler.py")

    assert added.returncode == 0
    warned = [line.split(",")[0] for line in added.stderr.splitlines() if "warning" in line]
    assert warned == ["warning: handler.py imports cv2", "warning: handler.py imports pandas"]

    (tmp_path / "requirements.txt").write_text("scikit-learn\npandas==2.2\nopencv-python-headless")
    assert "warning" not in mme("add", "*/mine:*", "--", "mms", "handler.py").stderr
