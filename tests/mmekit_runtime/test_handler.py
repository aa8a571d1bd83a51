"""The four verbs under DJL's own Input and Output, and several requests at once."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from mmekit.engine import engine_folder
from mmekit_runtime import Handler, ImageHandler, Parameters, Prediction, Request, TextHandler


@pytest.fixture(autouse=True)
def _engine_is_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(engine_folder()))


def djl_input(body: bytes | None = None, **headers: str):
    from djl_python import Input

    inputs = Input()
    inputs.properties.update({name.replace("_", "-"): value for name, value in headers.items()})
    if body is not None:
        inputs.content.add("data", bytearray(body))
    return inputs


class Doubler(Handler):
    """Doubles the first column, and remembers how it was called."""

    features = 2

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.calls: list[int] = []

    def load(self, folder: Path) -> float:
        self.loads += 1
        return 2.0

    def predict(self, model: float, rows: np.ndarray, parameters: Parameters):
        self.calls.append(len(rows))
        if (rows == 13).any():
            raise ValueError("unlucky")
        if (rows == 14).any():
            raise MemoryError
        if parameters.probabilities:
            return Prediction(rows[:, 0] * model, rows / 10, ["no", "yes"])
        return rows[:, 0] * model


def request(*rows: list[float], **other) -> Request:
    return Request(json.dumps({"instances": rows, **other}).encode(), "application/json")


def test_the_empty_request_loads_once(tmp_path):
    handler = Doubler()

    for _ in range(3):
        assert handler(djl_input()).code == 200
    assert handler.loads == 1


def test_one_request_is_answered_with_an_output():
    handler = Doubler()
    handler(djl_input())

    output = handler(djl_input(b"1,2\n3,4", Content_Type="text/csv", Accept="text/csv"))

    assert output.code == 200
    assert output.properties == {"Content-Type": "text/csv"}
    assert bytes(output.content.value_at(0)) == b"2.0\n6.0\n"


@pytest.mark.parametrize(
    "headers",
    [
        {"probabilities": "true"},  # DJL Serving takes the custom attributes apart
        {"X_Amzn_SageMaker_Custom_Attributes": "a=b;probabilities=true"},
    ],
)
def test_probabilities_can_be_asked_for_with_a_header(headers):
    handler = Doubler()
    handler(djl_input())

    output = handler(djl_input(b"1,2", Content_Type="text/csv", **headers))

    assert json.loads(bytes(output.content.value_at(0)))["probabilities"] == [[0.1, 0.2]]


def test_bad_input_is_400_with_what_was_expected_and_what_came():
    handler = Doubler()
    handler(djl_input())

    output = handler(djl_input(b"1,2,3", Content_Type="text/csv"))

    assert output.code == 400
    content = json.loads(bytes(output.content.value_at(0)))
    assert content["code"] == 400
    assert content["expected"] == "one or more rows of 2 finite numbers"
    assert content["received"] == "rows of 3"


def test_a_load_that_fails_says_its_reason_in_one_line():
    class Broken(Doubler):
        def load(self, folder: Path) -> float:
            raise FileNotFoundError("no weights\nat all")

    output = Broken()(djl_input())

    assert output.code == 424
    assert output.message == "FileNotFoundError: no weights at all"


def test_a_load_that_runs_out_of_memory_is_507():
    class Greedy(Doubler):
        def load(self, folder: Path) -> float:
            raise MemoryError

    assert Greedy()(djl_input()).code == 507


def test_requests_with_equal_parameters_share_one_call():
    handler = Doubler()
    handler.prepare(Path())

    replies = handler.answer(
        [
            request([1, 2]),
            request([3, 4], [5, 6]),
            request([7, 8], parameters={"probabilities": True}),
            request([9, 10]),
        ]
    )

    assert handler.calls == [4, 1]
    assert [json.loads(reply.body)["predictions"] for reply in replies] == [
        [2],
        [6, 10],
        [14],
        [18],
    ]


def test_a_bad_request_among_good_ones_fails_alone():
    handler = Doubler()
    handler.prepare(Path())

    replies = handler.answer(
        [request([1, 2]), request([1]), request([13, 0]), request([14, 0]), request([5, 6])]
    )

    assert [reply.status for reply in replies] == [200, 400, 424, 507, 200]
    assert json.loads(replies[2].body)["error"] == "unlucky"
    assert json.loads(replies[4].body) == {"predictions": [10.0]}


def test_one_call_gets_a_bounded_number_of_rows():
    class Narrow(Doubler):
        max_rows = 3

    handler = Narrow()
    handler.prepare(Path())

    handler.answer([request([1, 2], [3, 4]) for _ in range(3)])

    assert handler.calls == [2, 2, 2]


def test_a_prediction_of_the_wrong_length_is_an_error():
    class Short(Doubler):
        def predict(self, model, rows, parameters):
            return [1]

    handler = Short()
    handler.prepare(Path())

    reply = handler.answer([request([1, 2], [3, 4])])[0]

    assert reply.status == 424
    assert "predict answered 1 of 2 rows" in json.loads(reply.body)["error"]


def test_a_batch_of_the_server_is_answered_part_by_part():
    handler = Doubler()
    handler(djl_input())
    from djl_python import Input

    batch = Input()
    batch.properties = {
        "batch_size": "2",
        "batch_000.Content-Type": "text/csv",
        "batch_001.Content-Type": "text/csv",
    }
    batch.content.add("batch_000.data", bytearray(b"1,2"))
    batch.content.add("batch_001.data", bytearray(b"1"))

    output = handler(batch)

    assert output.content.get_keys() == ["batch_0.", "batch_1."]
    assert json.loads(bytes(output.content.value_at(0))) == {"predictions": [2.0]}
    assert json.loads(bytes(output.content.value_at(1)))["code"] == 400


def test_a_text_handler_gets_texts():
    class Length(TextHandler):
        def load(self, folder: Path) -> None:
            return None

        def predict(self, model: None, rows: list[str], parameters: Parameters) -> list[int]:
            return [len(row) for row in rows]

    handler = Length()
    handler.prepare(Path())

    replies = handler.answer([Request(b"ab\nabc", "text/plain"), Request(b'["a"]')])

    assert [json.loads(reply.body)["predictions"] for reply in replies] == [[2, 3], [1]]


class Brightness(ImageHandler):
    """Answers the mean of red, green and blue, and how large the image is."""

    most_pixels = 100

    def load(self, folder: Path) -> None:
        self.size = (4, 2)

    def predict(self, model: None, rows: np.ndarray, parameters: Parameters) -> list[list[float]]:
        assert str(rows.dtype) == "float32"
        return [[*row.mean(axis=(1, 2)).tolist(), *row.shape] for row in rows]


def image_of(colour: str, size: tuple[int, int], kind: str = "PNG") -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def test_an_image_handler_gets_scaled_pixels_and_answers_each_request_of_a_batch():
    handler = Brightness()
    handler.prepare(Path())
    requests = [
        Request(image_of("red", (10, 10)), "image/png"),
        Request(image_of("white", (3, 1), "JPEG")),
        Request(image_of("red", (11, 10)), "image/png"),
        Request(image_of("red", (1, 1), "GIF"), "image/gif"),
        Request(b"none", "image/jpeg"),
        Request(b"", "image/png"),
        Request(image_of("red", (1, 1), "JPEG"), "Image/JPG; q=1"),
    ]

    replies = handler.answer(requests)

    assert [reply.status for reply in replies] == [200, 200, 400, 415, 400, 400, 200]
    bodies = [json.loads(reply.body) for reply in replies]
    assert bodies[0]["predictions"] == [[255, 0, 0, 3, 2, 4]]
    assert bodies[1]["predictions"] == [[255, 255, 255, 3, 2, 4]]
    assert (bodies[2]["expected"], bodies[2]["received"]) == (
        "an image of at most 100 pixels, and 32768 a side",
        "one of 11 x 10",
    )
    assert bodies[5]["received"] == "an empty body"


def png_of(width: int, height: int, *, kind: int = 2, chunks: bytes = b"") -> bytes:
    """Return a PNG with next to no data; what its header says is all that is looked at."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0\0"))
    between = chunk(b"tRNS", chunks) if chunks else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (png_of(20_000, 10_000), "an image of at most 100 pixels"),  # Pillow itself refuses it
        (png_of(1, 50_000), "an image of at most 100 pixels"),
        (png_of(1, 1, kind=3, chunks=b"\0"), "an image as JPEG or PNG"),  # a palette without one
    ],
)
def test_an_image_that_cannot_be_taken_is_refused_and_not_failed(body, expected):
    handler = Brightness()
    handler.prepare(Path())

    [reply] = handler.answer([Request(body, "image/png")])

    assert reply.status == 400
    assert json.loads(reply.body)["expected"].startswith(expected)


def test_a_side_may_be_too_long_for_any_number_of_pixels():
    class Patient(Brightness):
        most_pixels = 1_000_000

    handler = Patient()
    handler.prepare(Path())

    [reply] = handler.answer([Request(png_of(1, 40_000), "image/png")])

    assert reply.status == 400
    assert json.loads(reply.body)["received"] == "one of 1 x 40000"


def test_sixteen_bits_of_grey_become_eight():
    from PIL import Image

    handler = Brightness()
    handler.prepare(Path())
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 4), 0x8000, dtype=np.uint16)).save(buffer, "PNG")

    [reply] = handler.answer([Request(buffer.getvalue(), "image/png")])

    assert json.loads(reply.body)["predictions"] == [[128, 128, 128, 3, 2, 4]]


def test_the_models_own_width_is_taken_when_none_is_given():
    class Sized(Doubler):
        features = None

        def load(self, folder: Path):
            class Model:
                n_features_in_ = 3

            return Model()

    handler = Sized()
    handler.prepare(Path())

    assert handler.answer([request([1, 2])])[0].status == 400


def test_the_runtime_needs_only_the_standard_library_and_numpy():
    script = (
        "import sys; before = set(sys.modules); import mmekit_runtime; "
        "own = {name.partition('.')[0] for name in sys.modules.keys() - before}; "
        "print(*(own - set(sys.stdlib_module_names) - {'numpy', 'mmekit_runtime'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []


class Attributed(Handler):
    """Answers the parameters that it got."""

    def load(self, folder: Path) -> None:
        return None

    def predict(self, model: None, rows: np.ndarray, parameters: Parameters):
        return [{"probabilities": parameters.probabilities, **parameters.others}] * len(rows)


@pytest.mark.parametrize(
    "headers",
    [
        {"threshold": "0.7", "Trace-Name": "a=b", "probabilities": "true"},
        {
            "X_Amzn_SageMaker_Custom_Attributes": (
                "threshold=0.7; Trace-Name=a=b ;probabilities=true;nothing"
            )
        },
    ],
)
def test_every_pair_of_the_custom_attributes_reaches_the_parameters(headers):
    handler = Attributed()
    handler(djl_input())
    of_http = {
        "Accept": "application/json",
        "Host": "127.0.0.1",
        "User_Agent": "a client",
        "Content_Length": "3",
        "X_Amzn_Trace_Id": "Root=1",
        "X_Forwarded_For": "127.0.0.1",
        "traceparent": "00-1",
    }

    output = handler(djl_input(b"1,2", Content_Type="text/csv", **of_http, **headers))

    assert json.loads(bytes(output.content.value_at(0))) == {
        "predictions": [{"probabilities": True, "threshold": "0.7", "Trace-Name": "a=b"}]
    }


def test_what_the_body_says_counts_more_than_the_attributes():
    handler = Attributed()
    handler.prepare(Path())

    (reply,) = handler.answer(
        [
            Request(
                b'{"instances": [[1]], "parameters": {"top": 3}}',
                attributes={"top": "5", "lowest": "0"},
            )
        ]
    )

    assert json.loads(reply.body)["predictions"] == [
        {"probabilities": False, "top": 3, "lowest": "0"}
    ]
