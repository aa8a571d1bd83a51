"""What `mme` says after a plain install: every command works, or names the extra that it needs."""

import ast
import json
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmekit.errors import MissingExtraError
from mmekit.extras import explain_in_notebook, optional_libraries

pytest.importorskip("hatchling")

OURS = {"mmekit", "mmekit_bench", "mmekit_local", "mmekit_runtime"}
# The one runs in an environment that is made for it, the other comes with DJL's engine.
BROUGHT_OTHERWISE = {"scipy", "djl_python"}
# Runs every command in one process, as starting it takes longer than what it does.
RUN_ALL = """
import json, sys, traceback
from typer.main import get_command
from typer.testing import CliRunner
from mmekit.cli import app

def leaves(command, words=()):
    for name, one in getattr(command, "commands", {}).items():
        yield from leaves(one, (*words, name))
    if not getattr(command, "commands", {}):
        yield list(words)

asked = json.load(sys.stdin) or [[*words, *more] for words in leaves(get_command(app))
                                 for more in ([], ["--help"])]
answers = []
for words in asked:
    ended = CliRunner().invoke(app, words, prog_name="mme")
    raised = None if isinstance(ended.exception, (SystemExit, type(None))) else ended.exception
    said = ended.output + "".join(traceback.format_exception(raised) if raised else [])
    answers.append([words, ended.exit_code, said])
json.dump(answers, sys.stdout)
"""


def required(name, extra=""):
    """Return the distributions that one needs, those that they need among them."""
    found, waiting = set(), [Requirement(line) for line in distribution(name).requires or ()]
    waiting = [
        one for one in waiting if one.marker is None or one.marker.evaluate({"extra": extra})
    ]
    while waiting:
        one = waiting.pop()
        if one.name in found:
            continue
        found.add(one.name)
        for line in distribution(one.name).requires or ():
            further = Requirement(line)
            extras = ("", *one.extras)
            if further.marker is None or any(
                further.marker.evaluate({"extra": each}) for each in extras
            ):
                waiting.append(further)
    return found


@pytest.fixture(scope="module")
def plain(root, tmp_path_factory):
    """Return the Python of an environment that has what a plain install brings, and no more."""
    folder = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv").glob("lib/python3*/site-packages")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in required("mmekit"):
        one = distribution(name)
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(one.locate_file(top))
    return folder / "venv" / "bin" / "python"


@pytest.fixture
def run(plain, tmp_path):
    def run(*arguments, text=""):
        return subprocess.run(
            [plain, *arguments],
            cwd=tmp_path,
            env={"PATH": "/nowhere", "HOME": str(tmp_path), "COLUMNS": "200"},
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_every_command_answers_after_a_plain_install_with_help_and_without_arguments(run):
    ran = run("-c", RUN_ALL, text="null")
    answers = json.loads(ran.stdout)
    assert len(answers) > 40, ran.stderr
    for words, code, said in answers:
        assert "Traceback" not in said, (words, said)
        assert code in ((0,) if words[-1] == "--help" else (0, 1, 2)), (words, said)
        if code == 1 and "not installed" in said:
            assert said.count("remedy: pip install 'mmekit[") == 1, (words, said)


def test_what_an_extra_is_needed_for_says_so_in_one_line_and_what_is_not_works(run, root, tmp_path):
    (tmp_path / "body.json").write_text(json.dumps({"instances": [[1.0]]}))
    (tmp_path / "handler.py").write_text("def handle(data, context): ...\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "requirements.txt").write_text("cycler==0.12.1\n")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "0_set_up.ipynb").write_text("{}")
    package = str(root / "model_packages" / "linear_regression")
    expected = [
        ("local", ["up"]),
        ("local", ["up", "--server", "docker", "--", "true"]),
        ("local", ["serve", "--port", "0"]),
        ("local", ["serve", "--server", "mms", "--handler", "handler.py"]),
        ("local", ["serve", "--server", "djl"]),
        ("local,notebooks", ["demo"]),
        ("bench", ["bench", "--url", "http://127.0.0.1:9/x", "--data", "body.json"]),
        (None, ["check", package]),
        (None, ["environment", "--json"]),
        (None, ["images", "list"]),
        (None, ["describe", package]),
    ]
    ran = run("-c", RUN_ALL, text=json.dumps([words for _, words in expected]))
    assert ran.returncode == 0, ran.stderr
    for (extra, words), (_, code, said) in zip(expected, json.loads(ran.stdout), strict=True):
        assert "Traceback" not in said, said
        if extra is None:
            assert code == 0, said
            assert "not installed" not in said
        else:
            assert code == 1, said
            assert said.startswith(f"mme: `mme {words[0]}` needs "), said
            assert f"remedy: pip install 'mmekit[{extra}]'" in said
            assert len(said.splitlines()) == 3


def test_a_demonstration_without_notebooks_says_so_before_it_asks_for_gigabytes(run):
    ran = run("-m", "mmekit.cli", "demo")
    assert ran.returncode == 1
    assert "there are none here" in ran.stderr
    assert "mme new-project NAME" in ran.stderr
    assert "pip install" not in ran.stderr


def test_the_server_as_a_module_names_its_extra_without_a_traceback(run):
    ran = run("-m", "mmekit_local.server", "--port", "0")
    assert ran.returncode == 1
    assert ran.stderr.startswith("`python -m mmekit_local.server` needs ")
    assert "remedy: pip install 'mmekit[local]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_traceback_is_there_for_who_asks(run):
    ran = run("-m", "mmekit.cli", "--debug", "up")
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    assert "MissingExtraError" in ran.stderr


def imported_by_commands(root):
    """Return the top-level modules that `mme` imports anywhere, and no install of Python has."""
    found = set()
    for wing in ("mmekit", "mmekit_local", "mmekit_bench"):
        for file in (root / "packaging" / wing).rglob("*.py"):
            if "project" in file.parts:  # what `mme new-project` copies
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    found |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - OURS - set(sys.stdlib_module_names)


def test_every_library_that_is_imported_comes_with_the_base_or_has_a_remedy(root, plain):
    (site,) = Path(plain).parent.parent.glob("lib/python3*/site-packages")
    base = {path.name.partition(".")[0] for path in site.iterdir()}
    optional = imported_by_commands(root) - base - BROUGHT_OTHERWISE
    assert {"httptools", "moto", "matplotlib", "nbformat", "pandas", "skops"} <= optional
    for module in optional:
        with pytest.raises(MissingExtraError) as caught, optional_libraries("`mme`"):
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        assert caught.value.remedy.startswith("pip install ")


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("moto", "pip install 'mmekit[local]'"),
        ("matplotlib.pyplot", "pip install 'mmekit[bench]'"),
        ("nbclient", "pip install 'mmekit[notebooks]'"),
        ("sagemaker.core", "pip install 'mmekit[aws]'"),
        ("pandas", "pip install pandas"),  # and not the gigabytes of the notebooks
        ("lightgbm", "pip install lightgbm"),
        ("mlflow", "pip install mlflow-skinny"),
    ],
)
def test_the_remedy_is_the_extra_of_the_command_or_else_the_library_alone(module, remedy):
    with pytest.raises(MissingExtraError) as caught, optional_libraries("`mme`"):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert caught.value.remedy == remedy


def test_a_module_of_nobody_is_no_missing_extra():
    with pytest.raises(ModuleNotFoundError), optional_libraries("`mme`"):
        raise ModuleNotFoundError("No module named 'churn_features'", name="churn_features")


@pytest.mark.parametrize(
    ("module", "said", "is_explained"),
    [
        ("skops", "remedy: pip install 'mmekit[notebooks]'", True),
        ("moto", "remedy: pip install 'mmekit[local]'", True),
        ("churn_features", "ModuleNotFoundError", False),
    ],
)
def test_a_notebook_says_what_to_install_and_shows_no_traceback(
    tmp_path, monkeypatch, capsys, module, said, is_explained
):
    shells = pytest.importorskip("IPython.core.interactiveshell")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = shells.InteractiveShell(colors="nocolor")
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    explain_in_notebook()
    shell.run_cell(f"import {module}")
    printed = "".join(capsys.readouterr())
    assert said in printed
    assert ("Traceback" in printed) != is_explained
