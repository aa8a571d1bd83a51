"""What uv says is shown to whoever packs, without what its addresses have of secrets."""

import os

import pytest

from mmekit.uv import ask_uv, shown


@pytest.fixture
def asking(tmp_path, monkeypatch):
    """Return a function that asks uv for what a requirements file has, without a network."""
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))

    def ask(line):
        (tmp_path / "requirements.in").write_text(f"{line}\nwanted\n")
        return ask_uv(["pip", "compile", "requirements.in"], tmp_path)

    return ask


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://me:hush@here:port/simple",
        "--index-url https://me:hu/hush@here/simple",
        "--index-url https://here:port/simple?signature=hush",
        "wanted @ https://here:port/wanted-1.0-py3-none-any.whl?X-Amz-Signature=hush",
    ],
)
def test_what_uv_says_has_no_secret_of_an_address_that_it_cannot_read(asking, line):
    done = asking(line)
    assert done.returncode != 0
    assert "here" in done.stderr
    assert "***" in done.stderr
    assert "hush" not in done.stderr


def test_what_uv_says_of_names_stays_as_it_is(asking):
    done = asking("other>=2")
    assert "other" in done.stderr
    assert "***" not in done.stderr


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("https://me:hush@here/x", "https://***@here/x"),
        ("https://hush@here:80/x@1.0", "https://***@here:80/x@1.0"),
        ("x @ git+https://me:hu@sh@here/x@v1", "x @ git+https://***@here/x@v1"),
        ("(https://here/x?sig=hu)sh&b=c)\nnext", "(https://here/x?***)\nnext"),
        ("from `https://here/x?sig=hush`, and x@y", "from `https://here/x?***`, and x@y"),
    ],
)
def test_a_text_is_shown_without_the_login_and_the_query_of_an_address(text, seen):
    assert shown(text) == seen


@pytest.mark.parametrize(
    "text",
    [
        "https://here:8080/x@1.0",
        "file:///a@b/wanted-1.0-py3-none-any.whl",
        "is it there? x@y: no://",
        "wanted==2.0 ; python_version < '3.11'",
    ],
)
def test_a_text_without_secrets_is_shown_as_it_is(text):
    assert shown(text) == text
