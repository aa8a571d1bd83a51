"""What a handler finds in a form, and what a form may cost."""

from __future__ import annotations

import tracemalloc
from urllib.parse import unquote_to_bytes

import pytest

from mmekit_local.server.errors import ApiError
from mmekit_local.server.forms import content_of

URL_ENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
MOST = 32_767
PART = b'\r\n--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1'


@pytest.mark.parametrize("query", ["", "q=1"])
@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        (URL_ENCODED, lambda count: b"&".join([b"a=1"] * count)),
        (URL_ENCODED, lambda count: b"&&a=1&" * count),
        (MULTIPART, lambda count: PART * count + b"\r\n--x--"),
    ],
    ids=["fields", "gaps", "parts"],
)
def test_a_form_has_as_many_fields_as_a_message_can_carry(query, content_type, form):
    before = [("q", b"1")] if query else []
    most = MOST - len(before)
    content = content_of(query, content_type, form(most))
    assert list(content) == [*before, *[("a", b"1")] * most]

    with pytest.raises(ApiError, match=f"at most {MOST} fields") as refused:
        content_of(query, content_type, form(most + 1))

    assert refused.value.status == 400


def test_a_query_has_no_more_fields_than_a_message_can_carry():
    with pytest.raises(ApiError, match="at most"):
        content_of("a=1&" * MOST, "text/plain", b"body")


SIZE = 1 << 20


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (URL_ENCODED, b"&" * SIZE),
        (URL_ENCODED, b"a&" * (SIZE // 2)),
        (URL_ENCODED, b"%41" * (SIZE // 3)),
        (URL_ENCODED, b"%" * SIZE),
        (URL_ENCODED, b"+" * SIZE),
        (URL_ENCODED, b"\xff" * SIZE),
        (MULTIPART, b"\r\n--x" * (SIZE // 5)),
        (MULTIPART, b"--x" + b"\r\na:b" * (SIZE // 5) + b"\r\n\r\n1\r\n--x--"),
        (MULTIPART, b"\r\n" * (SIZE // 2)),
        (MULTIPART, b"--x\r\n" + PART[7:-1].strip() * 100 + b"\r\n\r\n" + bytes(SIZE) + b"\r\n--x"),
    ],
    ids=[
        "nothing",
        "names",
        "escapes",
        "broken escapes",
        "blanks",
        "no text",
        "boundaries",
        "headers",
        "lines",
        "many names of one",
    ],
)
def test_a_form_takes_about_as_many_bytes_as_it_has(content_type, body):
    tracemalloc.start()
    try:
        try:
            content = content_of("", content_type, body)
        except ApiError as error:
            assert error.status == 400  # noqa: PT017  most of them are, but not all
            content = ()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # An invalid byte becomes three.
    assert peak < 8 * SIZE + (12 << 20)
    assert sum(len(value) for _, value in content) <= 3 * SIZE


def test_of_the_names_of_a_part_the_last_counts():
    head = b'--x\r\nContent-Disposition: f; name="a"\r\ncontent-disposition: f; name="b"\r\n\r\n'

    assert content_of("", MULTIPART, head + b"1\r\n--x--") == (("b", b"1"),)


@pytest.mark.parametrize("size", [1, 2, 3, (64 << 10) - 2, (64 << 10) - 1, 64 << 10, 200_000])
@pytest.mark.parametrize("text", [b"%C3%BC+", b"%zz%4", b"a%", b"%E2%82%AC%%41"])
def test_an_escape_is_read_wherever_it_is_in_a_text(size, text):
    raw = (text * (size // len(text) + 1))[:size]
    expected = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "replace")

    assert content_of("", URL_ENCODED, b"a=" + raw) == (("a", expected.encode()),)
