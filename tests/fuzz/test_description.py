"""The server's own OpenAPI description against what the server does, asked by schemathesis.

`make test` asks some hundred times, and always the same; with MMEKIT_FUZZ_SECONDS it goes on for
so long, and never the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

SECONDS = int(os.environ.get("MMEKIT_FUZZ_SECONDS", "0"))
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")

MODEL = """
import json
from djl_python import Output

def handle(inputs):
    if inputs.is_empty():
        return None
    {answer}
"""
ANSWERS = {
    "size": "return Output().add_as_json({'bytes': len(inputs.get_as_bytes() or b'')})"
    ".add_property('Content-Type', 'application/json')",
    "silent": "return None",
    "failing": "raise ValueError(inputs.get_as_string())",
}
OTHERS = ("other", "an other", "\u00fc\u20ac", "a%2Fb", "..", "x" * 300)
INVOCATIONS = (
    "/models/{name}/invoke",
    "/predictions/{name}",
    "/invocations",
    "/v1/chat/completions",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model's folder for each answer."""
    found = {}
    for name, answer in ANSWERS.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "model.py").write_text(MODEL.format(answer=answer))
        properties = "engine=Python\nminWorkers=1\nmaxWorkers=1\n"
        (folder / "serving.properties").write_text(properties)
        found[name] = folder
    return found


@pytest.fixture(scope="module")
def server(folders):
    """The URL of a server with these models, and what it has logged so far."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mmekit_local.server", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "serving on http://" in line:
            break
    url = lines[-1].rpartition(" ")[2].strip()
    reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
    reader.start()
    try:
        for name, folder in folders.items():
            content = {"model_name": name, "url": folder.as_uri()}
            loaded = httpx.post(f"{url}/models", json=content, timeout=60)
            assert loaded.status_code == 200, loaded.text
        yield url, lines
    finally:
        process.terminate()
        process.wait(timeout=60)
        reader.join()
        process.stdout.close()


def narrowed(description, folders):
    """Say of a description what holds for these models alone, and how they are called."""
    models = {"enum": list(folders)}
    anything = {"type": "string", "minLength": 1}
    paths = description["paths"]
    description["components"]["parameters"]["name"]["schema"] = {"anyOf": [models, anything]}
    # These models stay loaded: whatever is unloaded has been loaded on the way.
    name = {"name": "name", "in": "path", "required": True}
    paths["/models/{name}"]["delete"]["parameters"] = [
        {**name, "schema": {"anyOf": [{"enum": list(OTHERS)}, {"type": "string", "minLength": 9}]}}
    ]
    load = paths["/models"]["post"]["requestBody"]["content"]["application/json"]
    urls = {"enum": [folder.as_uri() for folder in folders.values()]}
    real = {"properties": {"model_name": {"enum": list(OTHERS)}, "url": urls}}
    real = {"type": "object", "required": list(real["properties"]), **real}
    load["schema"] = {"anyOf": [real, load["schema"]]}
    size = {"type": "object", "required": ["bytes"], "properties": {"bytes": {"type": "integer"}}}
    for path in INVOCATIONS:
        operation = paths[path]["post"]
        del operation["responses"]["default"]
        operation["responses"]["200"]["content"] = {"application/json": {"schema": size}}
        del operation["requestBody"]["content"]["*/*"]
        for parameter in operation["parameters"]:
            if parameter["name"] == "model_name":
                parameter.update(required=True, schema={"anyOf": [models, anything]})
    return description


@pytest.mark.timeout(SECONDS + 600)
def test_the_server_does_what_its_description_says(server, folders, tmp_path):
    url, log = server
    description = tmp_path / "openapi.json"
    published = httpx.get(f"{url}/openapi.json").raise_for_status().json()
    description.write_text(json.dumps(narrowed(published, folders)))
    effort = ["--generation-deterministic", "--max-examples", "12"]
    if SECONDS:
        effort = ["--max-time", str(SECONDS)]

    finished = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--no-color"),
            *("--config-file", str(CONFIGURATION), "run", str(description), "--url", url),
            *("--continue-on-failure", "--warnings", "off", *effort),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS + 500,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert not [line for line in log if "the server failed" in line]
    assert httpx.get(f"{url}/ping").status_code == 200


def test_every_status_that_the_models_answer_is_seen(server):
    url, _ = server
    seen = {name: httpx.post(f"{url}/models/{name}/invoke", content=b"x") for name in ANSWERS}

    statuses = {name: answer.status_code for name, answer in seen.items()}
    assert statuses == {"size": 200, "silent": 204, "failing": 424}


def test_every_path_of_the_description_is_known(server):
    url, _ = server
    description = httpx.get(f"{url}/openapi.json").json()
    for path, operations in description["paths"].items():
        for method in operations.keys() & {"get", "options"}:
            answer = httpx.request(method, url + path.replace("{name}", "size"))
            assert answer.status_code == 200, (method, path, answer.text)
