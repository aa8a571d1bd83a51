"""extra_trees_classifier and multi_output_classifier: 64 grey values in, labels out."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from mmekit.testing import agree, read_sample

LABELS = [list("0123456789"), ["even", "odd"], ["large", "small"]]


@pytest.fixture(scope="module")
def images(digits):
    return digits[1][:5].tolist()


@pytest.mark.parametrize("name", ["extra_trees_classifier", "multi_output_classifier"])
def test_the_sample_request_gets_the_sample_answer(request, packages, name):
    model = request.getfixturevalue(name)
    sample = read_sample(packages / name)
    answer = model.invoke(sample.body, content_type=sample.content_type)
    assert answer.status == 200
    assert agree(answer.json(), sample.answer)


class TestOneOutput:
    @pytest.fixture
    def model(self, extra_trees_classifier):
        return extra_trees_classifier

    def test_labels_alone_unless_probabilities_are_asked_for(self, model, images, digits):
        answer = model.invoke(json.dumps({"instances": images})).json()
        assert answer == {"predictions": digits[3][:5].tolist()}

    def test_one_flat_record_is_one_image(self, model, images):
        assert len(model.invoke(json.dumps(images[0])).json()["predictions"]) == 1

    @pytest.mark.parametrize(
        ("parameters", "attributes"),
        [({"probabilities": True}, None), ({}, "probabilities=true")],
    )
    def test_probabilities_on_request(self, model, images, parameters, attributes):
        body = json.dumps({"instances": images, "parameters": parameters})
        answer = model.invoke(body, attributes=attributes).json()
        probabilities = np.array(answer["probabilities"])
        assert probabilities.shape == (5, 10)
        assert probabilities.sum(axis=1) == pytest.approx(1)
        assert answer["classes"] == list(range(10))
        assert probabilities.argmax(axis=1).tolist() == answer["predictions"]

    def test_labels_do_not_depend_on_whether_probabilities_are_asked_for(self, model, digits):
        body = io.BytesIO()
        np.save(body, digits[1])
        calls = [
            model.invoke(body.getvalue(), content_type="application/x-npy", attributes=attributes)
            for attributes in (None, "probabilities=true")
        ]
        assert calls[0].json()["predictions"] == calls[1].json()["predictions"]

    def test_a_csv_line_has_the_label_and_then_the_probabilities(self, model, images):
        body = "\n".join(",".join(map(str, image)) for image in images)
        answer = model.invoke(
            body, content_type="text/csv", accept="text/csv", attributes="probabilities=true"
        )
        lines = [line.split(",") for line in answer.text.splitlines()]
        assert [len(line) for line in lines] == [11] * 5

    def test_a_row_of_three_numbers_is_no_image(self, model):
        answer = model.invoke('{"instances": [[1, 2, 3]]}')
        assert answer.status == 400
        assert "64" in answer.json()["expected"]
        assert "3" in answer.json()["received"]


class TestSeveralOutputs:
    @pytest.fixture
    def model(self, multi_output_classifier):
        return multi_output_classifier

    def test_each_record_gets_three_labels(self, model, images):
        predictions = model.invoke(json.dumps({"instances": images})).json()["predictions"]
        assert len(predictions) == 5
        for labels in predictions:
            for label, possible in zip(labels, LABELS, strict=True):
                assert label in possible

    def test_probabilities_come_record_by_record(self, model, images):
        body = json.dumps({"instances": images, "parameters": {"probabilities": True}})
        answer = model.invoke(body).json()
        assert answer["classes"] == LABELS
        assert len(answer["probabilities"]) == 5
        for record in answer["probabilities"]:
            assert [len(output) for output in record] == [10, 2, 2]
            assert [sum(output) for output in record] == pytest.approx([1, 1, 1])

    def test_a_csv_line_has_three_labels(self, model, images):
        answer = model.invoke(json.dumps(images), accept="text/csv")
        assert [line.count(",") for line in answer.text.splitlines()] == [2] * 5

    def test_json_lines_go_in_and_out(self, model, images):
        body = "\n".join(json.dumps({"features": image}) for image in images)
        answer = model.invoke(
            body, content_type="application/jsonlines", accept="application/jsonlines"
        )
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [len(line["prediction"]) for line in lines] == [3] * 5

    def test_labels_come_as_an_array_of_texts(self, model, images):
        answer = model.invoke(json.dumps(images), accept="application/x-npy")
        labels = np.load(io.BytesIO(answer.body), allow_pickle=False)
        assert labels.shape == (5, 3)

    def test_outputs_of_different_width_are_no_array(self, model, images):
        answer = model.invoke(
            json.dumps(images), accept="application/x-npy", attributes="probabilities=true"
        )
        assert answer.status == 406
        assert "npy" in answer.json()["expected"]
