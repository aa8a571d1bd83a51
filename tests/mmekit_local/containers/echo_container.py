"""A container of one's own in one small file: told everything by SageMaker's variables.

Its models answer with what they see: their own files, the variables, the pid and the arguments.
"child" makes it start a process that minds no signal but SIGKILL, "afar" in another session.
"""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

models = {}
children = []
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)\n"


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        listed = [{"modelName": name, "modelUrl": url} for name, url in models.items()]
        self.answer(200, {"models": listed})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/models":
            asked = json.loads(body)
            models[asked["model_name"]] = asked["url"]
            self.answer(200, {"status": "loaded"})
        elif self.path == "/invocations":
            self.answer(200, seen(os.environ["SM_MODEL_DIR"], body))
        else:
            self.answer(200, seen(models[self.path.split("/")[2]], body))

    def do_DELETE(self):
        models.pop(self.path.split("/")[2], None)
        self.answer(200, {})

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def seen(folder, body):
    if b"child" in body:
        command = [sys.executable, "-c", STUBBORN + "time.sleep(600)"]
        afar = b"afar" in body
        child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=afar)
        child.stdout.readline()
        children.append(child)
    return {
        "files": sorted(path.name for path in Path(folder).iterdir()),
        "variables": dict(os.environ),
        "folder": str(Path.cwd()),
        "arguments": sys.argv[1:],
        "pids": [os.getpid(), *(child.pid for child in children)],
    }


def main():
    host = os.environ.get("MME_BIND_HOST", "0.0.0.0")  # noqa: S104 - not where it is tested
    # As SageMaker's documentation has it: 8080, unless told otherwise.
    told = os.environ.get("ECHO_PORT") or os.environ.get("SAGEMAKER_BIND_TO_PORT")
    port = int(told or 8080)
    ThreadingHTTPServer((host, port), Echo).serve_forever()


if __name__ == "__main__":
    main()
