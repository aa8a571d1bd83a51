"""A handler that shares a part of its model with others: load_shared, and what load gets of it."""

import pytest

from mmekit_runtime import Handler


class _Counting(Handler):
    loads = 0

    def load_shared(self, folder):
        type(self).loads += 1
        return (folder / "body").read_text()

    def load(self, folder, shared):
        return shared + (folder / "head").read_text()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    _Counting.loads = 0
    for name, text in (("own/head", " and a head"), ("shared/body", "a body")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("MMEKIT_SHARED_FOLDER", str(tmp_path / "shared"))
    return tmp_path / "own"


def test_load_gets_what_load_shared_has_made_of_the_shared_folder(folders):
    handler = _Counting()

    assert handler.prepare(folders) == "a body and a head"
    assert handler.prepare(folders) == "a body and a head"
    assert _Counting.loads == 1


def test_what_was_loaded_before_the_fork_is_not_loaded_again(folders):
    handler = _Counting()
    handler.receive_shared("another body")

    assert handler.prepare(folders) == "another body and a head"
    assert _Counting.loads == 0


def test_none_can_be_shared_too(folders):
    class Nothing(Handler):
        def load_shared(self, folder):
            raise AssertionError(folder)

        def load(self, folder, shared):
            return [shared, folder]

    handler = Nothing()
    handler.receive_shared(None)

    assert handler.prepare(folders) == [None, folders]


def test_without_a_shared_folder_it_says_what_is_missing(folders, monkeypatch):
    monkeypatch.delenv("MMEKIT_SHARED_FOLDER")

    with pytest.raises(RuntimeError, match=r"option\.shared"):
        _Counting().prepare(folders)


def test_a_handler_without_load_shared_gets_its_folder_alone(folders):
    class Plain(Handler):
        def load(self, folder):
            return folder

    assert Plain().prepare(folders) == folders
    assert not Plain().shares()
    assert _Counting().shares()


def test_a_handler_that_says_it_shares_nothing_gets_its_folder_alone(folders):
    class Either(_Counting):
        def shares(self):
            return (folders / "head").stat().st_size == 0

        def load(self, folder, *shared):
            return shared

    assert Either().prepare(folders) == ()
    (folders / "head").write_text("")
    assert Either().prepare(folders) == ("a body",)
