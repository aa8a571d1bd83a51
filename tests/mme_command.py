"""`mme` as a process, the way it is used."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from tests.forked_program import ForkedProgram

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def run_mme(
    *arguments: object, folder: Path, environment: Mapping[str, str], forked: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run `mme` until it ends.

    It is forked, on Linux, from a process that has imported it: that takes longer than most of
    what it does. Not where it matters what an interpreter finds at its start.
    """
    words = [*map(str, arguments)]
    if not forked or sys.platform != "linux":
        return subprocess.run(
            [sys.executable, "-m", "mmekit.cli", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with open(os.devnull) as nothing:  # noqa: PTH123  a device
            streams = [os.dup(one.fileno()) for one in (nothing, out, err)]
        process = ForkedProgram("mmekit.cli", words, folder, environment, *streams)
        ended = process.wait()
        printed = []
        for file in (out, err):
            file.seek(0)
            printed.append(file.read())
    return subprocess.CompletedProcess(["mme", *words], ended, *printed)


def mme_in_a_terminal(
    *arguments: object,
    folder: Path,
    answers: Mapping[str, bytes] | None = None,
    **variables: str,
) -> tuple[str, int]:
    """Return what `mme` prints on a terminal of 80 columns, and how it ends.

    Parameters
    ----------
    answers
        Keys to press, by the text that is waited for.
    """
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"COLUMNS": "80", "LINES": "24", "TERM": "xterm-256color", **variables}
    words = [sys.executable, "-m", "mmekit.cli", *map(str, arguments)]
    waiting, printed = dict(answers or {}), b""
    with subprocess.Popen(
        words, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # Linux's way to say that nobody has it open any more
            while piece := os.read(ours, 1 << 16):
                printed += piece
                for text in [text for text in waiting if text.encode() in printed]:
                    os.write(ours, waiting.pop(text))
        os.close(ours)
    return printed.decode(), process.returncode
