"""Whatever becomes of a request, its worker answers the next one."""

from __future__ import annotations

import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

URL_ENCODED = {"content-type": "application/x-www-form-urlencoded"}
MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
PART = b'\r\n--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1'
KINDS = pytest.mark.parametrize("slots", [True, False], ids=["slots", "plain"])

BATCHES = """
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    output = Output()
    for index, one in enumerate(inputs.get_batches()):
        text = (one.get_as_bytes(key="data") or b"").decode()
        if text == "key":  # which no server expects
            index = "9" * 5000
        output.add(text, key="data", batch_index=index)
    return output
"""


@KINDS
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (URL_ENCODED, b"&".join([b"a=1"] * 32_768)),
        (URL_ENCODED, b"&".join([b"a=1"] * 1_000_000)),
        (MULTIPART, PART * 32_768 + b"\r\n--x--"),
    ],
    ids=["one too many", "a million", "parts"],
)
def test_a_form_with_too_many_fields_is_refused_and_keeps_no_worker(
    server, model, slots, headers, body
):
    name = server.loaded(model(slots=slots, minWorkers=2, maxWorkers=2))
    pid = server.value(name, "os.getpid()")

    for _ in range(20):
        answer = server.invoke(name, body, **headers)
        assert answer.status_code == 400
        assert "at most 32767 fields" in answer.json()["message"]

    assert [server.value(name, "1 + 1") for _ in range(4)] == ["2"] * 4
    assert server.described(name)["requestInQueue"] == 0
    assert not slots or server.value(name, "os.getpid()") == pid
    assert "Traceback" not in server.log


def field(count):
    return b"data=x&" + b"&".join([b"a=1"] * count)


def test_requests_that_do_not_fit_into_one_message_travel_in_several(server, model):
    folder = model(slots=False, minWorkers=1, maxWorkers=1, batch_size=8, max_batch_delay=200)
    (folder / "model.py").write_text(BATCHES)
    name = server.loaded(folder)

    with ThreadPoolExecutor(8) as threads:
        asked = [
            threads.submit(httpx.post, f"{server.base}/models/{name}/invoke", **one, timeout=60)
            for one in [{"content": field(20_000), "headers": URL_ENCODED}] * 8
        ]
        answers = [one.result() for one in asked]

    assert [(one.status_code, one.text) for one in answers] == [(200, "x")] * 8


def test_answers_for_no_request_keep_no_worker(server, model):
    folder = model(slots=False, minWorkers=1, maxWorkers=1, batch_size=2, max_batch_delay=500)
    (folder / "model.py").write_text(BATCHES)
    name = server.loaded(folder)

    for _ in range(3):
        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda body: server.invoke(name, body), ["key", "key"]))
        assert {one.status_code for one in answers} <= {200, 400}
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda body: server.invoke(name, body), ["a", "b"]))

    assert sorted(one.text for one in answers) == ["a", "b"]


STREAM = "(lambda: (yield from (b'x' * 100_000 for _ in range(100))))()"
ASKED = {
    "form": (b"Content-Type: application/x-www-form-urlencoded\r\n", b"data=1"),
    "chunks": (b"Transfer-Encoding: chunked\r\n", b"5\r\n1 + 1\r\n0\r\n\r\n"),
    "stream": (b"", STREAM.encode()),
    "plain": (b"", b"1 + 1"),
}


@KINDS
def test_clients_that_leave_at_any_byte_keep_no_worker(server, model, slots):
    folder = model(slots=slots, minWorkers=2, maxWorkers=2)
    text = (folder / "model.py").read_text()
    text = text.replace(
        "return Output().add(str(eval(inputs.get_as_string())))",
        """value = eval(inputs.get_as_string())
    if hasattr(value, "__next__"):
        return Output().add_stream_content(value, lambda chunk: bytearray(chunk))
    return Output().add(str(value))""",
    )
    (folder / "model.py").write_text(text)
    name = server.loaded(folder)

    for more, body in ASKED.values():
        if b"chunked" not in more:
            more += b"Content-Length: %d\r\n" % len(body)  # noqa: PLW2901
        whole = f"POST /models/{name}/invoke HTTP/1.1\r\n".encode() + more + b"\r\n" + body
        for sent in (len(whole) - 1, len(whole)):
            for read in (0, 1, 1000, 200_000):
                with socket.create_connection(("127.0.0.1", server.port), timeout=60) as one:
                    one.sendall(whole[:sent])
                    if sent < len(whole):
                        continue
                    with contextlib.suppress(ConnectionError):
                        one.recv(read, socket.MSG_WAITALL if read == 1 else 0)

    with ThreadPoolExecutor(2) as threads:
        values = list(threads.map(lambda _: server.value(name, "1 + 1"), range(20)))
    assert values == ["2"] * 20
    assert server.described(name)["requestInQueue"] == 0
    assert "Traceback" not in server.log
