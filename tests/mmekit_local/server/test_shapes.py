"""Archives as people make them: the check says of each whether the server can load it."""

import io
import tarfile

import pytest

from mmekit.archive import check, unpack
from tests.server_process import ServerProcess

MODEL = {
    "model.py": b"from djl_python import Output\n"
    b"def handle(inputs):\n    return None if inputs.is_empty() else Output().add('ok')\n",
    "serving.properties": b"engine=Python\nminWorkers=1\nmaxWorkers=1\n",
}
# What macOS's tar puts beside files that have attributes there (RFC 1740).
ATTRIBUTES = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + b"\x00" * 100


def below(folder):
    return {f"{folder}/{name}": content for name, content in MODEL.items()}


def with_attributes(files):
    added = {}
    for name in files:
        folder, _, file = name.rpartition("/")
        added[f"{folder}/._{file}".lstrip("/")] = ATTRIBUTES
        added[f"._{name.partition('/')[0]}"] = ATTRIBUTES
    return {**added, **files}


SHAPES = {
    "flat": (MODEL, True),
    "flat from macOS": (with_attributes(MODEL), True),
    "in a folder": (below("ridge"), True),
    "in a folder from macOS": (with_attributes(below("ridge")), True),
    "in a folder beside a hidden one": ({**below("ridge"), ".git/config": b""}, True),
    "in a folder beside a file": ({**below("ridge"), "README.md": b""}, False),
    "in a folder beside what zip adds": ({**below("ridge"), "__MACOSX/a": b""}, False),
    "in two folders": (below("models/ridge"), False),
    "in two folders from macOS": (with_attributes(below("models/ridge")), False),
}


@pytest.fixture(scope="module")
def server():
    running = ServerProcess()
    yield running
    running.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_check_and_the_server_see_an_archive_alike(server, tmp_path, shape):
    files, loads = SHAPES[shape]
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    folder = tmp_path / "unpacked"
    unpack(archive, folder)

    answer = server.load("shaped", folder)
    errors = [finding for finding in check(archive) if finding.is_error]

    assert (answer.status_code == 200) == loads, answer.text
    assert (not errors) == loads, errors
    if loads:
        assert server.value("shaped", "x") == "ok"
        server.unload("shaped")
