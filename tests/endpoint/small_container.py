"""A multi-model container in one small file: the contract, with models that echo.

A model folder holds ``model.json``: ``load_status`` (200), ``load_seconds`` (0). The variable
CAPACITY limits how many models fit (507 beyond). An invocation's body may be ``{"status": 400}``,
``{"seconds": 1}`` or ``{"exit": 3}``; the answer says what the container saw.
"""

import argparse
import asyncio
import json
import os
import pathlib
import sys
import threading
import time
from urllib.parse import unquote

import uvicorn

CAPACITY = int(os.environ.get("CAPACITY", "1000"))

models: dict[str, str] = {}
loads: dict[str, int] = {}


def files(folder):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


async def load(request):
    name, url = request["model_name"], pathlib.Path(request["url"])
    loads[name] = loads.get(name, 0) + 1
    if name in models:
        return 409, {"message": "loaded already"}
    if len(models) >= CAPACITY:
        return 507, {"message": "no room"}
    description = json.loads((url / "model.json").read_text())
    await asyncio.sleep(description.get("load_seconds", 0))
    status = description.get("load_status", 200)
    if status == 200:
        models[name] = str(url)
    return status, {"message": "could not import nonsense" if status != 200 else "loaded"}


async def invoke(name, headers, body):
    if name not in models:
        return 404, {"message": "not loaded"}
    wish = json.loads(body) if body.startswith(b"{") else {}
    if "exit" in wish:
        os._exit(wish["exit"])
    if wish.get("forget"):
        del models[name]
    await asyncio.sleep(wish.get("seconds", 0))
    seen = {
        "pid": os.getpid(),
        "name": name,
        "length": len(body),
        "headers": headers,
        "loads": loads[name],
        "loaded": len(models),
        "files": files(models[name]) if name in models else [],
        "environment": {k: os.environ.get(k) for k in ("SAGEMAKER_MULTI_MODEL", "COLOUR")},
    }
    return wish.get("status", 200), seen


async def answer(method, path, headers, body):
    if path == "/ping":
        return 200, {}
    if (method, path) == ("POST", "/models"):
        return await load(json.loads(body))
    name, _, rest = path.removeprefix("/models/").partition("/")
    name = unquote(name)
    if rest == "invoke":
        return await invoke(name, headers, body)
    if method == "DELETE":
        return (200 if models.pop(name, None) else 404), {}
    return (200 if name in models else 404), {}


async def app(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"]}
    path = scope["raw_path"].decode()
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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--host")
    parser.add_argument("--exit-with-stdin", action="store_true")
    arguments = parser.parse_args()
    if os.environ.get("REFUSE_TO_START"):
        sys.exit("no engine to be found")

    def watch():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    gate = os.environ.get("START_AFTER")
    while gate and not pathlib.Path(gate).exists():
        time.sleep(0.01)
    sys.stdout.write("small container ready\n")
    sys.stdout.flush()
    uvicorn.run(app, host=arguments.host, port=arguments.port, lifespan="off", log_level="warning")


if __name__ == "__main__":
    main()
