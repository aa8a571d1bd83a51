"""The tree of errors, and what each of them says: what happened, where, and the remedy."""

import pickle
import re
from pathlib import Path

from mmekit import errors


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    drawn = re.findall(r"^ {4}([│├└─ ]*)(\w+Error)", errors.__doc__, re.MULTILINE)
    path, parents = [], {}
    for branch, name in drawn:
        depth = len(branch) // 4
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    assert list(parents) == re.findall(r"^class (\w+)", source_of(errors), re.MULTILINE)
    assert parents == {name: getattr(errors, name).__base__.__name__ for name in parents}
    assert sorted(parents) == errors.__all__


def source_of(module):
    return Path(module.__file__).read_text(encoding="utf-8")


def test_an_error_keeps_its_three_parts_on_the_way_between_processes():
    error = errors.EngineError("No engine.", where="a folder", remedy="Fetch it.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301 - our own bytes


def test_an_error_with_one_part_is_one_line():
    assert str(errors.DemoError("It failed.")) == "It failed."
