"""Runs Multi Model Server as the entrypoint of an image does, on a machine that is no container.

For the Python of the server's environment, which has sagemaker-inference and no mmekit. In an
image the entrypoint calls ``sagemaker_inference.model_server.start_model_server``, which takes the
machine to be its own: it writes /etc/sagemaker-mms.properties, listens on every interface and
looks for its Java process among all processes, refusing to go on when there are two. Here these
three are put right and the handler is the one that SAGEMAKER_HANDLER names, which
start_model_server itself prefers for multi-model containers. Nothing else is changed.

Usage: ``python mms_rehearsal.py HOST [ENTRYPOINT]``, in a folder of its own.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

_EVERYWHERE = "http://0.0.0.0:"
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h


def main() -> None:
    """Become the entrypoint, or do what every entrypoint does in the end."""
    host, *entrypoint = sys.argv[1:]
    # Ctrl-C is for whoever started this; the server's Java would otherwise race with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _adopt_orphans()
    model_server = _adapted(host)
    if entrypoint:
        sys.argv = [*entrypoint, "serve"]  # as SageMaker starts a container
        runpy.run_path(entrypoint[0], run_name="__main__")
    else:
        model_server.start_model_server(handler_service=os.environ["SAGEMAKER_HANDLER"])


def _adopt_orphans() -> None:
    """Be the parent of Java, whose parent ends: what process 1 is in a container."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def _adapted(host: str) -> Any:
    import psutil

    model_server: Any = importlib.import_module("sagemaker_inference.model_server")
    settings = Path.cwd() / "sagemaker-mms.properties"
    generate = model_server._generate_mms_config_properties  # noqa: SLF001 - there is no other way

    def properties(environment: Any, handler: str | None = None) -> str:
        if handler is not None:  # of a single-model container
            handler = os.environ["SAGEMAKER_HANDLER"]
        shown = f"[{host}]" if ":" in host else host
        text: str = generate(environment, handler)
        return text.replace(_EVERYWHERE, f"http://{shown}:")

    def own_server() -> Any:
        for process in psutil.process_iter(["cmdline", "status"]):
            command = process.info["cmdline"] or []
            dead = process.info["status"] == psutil.STATUS_ZOMBIE
            if not dead and model_server.MMS_NAMESPACE in command and str(settings) in command:
                return process
        raise RuntimeError("Multi Model Server has not started yet")

    model_server.MMS_CONFIG_FILE = str(settings)
    model_server._generate_mms_config_properties = properties  # noqa: SLF001
    model_server._retrieve_mms_server_process = own_server  # noqa: SLF001
    return model_server


if __name__ == "__main__":
    main()
