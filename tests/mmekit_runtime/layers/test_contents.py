"""What a layer is named by."""

from __future__ import annotations

import hashlib
import os

import pytest

from mmekit_runtime.layers.contents import LayerFile, digest_of, digest_of_folder
from mmekit_runtime.layers.listing import LayerError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run").write_bytes(b"#!")
    (tmp_path / "b" / "run").chmod(0o755)
    (tmp_path / "a.py").write_bytes(b"x = 1\n")
    return tmp_path


def test_the_digest_is_that_of_a_line_for_each_file_in_the_order_of_their_names(folder):
    a, run = (hashlib.sha256(data).hexdigest() for data in (b"x = 1\n", b"#!"))
    lines = f"644 {a} 6 a.py\n755 {run} 2 b/run\n"

    digest = digest_of_folder(folder)

    assert digest == (hashlib.sha256(lines.encode()).hexdigest(), 8, 2)


def test_of_a_mode_counts_only_whether_the_owner_may_execute_the_file(folder):
    before = digest_of_folder(folder)

    (folder / "a.py").chmod(0o600)
    assert digest_of_folder(folder) == before
    (folder / "a.py").chmod(0o744)
    assert digest_of_folder(folder) != before


def test_what_python_compiles_into_a_layer_in_use_changes_nothing(folder):
    before = digest_of_folder(folder)

    (folder / "b" / "__pycache__").mkdir()
    (folder / "b" / "__pycache__" / "x.cpython-311.opt-1.pyc").write_bytes(b"1")
    (folder / "a.pyc").write_bytes(b"1")

    assert digest_of_folder(folder) == before


def test_files_and_a_folder_of_them_have_one_name(folder):
    names = ("a.py", False, b"x = 1\n"), ("b/run", True, b"#!")
    files = [
        LayerFile(name, executable, hashlib.sha256(data).hexdigest(), len(data))
        for name, executable, data in reversed(names)
    ]

    assert digest_of(files) == digest_of_folder(folder)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_folder_with_something_else_than_plain_files_is_no_layer(folder, kind):
    if kind == "link":
        (folder / "c").symlink_to("a.py")
    else:
        os.mkfifo(folder / "c")

    with pytest.raises(LayerError, match="c is no plain file"):
        digest_of_folder(folder)


def test_a_name_that_could_stand_for_two_files_is_refused(folder):
    (folder / "a\n644 b").write_bytes(b"")

    with pytest.raises(LayerError, match="rename it"):
        digest_of_folder(folder)
