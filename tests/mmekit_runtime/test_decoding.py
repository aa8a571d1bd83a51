"""How request bodies become rows, whatever their content type, and what is refused."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest

from mmekit_runtime import RequestError
from mmekit_runtime.decoding import decode_numbers, decode_texts


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def npz(**arrays: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.asarray(array) for name, array in arrays.items()})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"instances": [[1, 2], [3, 4]]}', "application/json"),
        (b'{"inputs": [[1, 2], [3, 4]]}', "application/json; charset=utf-8"),
        (b"[[1, 2], [3, 4]]", "APPLICATION/JSON"),
        (b"[[1, 2], [3, 4]]", ""),
        (b"1,2\n3,4\n", "text/csv"),
        (b"first,second\r\n1,2\r\n3,4\r\n", "text/csv"),
        (b"\xef\xbb\xbf1,2\n\n3,4", "text/csv"),
        (b"1,2\r3,4\r", "text/csv"),
        (b"7,8\n1,2\n3,4", "text/csv; header=present"),
        (npy([[1.0, 2], [3, 4]]), "application/x-npy"),
        (npz(rows=[[1, 2], [3, 4]]), "application/x-npz"),
        (b"[1, 2]\n[3, 4]\n", "application/jsonlines"),
        (b'{"features": [1, 2]}\n\n{"instances": [3, 4]}', "application/x-ndjson"),
    ],
)
def test_every_content_type_gives_the_same_rows(body, content_type):
    rows, parameters = decode_numbers(body, content_type, 2)

    assert rows.dtype == np.float64
    assert rows.tolist() == [[1, 2], [3, 4]]
    assert not parameters.probabilities


@pytest.mark.parametrize(
    ("content", "features", "rows"),
    [
        ([1, 2, 3], 3, [[1, 2, 3]]),
        ([1, 2, 3], None, [[1, 2, 3]]),
        ([1, 2, 3], 1, [[1], [2], [3]]),
        ([[1], [2]], 1, [[1], [2]]),
        (5, 1, [[5]]),
    ],
)
def test_one_record_or_many(content, features, rows):
    decoded, _ = decode_numbers(
        json.dumps({"instances": content}).encode(), "application/json", features
    )

    assert decoded.tolist() == rows


@pytest.mark.parametrize(
    ("body", "content_type", "status", "received"),
    [
        (b"", "application/json", 400, "an empty body"),
        (b"{", "application/json", 400, "not JSON"),
        (b'{"rows": []}', "application/json", 400, "a JSON object with rows"),
        (b'{"instances": []}', "application/json", 400, "no record"),
        (b'{"instances": [[1, 2], [3]]}', "application/json", 400, "ragged"),
        (b'{"instances": [["a", "b"]]}', "application/json", 400, "'a'"),
        (b'{"instances": [[1, 2, 3]]}', "application/json", 400, "rows of 3"),
        (b'{"instances": [[1, NaN]]}', "application/json", 400, "nan in row 0, column 1"),
        (b'{"instances": [[1, 1e999]]}', "application/json", 400, "inf in row 0, column 1"),
        (b'{"instances": [[[1, 2]]]}', "application/json", 400, "1 x 1 x 2"),
        (b'{"instances": [[1, 2]], "parameters": 3}', "application/json", 400, "int 3"),
        (
            b'{"instances": [[1, 2]], "parameters": {"probabilities": "maybe"}}',
            "application/json",
            400,
            "maybe",
        ),
        (b"[" * 100_000, "application/json", 400, "not JSON"),
        (b"1,2\n3", "text/csv", 400, "row 2 has 1"),
        (b"0.O5,1\n0.06,2\n", "text/csv", 400, "'0.O5'"),
        (b"a,b\n1,2\n", "text/csv; header=absent", 400, "'a'"),
        (b'{"instances": [[1, "a"]]}', "application/json", 400, "the text 'a'"),
        (b'{"instances": [[1, null]]}', "application/json", 400, "null"),
        (b'{"instances": [[1, 18446744073709551616]]}', "application/json", 400, "18446744073"),
        (b"1,x", "text/csv", 400, "'x'"),
        (b"a,b\n", "text/csv", 400, "no row of numbers"),
        (b"1,nan", "text/csv", 400, "nan in row 0, column 1"),
        (b"\xff\xfe", "text/csv", 400, "bytes that are not"),
        (b"no array", "application/x-npy", 400, "numpy cannot load"),
        (npz(a=[1, 2], b=[1, 2]), "application/x-npz", 400, "2 arrays: a, b"),
        (npz(a=[[1, 2]])[:-30], "application/x-npz", 400, "numpy cannot load"),
        (npy([["a", "b"]]), "application/x-npy", 400, "an array of <U1"),
        (b"[1, 2]\n{", "application/jsonlines", 400, "line 2"),
        (b'{"x": 1}', "application/jsonlines", 400, "an object with x"),
        (b"1,2", "application/xml", 415, "application/xml"),
    ],
)
def test_bad_input_says_what_was_expected_and_what_came(body, content_type, status, received):
    with pytest.raises(RequestError) as raised:
        decode_numbers(body, content_type, 2)

    assert raised.value.status == status
    assert received in raised.value.received
    assert raised.value.expected


def test_pickled_arrays_are_never_loaded():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)

    with pytest.raises(RequestError, match="numpy cannot load"):
        decode_numbers(buffer.getvalue(), "application/x-npy", None)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"instances": ["a, b", "c"]}', "application/json"),
        (b'["a, b", "c"]', "application/json"),
        (b"a, b\n\nc\n", "text/plain"),
        (b'"a, b"\nc\n', "text/csv"),
        (b'text\n"a, b"\nc\n', "text/csv"),
        (b'"a, b"\n{"text": "c"}', "application/jsonlines"),
        (npy(["a, b", "c"]), "application/x-npy"),
    ],
)
def test_texts_come_in_every_content_type(body, content_type):
    assert decode_texts(body, content_type)[0] == ["a, b", "c"]


def test_a_sentence_is_not_split_by_what_unicode_calls_a_line_end():
    body = "one\u2028sentence\x0chere\nanother".encode()

    assert decode_texts(body, "text/plain")[0] == ["one\u2028sentence\x0chere", "another"]
    lines = '"a\u2028b"\n"c"'.encode()
    assert decode_texts(lines, "application/jsonlines")[0] == ["a\u2028b", "c"]


def test_a_text_may_be_as_long_as_a_request():
    assert decode_texts(b"x" * 200_000, "text/csv")[0] == ["x" * 200_000]


def test_half_a_character_is_refused():
    with pytest.raises(RequestError, match="half of one in record 0"):
        decode_texts(b'["\\ud800"]', "application/json")


def test_what_a_model_cannot_take_is_refused():
    with pytest.raises(RequestError, match=r"1e\+300 in row 0, column 0"):
        decode_numbers(b"[[1e300]]", "application/json", 1, 3.4e38)


def test_an_npz_that_unpacks_to_too_much_is_refused_before_it_is_unpacked():
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))

    with pytest.raises(RequestError, match="unpacks to"):
        decode_numbers(buffer.getvalue(), "application/x-npz", None)


def test_a_single_text_is_one_row():
    assert decode_texts(b'{"inputs": "hello"}', "application/json")[0] == ["hello"]


@pytest.mark.parametrize("body", [b'{"inputs": [1]}', b'{"inputs": []}', b'{"inputs": null}'])
def test_what_is_not_text_is_refused(body):
    with pytest.raises(RequestError, match="one or more texts"):
        decode_texts(body, "application/json")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"instances": [{"text": "a"}, {"text": "b"}]}', "application/json"),
        (b'[{"text": "a"}, "b"]', "application/json"),
        (b'{"text": "a"}\n{"text": "b"}\n', "application/jsonlines"),
    ],
)
def test_a_record_with_a_text_means_the_same_in_json_and_in_json_lines(body, content_type):
    assert decode_texts(body, content_type)[0] == ["a", "b"]


def test_what_a_record_holds_beside_its_text_is_not_dropped_unseen():
    for body, content_type in [
        (b'{"instances": [{"text": "a", "language": "no"}]}', "application/json"),
        (b'{"text": "a", "language": "no"}', "application/jsonlines"),
    ]:
        with pytest.raises(RequestError, match="language"):
            decode_texts(body, content_type)
