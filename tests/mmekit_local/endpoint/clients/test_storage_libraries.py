"""s3fs and smart_open on the buckets, from an environment of their own."""

import json
import pathlib

import pytest

PROGRAM = pathlib.Path(__file__).parent / "programs" / "storage.py"

pytestmark = pytest.mark.timeout(900)  # the environment may have to be made first


def test_s3fs_and_smart_open_write_parts_read_ranges_and_list(rehearsal, python_with):
    said = rehearsal.run(python_with("storage"), PROGRAM)
    assert json.loads(said.splitlines()[-1]) == {
        "listed": ["with-s3fs/folder/large.bin", "with-s3fs/folder/small.txt"],
        "size": 11 * 1024 * 1024,
        "range": True,
        "whole": True,
        "copy": "small",
        "left": False,
        "lines": 1000,
        "tail": True,
        "archive": rehearsal.archives[1].stat().st_size,
    }
