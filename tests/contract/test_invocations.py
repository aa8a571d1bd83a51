"""What a handler gets, and what becomes of what it returns."""

from __future__ import annotations

import hashlib

import pytest

FAILED = "invoke handler failure"


@pytest.mark.parametrize(
    ("wish", "status", "reason", "body"),
    [
        ("anything", 200, "OK", b"body"),
        ("none", 204, "No content", b""),
        ("empty", 200, "OK", b""),
        ("two", 200, "OK", b"a"),
        ("data last", 200, "OK", b"b"),
        ("memory", 507, "big", b""),
        ("teapot", 418, "teapot", b"t"),
        ("created", 201, "made", b"t"),
        ("bad", 500, "bad", b"t"),
        ("unavailable", 503, "later", b"t"),
        ("no body", 204, "nothing", b""),
        ("not modified", 304, "the same", b""),
        ("no chunk", 200, "OK", b""),
        ("json", 200, "OK", '{\n  "a":[\n    1,\n    "ü"\n  ]\n}'.encode()),
    ],
)
def test_the_handlers_output_becomes_the_answer(behaviour, wish, status, reason, body):
    answer = behaviour(wish, "body")

    assert (answer.status_code, answer.reason_phrase, answer.content) == (status, reason, body)
    assert answer.headers["x-request-id"]
    assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    assert answer.headers["connection"] == ("close" if status >= 400 else "keep-alive")
    assert ("content-length" in answer.headers) == (status != 204)
    assert answer.headers.get("x-my") == ("1" if wish == "teapot" else None)
    assert "content-type" not in answer.headers


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ("raise", "boom\nline2"),
        ("str", "Invalid output type: <class 'str'>"),
        ("generator", "Invalid output type: <class 'generator'>"),
        ("nan", "Out of range float values are not JSON compliant: nan"),
    ],
)
def test_an_exception_is_424_and_the_worker_lives_on(behaviour, wish, error):
    answer = behaviour(wish)

    assert (answer.status_code, answer.reason_phrase) == (424, FAILED)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"code": 424, "message": FAILED, "error": error}
    assert behaviour("anything", "x").text == "x"


def test_an_error_of_the_handlers_own_is_passed_on(behaviour):
    answer = behaviour("error")

    assert (answer.status_code, answer.reason_phrase) == (424, "the message")
    assert answer.json() == {"code": 424, "message": "the message", "error": "why"}


def test_the_handlers_content_type_is_the_answers(behaviour):
    answer = behaviour("text")

    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.content == "ü".encode()


def test_what_belongs_to_the_connection_is_not_the_handlers_to_say(behaviour):
    answer = behaviour("ours")

    assert answer.content == b"x"
    headers = answer.headers
    assert (headers["connection"], headers["content-length"]) == ("keep-alive", "1")
    assert headers["x-request-id"] != "mine"
    assert headers.get_list("content-type") == ["text/b"]


def test_what_is_not_latin_1_becomes_a_question_mark(behaviour):
    answer = behaviour("euro")

    assert (answer.status_code, answer.reason_phrase) == (299, "?")
    assert answer.headers["x-a"] == "?"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ("reason", "reasonPhrase contains one of the following prohibited characters: \\r\\n: "),
        ("value", "a header value contains prohibited character 0xd at index 1."),
        ("name", 'a header name can only contain "token" characters, but found invalid character'),
    ],
)
def test_a_handler_cannot_smuggle_a_header_in(behaviour, wish, message):
    answer = behaviour(wish)

    assert "x-evil" not in answer.headers
    content = answer.json()
    assert (content["code"], content["type"]) == (500, "IllegalArgumentException")
    assert content["message"].startswith(message)


def test_the_handler_sees_the_headers_as_the_client_spelled_them(behaviour):
    properties = behaviour(
        "properties",
        Content_Type="text/csv",
        Accept="application/json",
        X_Amzn_SageMaker_Target_Model="a/b.tar.gz",
        x_lower="1",
        X_UPPER="2",
    ).json()

    assert properties["Content-Type"] == "text/csv"
    assert properties["Accept"] == "application/json"
    assert properties["X-Amzn-SageMaker-Target-Model"] == "a/b.tar.gz"
    assert (properties["x-lower"], properties["X-UPPER"]) == ("1", "2")
    assert properties["handler"] == "handle"
    assert properties["requestId"]


def test_the_request_id_of_the_handler_is_the_answers(behaviour):
    answer = behaviour("properties")

    assert answer.json()["requestId"] == answer.headers["x-request-id"]


def test_custom_attributes_become_properties(behaviour):
    properties = behaviour(
        "properties",
        X_Amzn_SageMaker_Custom_Attributes="probabilities=true; x = 1;odd; e==f;g=;WISH=properties",
    ).json()

    attributes = {name: properties[name] for name in ("probabilities", "x", "e", "g", "wish")}
    assert attributes == {
        "probabilities": "true",
        "x": "1",
        "e": "=f",
        "g": "",
        "wish": "properties",
    }
    assert "odd" not in properties
    assert not any("custom" in name.lower() for name in properties)


def test_of_a_header_that_comes_twice_the_last_counts(server, behaviour, post):
    wire = server.connect()
    wire.send(post("/models/behaviour/invoke", b"x", ["wish: properties", "X-D: 1", "x-d: 2"]))

    body = wire.answer().body.decode()

    assert '"X-D":"2"' in body
    assert '"x-d"' not in body


def test_a_request_cannot_choose_the_handler(behaviour, says):
    message = "The handler can't be overridden in a request"
    for headers in (
        {"handler": "other"},
        {"Handler": "other"},
        {"X_Amzn_SageMaker_Custom_Attributes": "handler=other"},
    ):
        answer = behaviour("x", **headers)
        says(answer, 400, "BadRequestException", message)
        assert answer.reason_phrase == message


@pytest.mark.parametrize("size", [0, 1, 100_000, 64 << 20])
def test_a_body_arrives_byte_by_byte_up_to_the_limit(behaviour, size):
    body = bytes(range(256)) * (size // 256) + b"\xff" * (size % 256)

    assert behaviour("hash", body).text == hashlib.sha256(body).hexdigest()


def test_an_answer_may_be_large(behaviour):
    answer = behaviour("large")

    assert len(answer.content) == 20 << 20
    assert set(answer.content) == {ord("x")}


def test_a_stream_is_chunked(server, behaviour, post):
    wire = server.connect()
    wire.send(post("/models/behaviour/invoke", headers=["wish: stream"]))

    answer = wire.answer()

    assert answer.header("transfer-encoding") == "chunked"
    assert answer.header("content-length") is None
    assert answer.chunks == [b"a", b"b"]
    wire.send(post("/models/behaviour/invoke", b"x"))
    assert wire.answer().body == b"x"


def test_a_chunk_is_sent_as_soon_as_it_is_there(server, behaviour, post, tmp_path):
    gate = tmp_path / "gate"
    wire = server.connect()
    wire.send(post("/models/behaviour/invoke", str(gate).encode(), ["wish: gated"]))

    head = wire.head()
    assert head.header("transfer-encoding") == "chunked"
    assert wire.chunk() == b"first"
    gate.touch()
    assert [wire.chunk(), wire.chunk()] == [b"second", b""]


def test_a_stream_that_fails_ends_where_it_failed(server, behaviour, post):
    wire = server.connect()
    wire.send(post("/models/behaviour/invoke", b"x", ["wish: broken stream"]))

    assert wire.answer().chunks[0] == b"a"
    assert behaviour("anything", "next").text == "next"


@pytest.mark.parametrize(
    ("content_type", "body", "parts"),
    [
        ("text/plain", b"a=1", [["data", "a=1"]]),
        (
            "application/x-www-form-urlencoded",
            b"a=1&b=%20+x&a=&c==d",
            [
                ["a", "1"],
                ["b", "  x"],
                ["a", ""],
                ["c", "=d"],
            ],
        ),
        (
            "multipart/form-data; boundary=B",
            (
                b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\n2\r\n\r\n'
                b'--B\r\nContent-Disposition: form-data; name="f"; filename="x.bin"\r\n'
                b"Content-Type: application/octet-stream\r\n\r\n\x00\r\n\xff\r\n--B--\r\n"
            ),
            [["a", "1\n2\r\n"], ["f", "\x00\r\n\xff"]],
        ),
        ("multipart/form-data", b"x", [["data", "x"]]),
        ("multipart/mixed; boundary=B", b"--B--", [["data", "--B--"]]),
    ],
)
def test_the_fields_of_a_form_are_parts_of_their_own(behaviour, content_type, body, parts):
    answer = behaviour("parts", body, Content_Type=content_type)

    assert answer.json() == parts


def test_what_a_model_prints_and_logs_is_in_the_servers_log(server, behaviour, until):
    assert behaviour("log").text == "logged"

    for line in (
        "printed by the model",
        "printed on stderr",
        "logged as info by the model",
        "logged as warning by the model",
        "logged as error by the model",
        "logged as critical by the model",
    ):
        until(lambda line=line: line in server.log())
    assert "logged as debug by the model" not in server.log()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_any_method_invokes(server, behaviour, method):
    answer = server.client.request(
        method, "/models/behaviour/invoke", headers={"wish": "anything"}, content=b"x"
    )

    assert (answer.status_code, answer.content) == (200, b"x")


def test_options_of_a_model_is_an_empty_object(server, behaviour):
    answer = server.client.options("/models/behaviour/invoke")

    assert (answer.status_code, answer.content) == (200, b"{}\n")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/predictions/behaviour", [["data", "x"]]),
        (
            "/predictions/behaviour?a=1&b=%20&c&a=2",
            [
                ["a", "1"],
                ["a", "2"],
                ["b", " "],
                ["c", ""],
                ["data", "x"],
            ],
        ),
        ("/invocations?model_name=behaviour", [["model_name", "behaviour"], ["data", "x"]]),
        ("/models/behaviour/other/invoke", [["data", "x"]]),
    ],
)
def test_there_are_more_ways_to_a_model(server, behaviour, path, parts):
    answer = server.client.post(path, content=b"x", headers={"wish": "parts"})

    assert answer.json() == parts


def test_a_container_of_several_models_has_to_be_told_which(server, says):
    answer = server.client.post("/invocations", content=b"x")

    says(answer, 400, "BadRequestException", "Parameter model_name is required.")


def test_the_model_may_be_named_in_a_header_or_a_form(server, behaviour):
    header = server.client.post("/invocations", content=b"x", headers={"model_name": "behaviour"})
    form = server.client.post("/invocations", data={"model_name": "behaviour", "data": "y"})

    assert (header.content, form.content) == (b"x", b"y")
