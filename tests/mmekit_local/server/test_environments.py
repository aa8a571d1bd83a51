"""Models whose requirements.txt asks for what the server's own environment has not."""

import contextlib
import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from mmekit.engine import engine_folder
from mmekit.uv import pip_indexes
from mmekit_local.containers import launcher_for
from mmekit_local.server import environment_spec
from mmekit_local.server.errors import ApiError
from mmekit_local.server.requirements import Installed, lacking, read_requirements
from tests.server_process import ServerProcess, give_slots, has_ended, wait_until

METADATA = "Metadata-Version: 2.1\nName: tiny\nVersion: {}\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
HANDLE = """
import sys
from djl_python import Output
{imports}

def handle(inputs):
    if inputs.is_empty():
        return None
    return Output().add(f"{shown}")
"""
TINY = HANDLE.format(imports="import tiny", shown="{tiny.VERSION} {sys.prefix}")


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a server; all of them have one cache folder."""
    running = []
    variables = {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "MMEKIT_DJL_PYTHON": str(engine_folder()),
        "PYTHONDONTWRITEBYTECODE": "",  # with it all would be compiled beforehand
    }

    def start(*arguments, **more):
        server = ServerProcess(*arguments, environment={**variables, **more})
        running.append(server)
        return server

    yield start
    for server in running:
        server.close()


@pytest.fixture
def wheels(tmp_path):
    """A function that puts wheels of a library beside a model, so that no network is needed."""

    def put(folder, *versions):
        (folder / "requirements").mkdir()
        for version in versions:
            name = f"tiny-{version}"
            with zipfile.ZipFile(
                folder / "requirements" / f"{name}-py3-none-any.whl", "w"
            ) as archive:
                # The same bytes each time, as of a wheel that is copied.
                for file, text in (
                    ("tiny.py", f"VERSION = '{version}'\n"),
                    (f"{name}.dist-info/METADATA", METADATA.format(version)),
                    (f"{name}.dist-info/WHEEL", WHEEL),
                    (f"{name}.dist-info/RECORD", ""),
                ):
                    archive.writestr(zipfile.ZipInfo(file), text)

    return put


@pytest.fixture
def wanting(model_folder, wheels):
    """A function that makes a model which wants a version of the library."""

    def make(name, line, code=TINY, *, slots=False, **properties):
        folder = model_folder(code, name=name, minWorkers=1, maxWorkers=1, **properties)
        (folder / "requirements.txt").write_text(f"--no-index\n{line}\n")
        wheels(folder, "1.0", "2.0")
        return give_slots(folder) if slots else folder

    return make


def test_models_with_different_pins_run_side_by_side(start, wanting):
    server = start()
    folders = [
        wanting("old", "tiny==1.0"),
        wanting("new", "tiny==2.0  # the latest"),
        wanting("old_in_slots", "tiny==1.0", slots=True),
        wanting("new_in_slots", "tiny==2.0", slots=True),
    ]
    with ThreadPoolExecutor(len(folders)) as pool:
        list(pool.map(server.loaded, folders))

    answers = {folder.name: server.value(folder.name, "x").split() for folder in folders}

    assert {name: version for name, (version, _) in answers.items()} == {
        "old": "1.0",
        "new": "2.0",
        "old_in_slots": "1.0",
        "new_in_slots": "2.0",
    }
    # One environment for each set, whoever wants it.
    assert answers["old"] == answers["old_in_slots"]
    assert answers["new"] == answers["new_in_slots"]
    assert server.log.count(": once") == 2
    assert len(server.fork_servers()) == 2


def test_an_environment_is_made_once_for_all_servers_and_kept(start, wanting):
    first, second = start(), start()
    folder = wanting("old", "tiny==1.0")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda server: server.loaded(folder), (first, second)))
    first.loaded(folder, "again")

    values = {first.value("old", "x"), first.value("again", "x"), second.value("old", "x")}
    assert len(values) == 1
    assert (first.log + second.log).count(": once") == 1


def test_it_has_what_the_image_has_and_nothing_else_of_ours(start, wanting):
    server = start()
    image = "import sklearn, joblib, skops, PIL, numpy"
    has = wanting("has", "tiny==1.0", HANDLE.format(imports=image, shown="{sklearn.__version__}"))
    lacks = wanting("lacks", "tiny==1.0", HANDLE.format(imports="import pandas", shown=""))

    assert server.load("has", has).status_code == 200, server.log
    assert server.value("has", "x") == "1.7.2"
    refused = server.load("lacks", lacks)
    assert refused.status_code == 500
    server.wait_for("No module named 'pandas'")


def test_what_cannot_be_had_fails_the_load_with_the_reason_and_the_remedy(start, wanting):
    answer = start().load("wants", wanting("wants", "tiny==3.0"))

    assert (answer.status_code, answer.json()["type"]) == (500, "ModelException")
    message = answer.json()["message"]
    assert "there is no version of tiny==3.0" in message
    assert "connect to the network" in message
    assert "\n" not in message


def test_a_server_that_installs_nothing_refuses_such_a_model(start, wanting):
    server = start("--no-install")

    answer = server.load("wants", wanting("wants", "tiny==1.0"))

    assert answer.status_code == 500
    assert (
        "requirements.txt asks for what this environment lacks: tiny==1.0"
        in answer.json()["message"]
    )
    assert "making " not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_being_made_ends_with_the_server(start, wanting, tmp_path, number):
    fifo = tmp_path / "making"
    os.mkfifo(fifo)
    stub = tmp_path / "bin" / "uv"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho $$ > "{fifo}"\nexec sleep 600\n')
    stub.chmod(0o755)
    server = start(PATH=f"{stub.parent}:{os.environ['PATH']}")
    folder = wanting("wants", "tiny==1.0")
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(server.load, "wants", folder)
        making = psutil.Process(int(fifo.read_text()))
        server.process.send_signal(number)
        server.process.wait(60)
        with contextlib.suppress(httpx.HTTPError):
            loading.result()

    wait_until(lambda: has_ended(making))
    cache = tmp_path / "cache" / "mmekit"
    assert not [one for one in cache.glob("model-*") if one.is_dir()]


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """A Python of another environment, which has numpy and what its own site-packages have."""
    folder = tmp_path_factory.mktemp("other") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "numpy.pth").write_text(str(Path(np.__file__).parents[1]))
    (site / "own.py").write_text("NAME = 'own'\n")
    return folder / "bin" / "python"


def test_the_interpreter_that_a_model_names_runs_it(start, model_folder, interpreter):
    server = start()
    code = HANDLE.format(imports="import own", shown="{own.NAME} {sys.executable}")
    server.loaded(model_folder(code, name="named", option__pythonExecutable=str(interpreter)))

    assert server.value("named", "x") == f"own {interpreter}"


def test_what_the_interpreter_that_a_model_names_lacks_is_put_on_top(start, wanting, interpreter):
    server = start()
    code = HANDLE.format(imports="import own, tiny", shown="{own.NAME} {tiny.VERSION}")
    folder = wanting("named", "tiny==1.0", code, option__pythonExecutable=str(interpreter))
    server.loaded(folder)

    assert server.value("named", "x") == "own 1.0"


@pytest.mark.thorough
def test_scikit_learn_of_the_index_runs_beside_the_one_that_is_here(start, model_folder):
    server = start()
    code = HANDLE.format(imports="import sklearn", shown="{sklearn.__version__}")
    old, new = model_folder(code, name="old"), model_folder(code, name="new")
    (old / "requirements.txt").write_text("scikit-learn==1.5.0\n")

    for folder in (old, new):
        content = {"model_name": folder.name, "url": folder.as_uri()}
        answer = server.client.post("/models", json=content, timeout=280)
        assert answer.status_code == 200, server.log

    assert server.value("old", "x") == "1.5.0"
    assert server.value("new", "x") != "1.5.0"


def test_that_the_python_of_the_image_is_not_here_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(environment_spec, "_find_python", lambda _: None)
    environment_spec._python_of.cache_clear()

    found = {environment_spec._python_of("3.99", "an-image:1") for _ in range(3)}

    assert found == {(sys.executable, "{}.{}".format(*sys.version_info[:2]))}
    (said,) = caplog.messages
    assert said.startswith("there is no Python 3.99 here, which an-image:1 has")


@pytest.fixture
def wanted(tmp_path):
    """A function that reads what lines ask for, in a folder with one more file."""
    folder = tmp_path / "archive"
    (folder / "more").mkdir(parents=True)
    (folder / "more" / "base.txt").write_text("joblib>=1\n-c ../limits.txt\n")
    (folder / "limits.txt").write_text("scipy<2\n")
    (tmp_path / "secret.txt").write_text("password\n")

    def read(text):
        (folder / "requirements.txt").write_text(text)
        return read_requirements(folder)

    return read


def test_lines_are_read_as_pip_reads_them(wanted):
    found = wanted(
        "# a comment\n\nnumpy >=1, \\\n  <3  # with a comment\n-r more/base.txt\n"
        "--extra-index-url=https://example.org/simple --pre\n--only-binary numpy,scipy\n"
        "tiny @ https://example.org/tiny-1.0-py3-none-any.whl\n"
        "git+https://example.org/a.git@main#egg=a\n"
    )

    assert found.lines == (
        "numpy >=1,    <3",
        "joblib>=1",
        "tiny @ https://example.org/tiny-1.0-py3-none-any.whl",
        "git+https://example.org/a.git@main#egg=a",
    )
    assert found.constraints == ("scipy<2",)
    assert found.options == (
        *("--index", "https://example.org/simple", "--prerelease", "allow"),
        *("--only-binary", "numpy", "--only-binary", "scipy"),
        *("--index-strategy", "unsafe-best-match"),
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_that_windows_has_written_is_read(tmp_path, encoding):
    (tmp_path / "requirements.txt").write_bytes("numpy>=1\r\nscipy\r\n".encode(encoding))

    assert read_requirements(tmp_path).lines == ("numpy>=1", "scipy")


def test_that_nothing_is_installed_reaches_every_embedded_container():
    launcher = launcher_for("embedded", installs=False)

    assert launcher._default._command[-1] == "--no-install"
    assert "--no-install" not in launcher_for("embedded")._default._command


def test_a_hash_makes_all_hashes_necessary_as_with_pip(wanted):
    assert wanted("numpy==2.0.0 --hash=sha256:00\n").options == ("--require-hashes",)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("-r ../secret.txt", "not in the archive"),
        ("-r /etc/passwd", "not in the archive"),
        ("-c https://example.org/limits.txt", "not in the archive"),
        ("--requirement=none.txt", "no such file"),
        ("-r requirements.txt", "without an end"),
        ("-e .", "a path of the machine"),
        ("--editable=git+https://example.org/a.git", "a path of the machine"),
        (".", "a path of the machine"),
        ("./tiny-1.0-py3-none-any.whl", "a path of the machine"),
        ("/opt/tiny", "a path of the machine"),
        ("tiny @ file:///tmp/tiny", "a path of the machine"),
        ("git+file:///tmp/tiny", "a path of the machine"),
        ("git+ssh://git@example.org/a.git", "a key of yours"),
        ("a @ git+ssh://git@example.org/a.git", "a key of yours"),
        ("hg+https://example.org/a", "no hg"),
        ("--index-url file:///tmp", "a folder"),
        ("-f /tmp/wheels", "a folder"),
        ("--index-url", "no value"),
        ("--index-url https://$", ""),
        ("numpy --config-settings=a=b", "only --hash"),
        ("--target /usr", "no --target"),
        ("-t/usr", "no -t"),
        ("numpy ==", "no requirement"),
        ("--index-url https://${TOKEN}@example.org", "a variable"),
        ("-r '", "quotes"),
    ],
)
def test_a_line_that_must_not_be_followed_is_refused_with_the_reason(wanted, line, why):
    if not why:
        assert wanted(f"{line}\nnumpy\n").lines == ("numpy",)
        return
    with pytest.raises(ApiError, match=why) as refused:
        wanted(f"{line}\n")
    assert refused.value.status == 500
    assert "requirements.txt" in refused.value.what


def test_a_password_in_a_line_is_not_said(wanted):
    with pytest.raises(ApiError) as refused:
        wanted("git+ssh://me:hunter2@example.org/a.git\n")

    assert "hunter2" not in refused.value.what


def test_what_is_lacking_is_told_by_versions_extras_and_markers(wanted):
    installed = Installed()

    assert lacking(wanted("numpy>=1\nnumpy<1; python_version<'3'\n"), installed) == []
    assert lacking(wanted("numpy<1\nno-such-thing\n"), installed)[1] == "no-such-thing"
    assert lacking(wanted("tiny @ https://example.org/t.whl\n"), installed)
    assert lacking(wanted("moto[server]\n"), installed) == []
    assert lacking(wanted("requests[socks]\n"), installed) == ["requests[socks]"]


def test_uv_is_told_what_pip_is_told(tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://a.example/simple\ncert = /etc/ca.pem\n")
    environ = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(config)}

    found = pip_indexes({**environ, "PIP_EXTRA_INDEX_URL": "https://b.example/ https://c.example/"})

    assert found["UV_DEFAULT_INDEX"] == "https://a.example/simple"
    assert found["UV_INDEX"] == "https://b.example/ https://c.example/"
    assert found["SSL_CERT_FILE"] == "/etc/ca.pem"
    assert "UV_DEFAULT_INDEX" not in pip_indexes({**environ, "UV_DEFAULT_INDEX": "https://d/"})
