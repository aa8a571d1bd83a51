"""`make` as a newcomer meets it: what it needs, and what it says when that is not there."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

TOOLS = [
    "awk", "cat", "cksum", "df", "dirname", "du", "env", "find", "grep", "make", "mkdir", "rm",
    "sed", "sh", "sleep",
]  # fmt: skip
NOWHERE = "http://127.0.0.1:9/simple"


@pytest.fixture
def clone(root, tmp_path):
    """Return a copy of what set-up works with, in a folder whose name has a blank."""
    clone = tmp_path / "a clone"
    shutil.copytree(root / "tools", clone / "tools")
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(root / name, clone)
    return clone


@pytest.fixture
def path(tmp_path):
    """Return a folder of programs that is all of PATH and has no Python yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


@pytest.fixture
def make(clone, path, tmp_path):
    def run(*arguments, stdout=subprocess.PIPE, **variables):
        environment = {
            "PATH": str(path),
            "HOME": str(tmp_path),
            "MMEKIT_FREE_GB": "0",
            "PIP_INDEX_URL": NOWHERE,
            "PIP_RETRIES": "0",
            "UV_CACHE_DIR": str(tmp_path / "empty"),
            "UV_DEFAULT_INDEX": NOWHERE,
            "UV_HTTP_RETRIES": "0",
            **variables,
        }
        return subprocess.run(
            ["make", *arguments],
            cwd=clone,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    return run


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def this_python(path):
    (path / "python3").symlink_to(sys.executable)


def the_one_line_of(finished):
    """Return what a failed set-up says, without the line that make adds."""
    assert finished.returncode != 0
    lines = [line for line in finished.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1
    assert "Traceback" not in finished.stdout + finished.stderr
    return lines[0]


def test_make_alone_lists_the_targets(make):
    finished = make()
    assert finished.returncode == 0
    listed = re.findall(r"^make (\w+) +\S", finished.stdout, re.MULTILINE)
    tries = [
        "setup",
        "demo",
        "test",
        "thorough",
        "newest",
        "lint",
        "docs",
        "wheel",
        "lab",
        "catboost",
    ]
    tries += ["images", "serverless", "tables", "benchmark", "soak", "fuzz"]
    assert listed == [*tries, "clean", "lock"]


def test_without_python_one_line_says_what_to_install(make):
    line = the_one_line_of(make("setup"))
    assert "no Python from 3.10" in line
    assert "PYTHON=" in line


def test_a_python_that_is_too_old_is_named_with_its_version(make, path):
    program(path / "python3", "echo 3.9")
    assert "python3 is 3.9" in the_one_line_of(make("setup"))


def test_a_program_that_only_pretends_to_be_python_is_passed_over(make, path):
    program(path / "python3", "echo 'python3: not installed' >&2; exit 127")
    program(path / "python3.12", "echo 3.9")
    assert "python3.12 is 3.9" in the_one_line_of(make("setup"))


@pytest.mark.parametrize("version", ["3.8", "3.9"])
def test_a_real_old_python_is_refused(make, version):
    found = shutil.which(f"python{version}")
    homes = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    pythons = [*([found] if found else []), *homes.glob(f"{version}.*/bin/python")]
    real = [name for name in map(str, pythons) if reports(name, version)]
    if not real:
        pytest.skip(f"no Python {version} on this machine")
    line = the_one_line_of(make("setup", f"PYTHON={real[0]}"))
    assert f"is {version};" in line


def reports(python, version):
    asked = subprocess.run([python, "-V"], capture_output=True, text=True, check=False)
    return asked.stdout.startswith(f"Python {version}.")


def test_a_python_named_by_the_user_is_the_only_one_tried(make, path):
    this_python(path)
    assert "tried: missing-python" in the_one_line_of(make("setup", "PYTHON=missing-python"))


def test_a_python_without_venv_says_which_package_has_it(make, path, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ensurepip.py").write_text("raise ImportError")
    this_python(path)
    line = the_one_line_of(make("setup", PYTHONPATH=str(tmp_path / "broken")))
    assert "apt install python3." in line
    assert "-venv" in line


def test_too_small_a_disk_is_noticed_before_anything_is_made(make, path, clone):
    this_python(path)
    line = the_one_line_of(make("setup", MMEKIT_FREE_GB="1000000"))
    assert "need up to 1000000 GB" in line
    assert "make room" in line
    assert not (clone / ".venv").exists()


def test_without_network_one_line_says_so_before_uv_is_there(make, path, clone):
    this_python(path)
    finished = make("setup")
    assert "connect to the network" in the_one_line_of(finished)
    assert "1/6 making .venv" in finished.stdout
    assert "2/6 installing uv" in finished.stdout
    assert not (clone / ".venv" / ".mmekit-ready").exists()
    assert "127.0.0.1" in (clone / "build" / "setup.log").read_text()


def test_without_network_one_line_says_so_when_uv_is_there(make, path, clone):
    this_python(path)
    assert "connect to the network" in the_one_line_of(make("setup"))
    lend_uv(clone / ".venv")
    finished = make("setup")
    assert "connect to the network" in the_one_line_of(finished)
    assert "1/6 keeping .venv" in finished.stdout
    assert "3/6 installing the libraries" in finished.stdout


def lend_uv(venv):
    ours = Path(sysconfig.get_path("purelib"))
    theirs = next(venv.glob("lib/python*/site-packages"))
    for folder in ours.glob("uv-*.dist-info"):
        shutil.copytree(folder, theirs / folder.name)
    shutil.copytree(ours / "uv", theirs / "uv")
    shutil.copy(Path(sysconfig.get_path("scripts"), "uv"), venv / "bin" / "uv")


def test_a_full_disk_is_called_a_full_disk(make, path, clone):
    # The words of pip, from a program in pip's place: filling a real disk is not for a test.
    program(path / "python3", full_disk_python())
    assert "the disk is full" in the_one_line_of(make("setup"))
    assert not (clone / ".venv" / ".mmekit-ready").exists()


def full_disk_python():
    return """case "$*" in
*version_info*) echo 3.12 ;;
*ensurepip*) ;;
*) echo "OSError: [Errno 28] No space left on device" >&2; exit 1 ;;
esac"""


def test_a_step_that_takes_long_says_so_every_few_seconds(clone, path, make):
    # A program in Python's place that goes on until set-up has said twice how long it takes.
    said = clone / "said"
    program(
        path / "python3",
        f"""case "$*" in
*version_info*) echo 3.12 ;;
*ensurepip*) ;;
*) until grep -q "after 8 s" "{said}"; do sleep 1; done; exit 1 ;;
esac""",
    )
    with said.open("w") as output:
        finished = make("setup", stdout=output)
    assert finished.returncode != 0
    assert re.findall(r"^  after (\d+) s$", said.read_text(), re.MULTILINE)[:2] == ["4", "8"]


def test_what_handlers_import_is_compiled(root):
    compiled = re.findall(r"\w+(?:\.\w+)*", (root / "tools" / "compile.py").read_text())
    sources = (root / "packaging" / "mmekit_runtime").rglob("*.py")
    imported = {
        name.partition(".")[0]
        for source in sources
        for node in ast.walk(ast.parse(source.read_text()))
        for name in names_of(node)
    }
    ours = {"djl_python", "mmekit_runtime", "mmekit_layers", "numpy"}
    libraries = imported - sys.stdlib_module_names - ours
    assert {"skops", "setfit", "torch"} <= libraries
    assert libraries <= {name.partition(".")[0] for name in compiled}


def names_of(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module]
    return []


def test_the_second_time_only_looks_whether_all_is_as_it_was(root, path):
    ready = root / ".venv" / ".mmekit-ready"
    if not ready.exists():
        pytest.skip("this environment was not made by `make setup`")
    if ready.stat().st_mtime < (root / "pyproject.toml").stat().st_mtime:
        pytest.skip("pyproject.toml has been changed since `make setup`")
    made = ready.stat().st_mtime_ns
    # Not as a make inside the make that may be running the tests; and with no other Python.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    finished = subprocess.run(
        ["make", "setup"],
        cwd=root,
        env=environment | {"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert ready.stat().st_mtime_ns == made


def test_the_lock_names_no_index_and_no_folder_of_a_machine(root):
    lock = (root / "requirements.lock").read_text()
    assert not re.search(
        r"https?://|file:|--find-links|--index|--extra-index|^/", lock, re.MULTILINE
    )
    pinned = re.findall(r"^([a-z0-9-]+)==\S+.*\\$", lock, re.MULTILINE)
    assert {"uv", "hatchling", "torch", "boto3", "pytest", "ruff"} <= set(pinned)
    assert not re.search(r"^[a-z0-9-]+==[^\\\n]*$", lock, re.MULTILINE)  # none without a hash


@pytest.mark.thorough
def test_an_environment_that_was_copied_from_another_folder_is_made_anew(make, path, clone):
    this_python(path)
    make("setup")
    assert "1/6 keeping .venv" in make("setup").stdout
    copy = shutil.copytree(clone, clone.parent / "copy", symlinks=True)
    assert "1/6 making .venv" in make("-C", str(copy), "setup").stdout
