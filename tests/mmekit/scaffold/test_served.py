"""Initialised, packed, unpacked and served: every caller gets the library's own answer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import xgboost

from mmekit.archive import Measured, MeasuredMemory, pack, unpack
from mmekit.scaffold import Wishes, init
from tests.server_process import ServerProcess

CALLERS = 16
# Measuring takes a process more, and is tested elsewhere.
MEASURED = Measured(
    python="3.11.9",
    libraries={},
    required=(),
    imports=(),
    modules=(),
    preload=("joblib", "numpy", "pandas", "sklearn", "sklearn.linear_model", "xgboost"),
    threads={},
    memory=MeasuredMemory(120_000_000, 100_000_000, 150_000_000, "smaps_rollup", 20_000_000),
    fork_failure=None,
    fingerprint="0" * 64,
)


@pytest.fixture(scope="module")
def server():
    running = ServerProcess()
    yield running
    running.close()


@pytest.fixture
def serve(here, server):
    """Return a function that makes a model of an artefact, and loads it into a server."""

    def load(name, artifact, **wishes):
        made = init(Wishes(name, Path(artifact), **wishes))
        (made.artifacts / "measured.json").write_bytes(MEASURED.to_json())
        pack(made.package, made.artifacts, Path(f"{name}.tar.gz"))
        unpack(Path(f"{name}.tar.gz"), here / "models" / name)
        return server.loaded(here / "models" / name)

    return load


def asked_at_once(server, model, rows):
    def ask(row):
        return json.loads(server.value(model, json.dumps({"instances": [row]})))["predictions"][0]

    with ThreadPoolExecutor(CALLERS) as callers:
        return list(callers.map(ask, rows))


def records(table):
    return json.loads(table.to_json(orient="records", double_precision=15))


@pytest.mark.thorough
def test_a_pipeline_with_names_texts_and_gaps(server, serve, pipeline, customers):
    table = customers[0].sample(120, replace=True, random_state=0).reset_index(drop=True)
    table["age"] = table["age"] + np.arange(120) / 1000  # every row is another
    joblib.dump(pipeline, "model.joblib")
    customers[0].to_parquet("rows.parquet")
    model = serve("customers", "model.joblib", example=Path("rows.parquet"))
    assert asked_at_once(server, model, records(table)) == pipeline.predict(table).tolist()
    body = table[["city", "income", "age"]].to_csv(index=False)
    answer = server.invoke(model, body, Content_Type="text/csv").json()
    assert answer["predictions"] == pipeline.predict(table).tolist()


@pytest.mark.thorough
def test_a_booster_with_categories(server, serve):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"size": random.normal(size=120)})
    cities = random.choice(["Oslo", "Rome", "Bern"], 120)
    table["city"] = pd.Categorical(cities, categories=["Rome", "Oslo", "Bern"])
    booster = xgboost.XGBRegressor(n_estimators=5, n_jobs=1, enable_categorical=True)
    booster.fit(table, table["size"] + table["city"].cat.codes * 10)
    booster.save_model("model.ubj")
    table.head().to_parquet("rows.parquet")
    model = serve("sizes", "model.ubj", example=Path("rows.parquet"))
    assert np.allclose(asked_at_once(server, model, records(table)), booster.predict(table))
    refused = server.invoke(model, '{"instances": [{"size": 1, "city": "Paris"}]}')
    assert refused.status_code == 400
    assert "'Rome', 'Oslo', 'Bern'" in refused.text
