"""The coding aws-chunked, as nobody should write it."""

from __future__ import annotations

import tracemalloc

import pytest

from mmekit_local.aws.moto.wsgi import decode_chunked
from mmekit_local.sagemaker.api import ApiRequest

CODED = (b"x-amz-content-sha256", b"STREAMING-UNSIGNED-PAYLOAD-TRAILER")


def decoded(body, *headers):
    return decode_chunked(ApiRequest("PUT", b"/a/b", b"", [CODED, *headers], (body,)))


def test_chunks_are_joined_and_trailers_become_headers():
    request = decoded(
        b"3;chunk-signature=0\r\nabc\r\n02\r\nde\r\n0\r\nX-Amz-Checksum-Crc32: a\r\n\r\n",
        (b"x-amz-decoded-content-length", b"5"),
        (b"content-encoding", b"aws-chunked,gzip"),
    )

    assert b"".join(request.body) == b"abcde"
    assert dict(request.headers) == {
        b"x-amz-checksum-crc32": b"a",
        b"x-amz-content-sha256": b"UNSIGNED-PAYLOAD",
        b"content-encoding": b"gzip",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"3",
        b"3\r\nab",
        b"3\r\nabc",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\r\nabc\r\n",
        b"-5\r\nabc\r\n0\r\n\r\n",
        b"-9\r\n\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"\xd9\xa3\r\nabc\r\n0\r\n\r\n",
        b"f" * 100_000 + b"\r\n",
        b"0\r\n" + b"a: b\r\n" * 10_000,
    ],
)
def test_what_is_not_in_the_coding_is_refused(body):
    with pytest.raises(ValueError, match=r"chunk|found|trailers"):
        decoded(body)


def test_a_body_of_another_length_than_was_said_is_refused():
    with pytest.raises(ValueError, match="another length"):
        decoded(b"3\r\nabc\r\n0\r\n\r\n", (b"x-amz-decoded-content-length", b"4"))


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_body_takes_about_as_many_bytes_as_it_has_however_small_its_chunks(size):
    coded = b"%x\r\n%b\r\n" % (size, b"x" * size) * (100_000 // size) + b"0\r\n\r\n"
    tracemalloc.start()
    try:
        request = decoded(coded)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert b"".join(request.body) == b"x" * 100_000
    assert peak < 3 * 100_000
