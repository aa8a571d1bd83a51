"""Networks of torch as files of ONNX."""

import io

import onnx
import torch


def write_onnx(network, example, path, *, inputs, outputs):
    """Write a network as NAME.onnx, with its parameters in a file NAME.weights beside it.

    onnxruntime maps such a file into memory: it is loaded faster, and only what is used of it is
    in memory.

    Parameters
    ----------
    example
        What the network is called with while it is traced.
    inputs, outputs
        For each name the dimensions that may be of any length, by number, with a name.
    """
    written = io.BytesIO()
    torch.onnx.export(
        network,
        example,
        written,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes={**inputs, **outputs},
        opset_version=17,
        dynamo=False,
    )
    weights = path.with_suffix(".weights")
    weights.unlink(missing_ok=True)  # onnx would append to it
    onnx.save_model(
        onnx.load_from_string(written.getvalue()),
        str(path),
        save_as_external_data=True,
        location=weights.name,
    )
