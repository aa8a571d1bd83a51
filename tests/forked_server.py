"""What a process runs that becomes the embedded server: it is run by its path."""

from __future__ import annotations

import os
import sys
import tempfile

from mmekit_local.server.__main__ import main


def serve(arguments, environment, stdin, stdout):
    """Become the server; arguments and environment are those of a process that is no fork."""
    for number, end in ((0, stdin), (1, stdout), (2, stdout)):
        os.dup2(end.fileno(), number)
    stdin.close()
    stdout.close()
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it may have been looked up before there was TMPDIR
    sys.argv[1:] = arguments
    sys.exit(main())


if __name__ == "forked":
    serve(*globals()["given"])
