"""A model that only MLflow knows how to load."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own, of many kinds


def test_a_model_behind_pyfunc_answers_what_it_says(artifacts, served, asked):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import pyfunc
        from mlflow.models import infer_signature

    with warnings.catch_warnings(record=True):  # mlflow shows its own, whatever filters say

        class Total(pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                return model_input["a"] * (params or {}).get("factor", 1) + model_input["b"]

    table = pd.DataFrame({"a": [1.0, 2.0], "b": [10.0, 20.0]})
    signature = infer_signature(table, params={"factor": 1})
    pyfunc.save_model(
        artifacts / "total", python_model=Total(), signature=signature, pip_requirements=["pandas"]
    )
    import mmekit

    (artifacts / "signature.json").write_bytes(mmekit.signature(table).to_json())
    model = served('MLflowHandler("total")')
    assert asked(model, [{"b": 10, "a": 1}]) == {"predictions": [11.0]}
    assert asked(model, [{"b": 10, "a": 1}], factor=3) == {"predictions": [13.0]}
