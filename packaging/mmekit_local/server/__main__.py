"""``python -m mmekit_local.server``: what an endpoint starts for each instance."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmekit.errors import MmekitError
from mmekit_local.server.djl import run_djl
from mmekit_local.server.run import ServerOptions, run


def main() -> int:
    """Serve; 1 when the server could not start."""
    parser = argparse.ArgumentParser(prog="python -m mmekit_local.server", description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--memory", type=int, metavar="BYTES", default=None)
    parser.add_argument("--model", type=Path, metavar="DIR", default=None)
    parser.add_argument("--server", choices=("embedded", "djl"), default="embedded")
    parser.add_argument("--exit-with-stdin", action="store_true")
    parser.add_argument("--no-install", action="store_true")
    arguments = parser.parse_args()
    options = ServerOptions(
        port=arguments.port,
        host=arguments.host,
        memory=arguments.memory,
        model=arguments.model,
        exit_with_stdin=arguments.exit_with_stdin,
        installs=not arguments.no_install,
    )
    try:
        (run_djl if arguments.server == "djl" else run)(options)
    except MmekitError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
