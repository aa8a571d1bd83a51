"""Whatever a client asks for, and however it calls a model: an answer that HTTP can carry."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmekit.engine import engine_folder
from mmekit_local.http import HttpRequest
from mmekit_local.server import openapi
from mmekit_local.server.api import ContainerApi
from mmekit_local.server.memory import ServerMemory
from mmekit_local.server.registry import Registry

thoroughly = settings.get_profile("fuzz")

PATHS = sorted(openapi.description()["paths"])
# A name cannot hold a slash, which divides it from a version.
names = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)
# What httptools lets through.
visible = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
paths = st.one_of(
    st.text(visible, max_size=30).map("/{}".format),
    st.builds(
        lambda path, name: path.replace("{name}", name), st.sampled_from(PATHS), names.map(quote)
    ),
    st.lists(
        st.sampled_from(
            ["/", "models", "%2F", "%", "%FC", "invoke", "..", "ping", ";", "predictions", "a"]
        )
    ).map(lambda parts: "/" + "".join(parts)),
)
keys = st.sampled_from(["limit", "next_page_token", "model_name", "url", "a"])
values = st.one_of(
    st.text(visible, max_size=8),
    st.integers().map(str),
    st.sampled_from(["//[", "file://[", "http://x", "s3://b/k", "%00", "/nowhere", "9" * 5000]),
)
queries = st.one_of(
    st.just(""),
    st.lists(st.builds("{}={}".format, keys, values), max_size=3).map(
        lambda all_: "?" + "&".join(all_)
    ),
)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
header_values = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"application/json",
            b"application/x-www-form-urlencoded",
            b"multipart/form-data; boundary=x",
            b"multipart/form-data; boundary=",
            b"a=b; c=d;=;",
        ]
    ),
)
header_names = st.sampled_from(
    [b"Content-Type", b"content-type", b"X-Amzn-SageMaker-Custom-Attributes", b"handler", b"X-\xe9"]
)
bodies = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from([b"--x", b"--", b"\r\n", b'Content-Disposition: f; name="a"', b"=", b"&"])
    ).map(b"".join),
    st.dictionaries(
        st.sampled_from(["model_name", "url"]), st.one_of(st.none(), st.integers(), values)
    ).map(lambda content: json.dumps(content).encode()),
    st.sampled_from([b"[" * 100_000, b"9" * 5000, b"NaN", b"\xff\xfe[\0]\0"]),
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """No model at all."""
    return Registry(engine_folder(), tmp_path_factory.mktemp("s"), ServerMemory())


def ask(registry, *request):
    return asyncio.run(ContainerApi(registry).answer(HttpRequest(*request)))


@thoroughly
@given(
    methods, paths, queries, st.lists(st.tuples(header_names, header_values), max_size=3), bodies
)
def test_every_request_has_an_answer(registry, caplog, method, path, query, headers, body):
    caplog.clear()
    answer = ask(registry, method, path + query, headers, [body])

    assert not [one for one in caplog.records if one.exc_info]
    assert answer.status in {200, 400, 404, 405, 409, 500, 503}
    lines = [answer.reason, *(part for header in answer.headers for part in header)]
    assert not any(end in line for end in "\r\n\0" for line in lines)
    if answer.status != 200:
        assert json.loads(answer.body)["code"] == answer.status


urls = st.one_of(
    values,
    st.text(max_size=8),
    st.integers(250, 3000).map(lambda length: "/" + "a" * length),
    st.builds("{}{}".format, st.sampled_from(["file:", "file://", "file:///", "//", "/"]), values),
)


@thoroughly
@given(urls.filter(bool), st.booleans())
def test_no_url_does_worse_than_not_to_be_found(registry, caplog, url, named):
    caplog.clear()
    query = f"?url={quote(url, safe='')}" + ("&model_name=a" if named else "")

    answer = ask(registry, "POST", f"/models{query}", [])

    assert not [one for one in caplog.records if one.exc_info]
    assert answer.status == 404
    assert json.loads(answer.body)["type"] == "ModelNotFoundException"


@thoroughly
@given(names)
def test_a_model_is_asked_for_by_the_name_that_the_client_means(registry, name):
    escaped = quote(name, safe="")
    described = ask(registry, "GET", f"/models/{escaped}", [])
    invoked = ask(registry, "POST", f"/models/{escaped}/invoke", [])
    predicted = ask(registry, "POST", f"/predictions/{escaped}", [])

    assert json.loads(described.body)["message"] == f"Workflow not found: {name}"
    for answer in (invoked, predicted):
        assert json.loads(answer.body)["message"] == f"Model or workflow not found: {name}"


@thoroughly
@given(names.filter(str.strip))
def test_a_model_is_loaded_by_the_name_that_the_client_means(registry, name):
    registry._loading[name] = "/nowhere"
    try:
        content = json.dumps({"model_name": name, "url": "/nowhere"}).encode()
        json_type = (b"Content-Type", b"application/json")
        in_body = ask(registry, "POST", "/models", [json_type], [content])
        query = f"model_name={quote(name, safe='')}&url=/nowhere"
        in_query = ask(registry, "POST", f"/models?{query}", [])
    finally:
        del registry._loading[name]

    expected = f"Workflow {name} is already registered."
    for answer in (in_body, in_query):
        assert (answer.status, json.loads(answer.body)["message"]) == (409, expected)
