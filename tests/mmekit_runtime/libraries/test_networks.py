"""Networks as ONNX and TorchScript: columns, arrays of any rank, several inputs and outputs."""

from __future__ import annotations

import io
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def save(path, nodes, inputs, outputs, initializers=()):
    def infos(described):
        return [helper.make_tensor_value_info(*one) for one in described]

    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), list(initializers))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def constant(name, value):
    array = np.asarray(value)
    kind = INT64 if array.dtype.kind == "i" else FLOAT
    return helper.make_tensor(name, kind, array.shape, array.ravel().tolist())


def doubling(path, shape):
    """Save a network that answers twice what it gets."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    save(path, nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)])


def test_an_array_of_any_rank_is_taken_as_json_and_npy(artifacts, served, asked):
    doubling(artifacts / "model.onnx", ["n", 2, 3])
    model = served('OnnxHandler("model.onnx")')
    rows = np.arange(12.0).reshape(2, 2, 3)
    assert asked(model, rows.tolist()) == {"predictions": (2 * rows).tolist()}
    body = io.BytesIO()
    np.save(body, rows)
    answer = model.invoke(body.getvalue(), content_type="application/x-npy")
    assert answer.json() == {"predictions": (2 * rows).tolist()}
    assert asked(model, rows[0].tolist()) == {"predictions": (2 * rows[:1]).tolist()}


@pytest.mark.parametrize(
    ("instances", "received"),
    [
        ([[1, 2]], "an array of 1 x 2"),
        ([[1, 2, 3], [4, 5]], "ragged rows"),
        ([["a", "b", "c"]], "an array of"),
        ([[1, None, 3]], "ragged rows, or values that are no numbers"),
        ([[1, 2, 1e39]], "the value 1e+39"),
        ([], "no row"),
    ],
)
def test_what_does_not_fit_an_input_is_refused(artifacts, served, asked, instances, received):
    doubling(artifacts / "model.onnx", ["n", 3])
    refused = asked(served('OnnxHandler("model.onnx")'), instances, status=400)
    assert refused["expected"] == "x: rows of 3 float32"
    assert received in refused["received"]


def test_rows_beyond_the_batch_of_the_export_are_asked_part_by_part(artifacts, served, asked):
    doubling(artifacts / "model.onnx", [2, 3])
    rows = np.arange(15.0).reshape(5, 3)
    answer = asked(served('OnnxHandler("model.onnx")'), rows.tolist())
    assert answer == {"predictions": (2 * rows).tolist()}


def test_inputs_of_one_value_a_row_are_the_columns_of_a_table(artifacts, served):
    nodes = [
        helper.make_node("LabelEncoder", ["city"], ["code"], domain="ai.onnx.ml",
                         keys_strings=["Oslo", "Rome"], values_floats=[10.0, 20.0]),
        helper.make_node("Add", ["age", "code"], ["y"]),
    ]  # fmt: skip
    inputs = [("age", FLOAT, ["n", 1]), ("city", STRING, ["n", 1])]
    save(artifacts / "model.onnx", nodes, inputs, [("y", FLOAT, ["n", 1])])
    model = served('OnnxHandler("model.onnx")')
    answer = model.invoke("city,age\nRome,1\nOslo,2\n", content_type="text/csv")
    assert answer.json() == {"predictions": [[21.0], [12.0]]}
    assert model.invoke(json.dumps({"instances": [{"age": 1}]})).status == 400


def test_several_inputs_and_outputs_go_by_their_names(artifacts, served, asked):
    nodes = [
        helper.make_node("Add", ["a", "b"], ["total"]),
        helper.make_node("Sub", ["a", "b"], ["difference"]),
    ]
    inputs = [("a", INT64, ["n", 2]), ("b", INT64, ["n", 2])]
    outputs = [("total", INT64, ["n", 2]), ("difference", INT64, ["n", 2])]
    save(artifacts / "model.onnx", nodes, inputs, outputs)
    model = served('OnnxHandler("model.onnx")')
    expected = {"predictions": [[4, 6]], "difference": [[-2, -2]]}
    assert asked(model, [{"a": [1, 2], "b": [3, 4]}]) == expected
    body = json.dumps({"inputs": {"a": [[1, 2]], "b": [[3, 4]]}})
    assert model.invoke(body).json() == expected
    assert (
        "a: 1, b: 2"
        in model.invoke(json.dumps({"inputs": {"a": [[1, 2]], "b": [[3, 4], [5, 6]]}})).text
        or model.invoke(body).ok
    )
    refused = asked(model, [{"a": [1, 2]}], status=400)
    assert refused["expected"] == "a member b in every row"
    assert "1.5" in asked(model, [{"a": [1.5, 2], "b": [3, 4]}], status=400)["received"]


@pytest.mark.parametrize("as_maps", [True, False])
def test_a_classifier_s_labels_and_probabilities_are_what_they_are(
    artifacts, served, asked, as_maps
):
    likely = "raw" if as_maps else "probabilities"
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", likely], domain="ai.onnx.ml",
            coefficients=[1.0, -1.0], intercepts=[0.0, 0.0], multi_class=0,
            classlabels_strings=["up", "down"], post_transform="SOFTMAX",
        )
    ]  # fmt: skip
    outputs = [("label", STRING, ["n"])]
    if as_maps:
        nodes.append(
            helper.make_node("ZipMap", ["raw"], ["probabilities"], domain="ai.onnx.ml",
                             classlabels_strings=["up", "down"])
        )  # fmt: skip
        kind = helper.make_sequence_type_proto(
            helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
        )
        inputs = [helper.make_tensor_value_info("x", FLOAT, ["n", 1])]
        shown = [
            helper.make_tensor_value_info(*outputs[0]),
            helper.make_value_info("probabilities", kind),
        ]
        graph = helper.make_graph(nodes, "graph", inputs, shown)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        onnx.save(
            helper.make_model(graph, opset_imports=opsets, ir_version=8), artifacts / "model.onnx"
        )
    else:
        outputs.append(("probabilities", FLOAT, ["n", 2]))
        save(artifacts / "model.onnx", nodes, [("x", FLOAT, ["n", 1])], outputs)
    model = served('OnnxHandler("model.onnx")')
    assert asked(model, [[3], [-3]]) == {"predictions": ["up", "down"]}
    answer = asked(model, [[3], [-3]], probabilities=True)
    assert np.allclose(np.sum(answer["probabilities"], axis=1), 1)
    up = answer["classes"].index("up" if as_maps else 0)
    assert answer["probabilities"][0][up] > 0.9


def test_torchscript_answers_what_the_network_says(artifacts, served, asked):
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
    torch.jit.script(network).save(artifacts / "model.pt")
    rows = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    with torch.inference_mode():
        expected = network.eval()(torch.from_numpy(rows)).numpy()
    model = served('TorchScriptHandler("model.pt", shape=(3,))')
    assert np.allclose(asked(model, rows.tolist())["predictions"], expected)
    refused = asked(model, [[1, 2]], status=400)
    assert refused["received"] == "an array of 1 x 2"
    assert asked(served('TorchScriptHandler("model.pt")'), [[1, 2]], status=424)


def test_torchscript_with_several_tensors_goes_by_the_names_of_its_arguments(
    artifacts, served, asked
):
    import torch

    class Pair(torch.nn.Module):
        def forward(self, words, mask):
            return words * mask, words + mask

    example = torch.ones(1, 2, dtype=torch.int64)
    torch.jit.trace(Pair(), (example, example)).save(artifacts / "model.pt")
    model = served('TorchScriptHandler("model.pt", dtype="int64")')
    answer = asked(model, [{"words": [3, 4], "mask": [1, 0]}])
    assert answer == {"predictions": [[3, 0]], "output_1": [[4, 4]]}
