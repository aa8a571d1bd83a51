"""What a model takes and gives is told to people and to machines, as far as anybody said it."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from mmekit.archive import check, describe, measure, openapi, pack, read_manifest, unpack, verify
from mmekit.archive.describe import example_of
from mmekit.archive.package import Example
from mmekit.cli import app
from mmekit.errors import ArchiveError
from mmekit.testing import read_sample
from mmekit_runtime.signature import Column, Signature

MODEL = """\
import joblib

from mmekit_runtime import TableHandler


class Fares(TableHandler):
    def load(self, folder):
        return joblib.load(folder / "model.joblib")

    def predict(self, model, table, parameters):
        return model.predict(table)


handle = Fares()
"""
SAMPLE = '{"instances": [{"age": 41, "city": "Oslo", "born": null}]}'
SIGNATURE = Signature(
    (
        Column("age", "double", dtype="float64"),
        Column("city", "string", dtype="object", known=("Oslo", "Bergen")),
        Column("born", "datetime", required=False, dtype="datetime64[ns]", missing=True),
        Column("class", "string", dtype="category", categories=("a", "b"), missing=True),
    ),
    (Column("fare", "double"),),
)


@pytest.fixture
def tables(workshop):
    """Return a package of a table, measured as far as these tests look."""
    workshop.write("model.py", MODEL)
    body = {"age": 41, "city": "Oslo", "class": None}
    workshop.write("sample_request.json", json.dumps({"instances": [body]}))
    workshop.write("sample_response.json", '{"predictions": [3.5]}')
    (workshop.artifacts / "signature.json").write_bytes(SIGNATURE.to_json())
    workshop.pretend_measured()
    return workshop


@pytest.fixture
def packed(tables):
    pack(tables.package, tables.artifacts, tables.archive)
    return tables.archive


def said(*arguments):
    result = CliRunner().invoke(app, ["describe", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


class TestArchive:
    def test_the_signature_and_the_sample_travel_in_the_manifest(self, packed, tmp_path):
        unpack(packed, tmp_path / "model")
        manifest = read_manifest(tmp_path / "model")

        assert manifest == verify(packed)
        assert manifest.signature == SIGNATURE
        assert manifest.example.content_type == "application/json"
        assert manifest.example.answer == '{"predictions": [3.5]}'
        assert Signature.read(tmp_path / "model") == SIGNATURE

    def test_packed_unpacked_or_still_a_package_it_is_the_same_to_a_client(
        self, tables, packed, tmp_path
    ):
        unpack(packed, tmp_path / "model")
        documents = [
            openapi(describe(packed)),
            openapi(describe(tmp_path / "model")),
            openapi(describe(tables.package, artifacts=tables.artifacts)),
        ]
        assert documents[0] == documents[1] == documents[2]

    def test_a_manifest_without_them_is_read_as_before(self, packed, tmp_path):
        unpack(packed, tmp_path / "model")
        file = tmp_path / "model" / "manifest.json"
        content = json.loads(file.read_bytes())
        del content["signature"], content["example"]
        del content["measured"]["signature"], content["measured"]["unproven"]
        content["measured"]["format"] = 2
        file.write_text(json.dumps(content))

        manifest = read_manifest(tmp_path / "model")

        assert (manifest.signature, manifest.example) == (None, None)
        assert describe(tmp_path / "model").signature == SIGNATURE

    @pytest.mark.parametrize("body", [b"\xff\xfe", b"x" * (65 << 10)])
    def test_a_sample_that_is_no_short_text_stays_outside(self, tables, body):
        tables.write("sample_request.json", body)
        pack(tables.package, tables.artifacts, tables.archive)

        assert verify(tables.archive).example is None
        with pytest.raises(ArchiveError, match="no sample request in the archive"):
            read_sample(tables.archive)
        assert read_sample(tables.package).body == body

    def test_its_sample_is_read_without_the_package(self, packed):
        sample = read_sample(packed)

        assert json.loads(sample.body)["instances"][0]["age"] == 41
        assert (sample.content_type, sample.answer) == ("application/json", {"predictions": [3.5]})

    def test_what_is_no_archive_is_named(self, tmp_path):
        with pytest.raises(ArchiveError, match="does not exist"):
            describe(tmp_path / "no.tar.gz")

    def test_an_archive_made_by_hand_says_little(self, tables, tmp_path):
        archive = tmp_path / "plain.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(tables.package / "model.py", "model.py")
        described = describe(archive)

        assert described.name == "plain"
        assert [lack.partition(":")[0] for lack in described.lacks] == [
            "a signature",
            "a sample request that is text",
            "a measurement",
        ]


class TestForPeople:
    def test_it_fits_eighty_columns(self, packed, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        # What stands in one piece, the archive's path, is wherever tests have their files.
        text = said(packed).replace(str(packed), packed.name)

        assert max(map(len, text.splitlines())) <= 80
        for told in ("age", "Oslo, Bergen", "string (category)", "optional", "fare", "3.5"):
            assert told in text
        assert "20 MiB are required to load it" in text
        assert "scikit-learn 1.7.2" in text
        assert "Missing\n" not in text

    def test_what_it_lacks_is_said_with_how_to_say_it(self, workshop):
        text = " ".join(said(workshop.package).split())

        assert "mmekit.signature(X, y, model)" in text
        assert "mme measure PACKAGE --artifacts DIR" in text

    def test_as_json(self, packed):
        content = json.loads(said(packed, "--json"))

        assert content["name"] == "ridge"
        assert content["worker_slots"] is True
        assert content["signature"] == json.loads(SIGNATURE.to_json())
        assert json.loads(content["example"]["answer"]) == {"predictions": [3.5]}


def schema_of(document):
    """Return the schema of JSON bodies, on its own."""
    return {"$ref": "#/components/schemas/Request", "components": document["components"]}


class TestForMachines:
    @pytest.fixture
    def document(self, packed):
        return json.loads(said(packed, "--openapi"))

    def test_it_is_openapi(self, document, workshop):
        from openapi_spec_validator import validate  # seconds, for its formats

        validate(document)
        validate(openapi(describe(workshop.package)))
        (path,) = document["paths"]
        assert path == "/endpoints/{name}/invocations"
        content = document["paths"][path]["post"]["requestBody"]["content"]
        assert {"application/json", "text/csv", "application/vnd.apache.parquet"} <= set(content)

    TAKEN = (
        {"instances": [{"age": 41, "city": "Oslo", "class": None}]},
        {"instances": [[41, "Oslo", None, "a"], [1.5, "Bergen", "2026-03-01", "b"]]},
        {"inputs": {"age": [41], "city": ["Oslo"], "class": ["a"]}},
        {"dataframe_records": [{"age": 41, "city": "Oslo", "born": None, "class": "a"}]},
        {"dataframe_split": {"columns": ["age", "city", "class"], "data": [[41, "Oslo", "a"]]}},
        {"instances": [{"age": 1, "city": "Oslo", "class": "a"}], "parameters": {"x": 1}},
        [[41, "Oslo", None, "a"]],
    )
    REFUSED = (
        {"instances": [{"age": "old", "city": "Oslo", "class": "a"}]},
        {"instances": [{"age": 41, "city": "Rome", "class": "a"}]},
        {"instances": [{"age": 41, "city": None, "class": "a"}]},
        {"instances": [{"age": 41, "city": "Oslo"}]},
        {"instances": [{"age": 41, "city": "Oslo", "class": "a", "sex": "f"}]},
        {"instances": [[41, "Oslo", None]]},
        {"rows": [[41, "Oslo", None, "a"]]},
        [],
    )

    @pytest.mark.parametrize("body", TAKEN)
    def test_its_schema_takes_what_the_model_takes(self, document, body):
        import jsonschema

        jsonschema.validate(body, schema_of(document))

    @pytest.mark.parametrize("body", REFUSED)
    def test_its_schema_refuses_what_the_model_refuses(self, document, body):
        import jsonschema

        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(body, schema_of(document))

    @pytest.mark.parametrize("body", [*TAKEN, *REFUSED])
    def test_and_so_does_the_model(self, body):
        from mmekit_runtime.messages import RequestError
        from mmekit_runtime.tables import TableReader

        try:
            TableReader(SIGNATURE).read(json.dumps(body).encode(), "application/json")
        except RequestError:
            assert body in self.REFUSED
        else:
            assert body in self.TAKEN


def test_a_made_up_request_is_one_that_the_signature_takes():
    every = Signature(
        (
            *SIGNATURE.inputs,
            *(Column(kind, kind) for kind in ("boolean", "long", "integer", "float", "any")),
            Column("day", "datetime", dtype="date"),
            Column("hour", "string", dtype="time"),
            Column("moment", "datetime", dtype="datetime64[ns, UTC]"),
        )
    )
    from mmekit_runtime.tables import TableReader

    table, _ = TableReader(every).read(Example.made_of(every).request.encode(), "application/json")
    assert set(table) == set(every.names)


def test_a_request_for_an_archive_is_its_sample_or_a_made_up_one(tables, packed, tmp_path):
    assert json.loads(example_of(packed).request)["instances"][0]["age"] == 41
    (tables.package / "sample_request.json").unlink()
    pack(tables.package, tables.artifacts, tables.archive)
    unpack(tables.archive, tmp_path / "model")

    made = [
        example_of(tables.archive),
        example_of(tmp_path / "model"),
        example_of(tmp_path / "not there", tables.archive.read_bytes()),
    ]
    assert made == [Example.made_of(SIGNATURE)] * 3


class TestTold:
    def test_an_estimator_s_names_are_in_the_manifest_without_a_signature_json(self, workshop):
        import joblib
        import pandas as pd
        from sklearn.linear_model import Ridge

        frame = pd.DataFrame({"rooms": [1.0, 2.0, 4.0], "floor": [3.0, 1.0, 0.0]})
        joblib.dump(Ridge().fit(frame, [1, 2, 3]), workshop.artifacts / "model.joblib")
        workshop.write("model.py", MODEL)
        workshop.write("sample_request.json", '{"inputs": {"floor": [1], "rooms": [2]}}')
        measured = measure(workshop.package, workshop.artifacts)

        assert measured.signature.names == ("rooms", "floor")
        assert measured.unproven is None
        pack(workshop.package, workshop.artifacts, workshop.archive)
        assert verify(workshop.archive).signature == measured.signature


def rules(workshop, **where):
    return {one.rule: one for one in check(workshop.package, **where)}


class TestChecked:
    def test_a_complete_signature_is_nothing_to_tell(self, tables):
        found = rules(tables, artifacts=tables.artifacts)
        assert not [rule for rule in found if "signature" in rule]

    def test_none_for_a_table(self, tables):
        (tables.artifacts / "signature.json").unlink()

        assert "no-signature" not in rules(tables), "it may lie among the artefacts"
        assert rules(tables, artifacts=tables.artifacts)["no-signature"].severity == "note"

    def test_what_is_not_said(self, tables):
        lacking = replace(
            SIGNATURE, inputs=(*SIGNATURE.inputs, Column("x", "any", missing=True)), outputs=()
        )
        (tables.artifacts / "signature.json").write_bytes(lacking.to_json())

        found = rules(tables, artifacts=tables.artifacts)["signature-incomplete"]
        assert found.severity == "note"
        assert "the types of the columns x and the outputs" in found.message

    @pytest.mark.parametrize("text", ["{", "[]", '{"inputs": 3}', '{"inputs": [{"type": "x"}]}'])
    def test_what_nobody_can_read_is_an_error(self, tables, text):
        (tables.artifacts / "signature.json").write_text(text)

        found = rules(tables, artifacts=tables.artifacts)
        assert found["signature-unreadable"].severity == "error"

    def test_a_sample_that_does_not_fit(self, tables):
        tables.write("sample_request.json", '{"instances": [{"age": 41, "town": "Oslo"}]}')

        found = rules(tables, artifacts=tables.artifacts)["sample-unlike-signature"]
        assert found.severity == "warning"
        assert "town" in found.message
