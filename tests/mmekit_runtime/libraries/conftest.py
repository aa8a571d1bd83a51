"""Models of three lines: a handler of mmekit_runtime, and what a library saved."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def served(mme_model, tmp_path):
    """Return a function that loads a handler for the artefacts in ``tmp_path / "artifacts"``."""

    def load(made):
        package = tmp_path / "package"
        package.mkdir(exist_ok=True)
        name = made.partition("(")[0]
        (package / "model.py").write_text(f"from mmekit_runtime import {name}\n\nhandle = {made}\n")
        (package / "serving.properties").write_text("engine=Python\n")
        return mme_model(package, tmp_path / "artifacts")

    return load


@pytest.fixture
def artifacts(tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def asked():
    """Return a function that asks a model for instances, and returns the content of the answer."""

    def ask(model, instances, status=200, **parameters):
        body = json.dumps({"instances": instances, "parameters": parameters})
        answer = model.invoke(body)
        assert answer.status == status, answer.text
        return answer.json()

    return ask
