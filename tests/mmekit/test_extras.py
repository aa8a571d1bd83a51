"""What `mme` says where an extra is not installed: which command needs which, and how to get it."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("hatchling")

# What `pip install mmekit` brings nothing of; nothing else is missing.
OF_EXTRAS = ("httptools", "moto", "uvloop", "prometheus_client", "matplotlib", "nbformat")
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OF_EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def installed(root, tmp_path_factory):
    """Return a folder with the wheel's contents, and what it is without the extras' libraries."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=root, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    (folder / "site" / "sitecustomize.py").write_text(BLOCKER)
    return folder / "site"


@pytest.fixture
def mme(installed, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "mmekit.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("up",), "local"),
        (("up", "--", "true"), "local"),
        (("serve", "--port", "0"), "local"),
        (("demo",), "notebooks"),
        (("bench", "--url", "http://127.0.0.1:9/x", "--data", "body.json"), "bench"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_a_command_without_its_extra_names_both_and_how_to_install_it(
    mme, tmp_path, arguments, extra
):
    (tmp_path / "body.json").write_text(json.dumps({"instances": [[1.0]]}))
    ran = mme(*arguments)
    assert ran.returncode == 1, ran.stderr
    assert f"`mme {arguments[0]}` needs " in ran.stderr
    assert ", which is not installed." in ran.stderr
    assert f"remedy: pip install 'mmekit[{extra}]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_what_ships_needs_no_extra(mme, root):
    for arguments in (
        ("--help",),
        ("up", "--help"),
        ("bench", "--help"),
        ("check", str(root / "model_packages" / "linear_regression")),
        ("environment", "--json"),
    ):
        ran = mme(*arguments)
        assert ran.returncode == 0, ran.stderr
        assert "not installed" not in ran.stderr


def test_the_traceback_is_there_for_who_asks(mme):
    ran = mme("--debug", "up")
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    assert "MissingExtraError" in ran.stderr
