"""What the image runs: Multi Model Server with this image's handler, as SageMaker expects it.

``docker run IMAGE serve`` is how SageMaker starts a container. Anything else is run as a command,
for a look inside: ``docker run -it IMAGE bash``.
"""

# ruff: noqa: INP001 (a folder of files for an image is no package)

import os
import sys
from subprocess import CalledProcessError

from retrying import retry
from sagemaker_inference import model_server

HANDLER = "/opt/program/model_handler.py:handle"
PATIENCE_MS = 50_000


def is_transient(error: BaseException) -> bool:
    """Say whether another try may help: a file or a process could not be had just now."""
    return isinstance(error, (CalledProcessError, OSError))


@retry(stop_max_delay=PATIENCE_MS, wait_fixed=1000, retry_on_exception=is_transient)
def serve() -> None:
    """Start the server and stay until it ends.

    The container ends with it, so that SageMaker sees it and starts another.
    """
    model_server.start_model_server(handler_service=HANDLER)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
