"""A container in one small file: SageMaker's contract, with models that echo.

A model folder holds ``model.json``: ``load_status`` (200), ``load_seconds`` (0), ``load_after`` (a
file that a load waits for), ``load_exit``, ``parking`` (what is told of it). The variable CAPACITY
limits how many models fit (507 beyond), and a model that was unloaded keeps its place for LINGERS
seconds. An answer takes TAKES seconds. An invocation's body may be ``{"status": 400}``,
``{"seconds": 1}``, ``{"hold": FILE}`` (it makes FILE.held and waits for FILE), ``{"exit": 3}``,
``{"forget": true}``, ``{"fail": true}`` (the model is marked FAILED, as DJL Serving does it),
``{"stop": true}`` (its worker is gone), ``{"unwell": true}`` (/ping answers 500 from now on) or
``{"pieces": ["one", …]}`` (they are the answer, one by one; ``"hold FILE"`` among them waits for a
file, and ``"exit"`` ends the container); otherwise the answer says what the container saw. With
``--model DIR`` it is a single-model container.
"""

import argparse
import asyncio
import hashlib
import json
import os
import pathlib
import sys
import threading
import time
from urllib.parse import unquote

import uvicorn

CAPACITY = int(os.environ.get("CAPACITY", "1000"))
LINGERS = float(os.environ.get("LINGERS", "0"))
TAKES = float(os.environ.get("TAKES", "0"))
VARIABLES = ("SAGEMAKER_MULTI_MODEL", "COLOUR")

models: dict[str, str] = {}
lingering: list[float] = []
loads: dict[str, int] = {}
failed: set[str] = set()
stopped: set[str] = set()
refused: set[str] = set()
state = {"unwell": False, "most": 0, "running": 0}
options = argparse.Namespace()


def files(folder):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def described(folder):
    return json.loads((pathlib.Path(folder) / "model.json").read_text())


async def load(request):
    name, url = request["model_name"], request["url"]
    loads[name] = loads.get(name, 0) + 1
    if name in models or name in refused:
        return 409, {"message": "loaded already"}
    if len(models) + sum(until > time.monotonic() for until in lingering) >= CAPACITY:
        refused.add(name)  # as Multi Model Server, which keeps the name and has no worker for it
        return 507, {"message": "no room"}
    description = described(url)
    if "load_exit" in description:
        os._exit(description["load_exit"])
    await asyncio.sleep(description.get("load_seconds", 0))
    await there_is(description.get("load_after"))
    status = description.get("load_status", 200)
    if status == 200:
        models[name] = url
    return status, {"message": "could not import nonsense" if status != 200 else "loaded"}


async def there_is(path):
    while path and not pathlib.Path(path).exists():  # noqa: ASYNC110, ASYNC240 - of this one file
        await asyncio.sleep(0.01)


def unload(name):
    failed.discard(name)
    stopped.discard(name)
    refused.discard(name)
    if models.pop(name, None) is None:
        return 404, {}
    lingering.append(time.monotonic() + LINGERS)
    return 200, {}


def refusal(name):
    if name not in models:
        return 404, {"message": "not loaded"}
    if name in failed:
        return 503, {"message": f"Model is not ready: {name}"}
    if name in stopped:
        return 400, {"message": "Backend Python process is stopped."}
    return None


def obey(name, wish):
    if "exit" in wish:
        os._exit(wish["exit"])
    if "hold" in wish:
        pathlib.Path(f"{wish['hold']}.held").touch()
    if wish.get("forget"):
        del models[name]
    if wish.get("fail"):
        failed.add(name)
    if wish.get("stop"):
        stopped.add(name)
    if wish.get("unwell"):
        state["unwell"] = True


async def invoke(name, headers, body):
    if (refused := refusal(name)) is not None:
        return refused
    wish = json.loads(body) if body.startswith(b"{") else {}
    obey(name, wish)
    state["running"] += 1
    state["most"] = max(state["most"], state["running"])
    await asyncio.sleep(wish.get("seconds", TAKES))
    await there_is(wish.get("hold"))
    state["running"] -= 1
    seen = {
        "pid": os.getpid(),
        "name": name,
        "length": len(body),
        "digest": hashlib.sha256(body).hexdigest(),
        "headers": headers,
        "loads": loads.get(name, 0),
        "loaded": len(models),
        "most": state["most"],
        "memory": options.memory,
        "files": files(models[name]) if name in models else [],
        "environment": {variable: os.environ.get(variable) for variable in VARIABLES},
    }
    return wish.get("status", 200), seen


def listed():
    entries = [
        {"modelName": name, "modelUrl": url, "status": "FAILED" if name in failed else "READY"}
        for name, url in models.items()
    ]
    return 200, {"models": entries}


def describe(name):
    if name not in models:
        return 404, {}
    status = "FAILED" if name in failed else "Healthy"
    group = {"workers": [{"id": 1, "pid": os.getpid()}]}
    model = {"modelName": name, "status": status, "workerGroups": [group]}
    if parking := described(models[name]).get("parking"):
        model |= {"parking": parking, "processes": []}
    return 200, [{"models": [model]}]


async def answer(method, path, headers, body):
    if path == "/ping":
        return (500 if state["unwell"] or failed else 200), {}
    if (method, path) == ("POST", "/invocations"):
        return await invoke("only", headers, body)
    if path == "/models":
        return await load(json.loads(body)) if method == "POST" else listed()
    name, _, rest = path.removeprefix("/models/").partition("/")
    name = unquote(name)
    if rest == "invoke":
        return await invoke(name, headers, body)
    return unload(name) if method == "DELETE" else describe(name)


async def stream(pieces, send):
    headers = [(b"content-type", b"text/plain"), (b"x-amzn-sagemaker-custom-attributes", b"one")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        if piece == "exit":
            os._exit(1)
        if piece.startswith("hold "):
            await there_is(piece.removeprefix("hold "))
            continue
        await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def app(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"]}
    path = scope["raw_path"].decode()
    if body.startswith(b'{"pieces"'):
        await stream(json.loads(body)["pieces"], send)
        return
    status, reply = await answer(scope["method"], path, headers, body)
    attributes = headers.get("x-amzn-sagemaker-custom-attributes", "none").encode("latin-1")
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"x-amzn-sagemaker-custom-attributes", b"saw " + attributes),
            ],
        }
    )
    await send({"type": "http.response.body", "body": json.dumps(reply).encode()})


def take_only_model(folder):
    description = described(folder)
    time.sleep(description.get("load_seconds", 0))
    if "load_exit" in description:
        sys.exit("could not import nonsense")
    loads["only"] = 1
    models["only"] = str(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--host")
    parser.add_argument("--exit-with-stdin", action="store_true")
    parser.add_argument("--memory", type=int)
    parser.add_argument("--model", type=pathlib.Path)
    parser.parse_args(namespace=options)
    if os.environ.get("REFUSE_TO_START"):
        sys.exit("no engine to be found")

    def watch():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    gate = os.environ.get("START_AFTER")
    while gate and not pathlib.Path(gate).exists():
        time.sleep(0.01)
    if options.model is not None:
        take_only_model(options.model)
    sys.stdout.write("small container ready\n")
    sys.stdout.flush()
    uvicorn.run(app, host=options.host, port=options.port, lifespan="off", log_level="warning")


if __name__ == "__main__":
    main()
