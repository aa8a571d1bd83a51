"""Answers in batches are proven to be those to single requests."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mmekit.archive import check, measure, pack, read_measured
from mmekit.archive.measured import is_nothing
from mmekit.archive.request_variants import variants
from mmekit.cli import app
from mmekit.errors import BatchError
from mmekit.testing import agree, load_handler, read_sample
from mmekit_runtime.signature import Column, Signature

HANDLER = """\
import itertools
import numpy as np

from mmekit_runtime import Handler, Parameters, Prediction, TextHandler


class Doubtful(Handler):
    {head}

    def load(self, folder):
        return itertools.count()

    def predict(self, model, rows, parameters):
        {body}


handle = Doubtful()
"""


def write(workshop, body, head="features = 2", sample='{"instances": [[1.0, 2.0]]}'):
    workshop.write("model.py", HANDLER.format(head=head, body=body))
    workshop.write("sample_request.json", sample)


def proven(workshop):
    """Return what the fixture's proof says, without a process of its own."""
    with load_handler(workshop.package, workshop.artifacts) as model:
        return model.prove_batches(read_sample(workshop.package))


DEPENDENT = {
    "the mean of all rows": "return rows[:, 0] - rows.mean()",
    "their order": "return np.sort(rows[:, 0])",
    "how many there are": "return [len(rows)] * len(rows)",
    "the last row": "return np.repeat(rows[-1:, 0], len(rows))",
    "only the probabilities": (
        "return Prediction(['a'] * len(rows), rows / rows.max()) "
        "if parameters.probabilities else ['a'] * len(rows)"
    ),
    "a digit that is none of the last": "return rows[:, 0] + 1e-4 * len(rows)",
}


class TestFound:
    def test_measuring_names_the_class_whose_answers_depend_on_the_batch(self, workshop):
        write(workshop, "return (rows - rows.mean(axis=0)).sum(axis=1)")

        with pytest.raises(BatchError) as caught:
            measure(workshop.package, workshop.artifacts)

        assert "predictions[0] is 0.0 alone and" in caught.value.what
        assert '{"instances": [[1.0, 2.0]]} together with {' in caught.value.what
        assert caught.value.where == f"class Doubtful in model.py, {workshop.package}"
        assert "tolerance" in caught.value.remedy
        assert not (workshop.artifacts / "measured.json").exists()

    @pytest.mark.parametrize("body", DEPENDENT.values(), ids=DEPENDENT.keys())
    def test_answers_that_depend_on_it_are_found(self, workshop, body):
        write(workshop, body)

        with pytest.raises(BatchError, match="class Doubtful in model"):
            proven(workshop)

    def test_the_sample_with_itself_is_enough_where_nothing_else_is_answered(self, workshop):
        head = (
            "def decode(self, body, content_type):\n"
            "        if body != b'magic':\n            raise ValueError\n"
            "        return [1.0], Parameters()"
        )
        workshop.write("sample_request.json", "magic")
        workshop.write("model.py", HANDLER.format(head=head, body="return [len(rows)] * len(rows)"))
        with pytest.raises(BatchError):
            proven(workshop)

    def test_a_fixture_of_the_plugin_fails_unless_it_is_told_not_to_look(self, workshop, mme_model):
        write(workshop, "return rows[:, 0] - rows.mean()")

        with pytest.raises(BatchError):
            mme_model(workshop.package, workshop.artifacts)
        model = mme_model(workshop.package, workshop.artifacts, batches=False)
        assert model.invoke("[[1, 2]]").status == 200


SOUND = {
    "each row by itself": "return rows.sum(axis=1)",
    "last digits": "return rows.sum(axis=1) * (1 + 1e-9 * len(rows))",
    "last digits within texts": "return [f'{1e-4 + 1e-9 * len(rows):.6f} km' for _ in rows]",
    "lists of unequal length": "return [list(range(int(row[0]))) for row in rows]",
}


class TestLetPass:
    @pytest.mark.parametrize("body", SOUND.values(), ids=SOUND.keys())
    def test_what_differs_in_nothing_or_in_last_digits(self, workshop, body):
        write(workshop, body)

        assert proven(workshop) is None

    def test_what_differs_by_less_than_the_class_tolerates(self, workshop):
        head = "features, tolerance = 2, 0.01"
        write(workshop, "return rows.sum(axis=1) + 1e-4 * len(rows)", head)

        assert proven(workshop) is None

    def test_what_is_answered_alone(self, workshop):
        head = (
            "def decode(self, body, content_type):\n"
            "        rows, parameters = super().decode(body, content_type)\n"
            "        return set(rows.ravel()), parameters"
        )
        write(workshop, "return [sum(rows) / len(rows)]", head)

        assert proven(workshop) is None

    def test_a_handler_that_never_gets_batches(self, workshop):
        workshop.write("model.py", "def handle(inputs): ...\n")

        assert measure(workshop.package, workshop.artifacts).unproven is None


UNKNOWN = {
    "a model that draws": ("return np.random.default_rng().random(len(rows))", "twice"),
    "a model that counts": ("return [next(model) for _ in rows]", "twice"),
    "one sample is all it takes": (
        "assert (rows == [1, 2]).all()\n        return [1] * len(rows)",
        "differs from the sample",
    ),
}


class TestUnproven:
    @pytest.mark.parametrize(("body", "reason"), UNKNOWN.values(), ids=UNKNOWN.keys())
    def test_what_nobody_can_know_is_said(self, workshop, body, reason):
        write(workshop, body)

        assert reason in proven(workshop)

    def test_the_check_notes_it(self, workshop):
        write(workshop, "return [next(model) for _ in rows]")

        measured = measure(workshop.package, workshop.artifacts)

        assert "twice" in measured.unproven
        found = {one.rule: one for one in check(workshop.package, artifacts=workshop.artifacts)}
        assert found["batches-unproven"].severity == "note"
        assert measured.unproven in found["batches-unproven"].message


class TestAnswersNothing:
    @pytest.mark.parametrize("answer", ['{"predictions": [null]}', None])
    def test_a_model_that_answers_its_sample_with_nan_alone_is_a_warning(self, workshop, answer):
        write(workshop, "return np.full(len(rows), np.nan)")
        if answer is not None:
            workshop.write("sample_response.json", answer)

        packed = pack(workshop.package, workshop.artifacts, workshop.archive)

        assert read_measured(workshop.artifacts).answers_nothing
        for findings in (
            packed.findings,
            check(workshop.package, artifacts=workshop.artifacts),
            check(workshop.archive),
        ):
            (found,) = [one for one in findings if one.rule == "answers-nothing"]
            assert found.severity == "warning"
            assert "NaN" in found.remedy
        measured = CliRunner().invoke(
            app, ["measure", str(workshop.package), "--artifacts", str(workshop.artifacts)]
        )
        assert "null throughout" in measured.output

    @pytest.mark.parametrize(
        ("answer", "nothing"),
        [
            ("null", True),
            ('[NaN, [Infinity], {"a": null}]', True),
            ('{"predictions": [[null, null]], "version": "2"}', True),
            ('{"predictions": [null, 0]}', False),
            ('{"predictions": [false]}', False),
            ('{"predictions": []}', False),
            ("", False),
            (None, False),
            ("a,b\n", False),
            ("[" * 100_000, False),
        ],
    )
    def test_one_value_is_enough_and_what_is_no_json_is_not_judged(self, answer, nothing):
        assert is_nothing(answer) is nothing


def arrays(**columns):
    buffer = io.BytesIO()
    np.savez(buffer, **columns)
    return buffer.getvalue()


def parquet():
    import pandas as pd

    buffer = io.BytesIO()
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": pd.to_datetime(["2026-03-01"] * 2)})
    frame.to_parquet(buffer)
    return buffer.getvalue()


def image(kind):
    from PIL import Image

    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, kind)
    return buffer.getvalue()


BODIES = {
    "JSON": (b'{"instances": [[1, "a"], [2, "b"]], "parameters": {}}', "application/json"),
    "a list": (b"[[1.5, true]]", "application/json"),
    "records": (b'{"dataframe_records": [{"a": 1}]}', "application/json"),
    "split": (b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}', "application/json"),
    "columns": (b'{"inputs": {"a": [1, 2], "b": ["x", "y"]}}', "application/json"),
    "an object of one's own": (b'{"text": "good morning"}', "application/json"),
    "JSON lines": (b'{"a": 1}\n{"a": 2}\n', "application/x-ndjson"),
    "CSV": (b"1,2\n3,4\n", "text/csv"),
    "CSV with a header": (b"a,b\n1,x\n", "text/csv; header=present"),
    "texts": (b"good morning\n", "text/plain"),
    "arrays": (arrays(a=np.arange(3), b=np.array(["x", "y", "z"])), "application/x-npz"),
    "Parquet": (parquet(), "application/vnd.apache.parquet"),
    "JPEG": (image("JPEG"), "image/jpeg"),
    "PNG": (image("PNG"), "image/png"),
}


class TestVariants:
    @pytest.mark.parametrize(("body", "content_type"), BODIES.values(), ids=BODIES.keys())
    def test_they_are_several_and_none_is_the_sample(self, body, content_type):
        made = variants(body, content_type)

        assert len(made) > 1
        assert len(set(made)) == len(made)
        assert body not in made

    def test_they_keep_the_form_of_the_body(self):
        for made in variants(b'{"dataframe_split": {"columns": ["a"], "data": [[1]]}}', ""):
            split = json.loads(made)["dataframe_split"]
            assert split["columns"] == ["a"]
            assert all(len(row) == 1 for row in split["data"])
        for made in variants(b"a,b\n1,x\n", "text/csv"):
            assert made.startswith(b"a,b\n")

    def test_a_column_of_known_values_gets_no_other(self):
        signature = Signature((Column("a", "double"), Column("b", "string", known=("x", "y"))))

        made = variants(b'{"instances": [[1, "x"]]}', "application/json", signature)

        rows = [row for body in made for row in json.loads(body)["instances"]]
        assert {row[1] for row in rows} == {"x", "y", None}

    def test_a_date_stays_one(self):
        made = variants(b'[["2026-02-28T12:00:00"]]', "application/json")

        assert [["2026-02-11T12:00:00"]] in [json.loads(body) for body in made]

    @pytest.mark.parametrize(
        ("body", "content_type"),
        [(b"{", "application/json"), (b"\xff", "text/csv"), (b"x", "image/png"), (b"x", "x/y")],
    )
    def test_of_what_is_not_understood_there_are_none(self, body, content_type):
        assert variants(body, content_type) == ()


def test_numbers_agree_with_nothing_but_numbers():
    assert not agree([0.5], [None])
    assert not agree("0.5", 0.5)
    assert not agree("0.25 km", "0.26 km")
    assert agree("0.500000 km", "0.500001 km")
    assert not agree("v1.0", "v1.00")
