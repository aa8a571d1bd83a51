"""What a process runs that was forked to become a program; it is run by its path."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import tempfile


def become(module, arguments, folder, environment, *streams):
    """Run the function main of a module; the rest are those of a process that is no fork."""
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it may have been looked up before there was TMPDIR
    sys.argv[1:] = arguments
    try:
        sys.exit(importlib.import_module(module).main())
    finally:
        atexit._run_exitfuncs()  # a fork ends without them


if __name__ == "forked":
    become(*globals()["given"])
