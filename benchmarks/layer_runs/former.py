"""Packing as it was before there were layers, and as it is: each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slot_runs.servers import ServerFailure
from slot_runs.subjects import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BEFORE = "c9e0ea3d324ec12e501020519495548cbc6e88bb"
"""The last commit that knew no layers."""

_TAIL = 3000


class NoFormerCodeError(Exception):
    """The code before layers is not to be had; the text says why."""


@dataclass(frozen=True)
class Code:
    """A state of the repository.

    Attributes
    ----------
    root
        The folder that has packaging/ and model_packages/.
    """

    root: Path

    @property
    def packages(self) -> Path:
        """Its model packages."""
        return self.root / "model_packages"

    def pack(self, jobs: Sequence[Job]) -> list[int]:
        """Pack archives; return the bytes of each.

        Raises
        ------
        ServerFailure
            One cannot be packed.
        """
        given = json.dumps([job.content() for job in jobs])
        variables = {**os.environ, "PYTHONPATH": str(self.root / "packaging")}
        finished = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("pack_jobs.py"))],
            env=variables,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            raise ServerFailure(f"packing failed: {finished.stderr[-_TAIL:]}")
        return [json.loads(line)["size"] for line in finished.stdout.splitlines()]


@dataclass(frozen=True)
class Job:
    """An archive that is wanted; see pack_jobs."""

    package: Path
    artifacts: Path
    output: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    measured: Path | None = None

    def content(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "package": str(self.package),
            "artifacts": str(self.artifacts),
            "output": str(self.output),
            "options": dict(self.options),
            "measured": None if self.measured is None else str(self.measured),
        }


NOW = Code(ROOT)
"""This very code."""


def code_of(commit: str, folder: Path) -> Code:
    """Return the code of a commit, which is written into a folder.

    Raises
    ------
    NoFormerCodeError
        There is no git, or no such commit.
    """
    git = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, "packaging", "model_packages"]
    with tempfile.TemporaryFile() as stream:
        try:
            subprocess.run(git, stdout=stream, stderr=subprocess.PIPE, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error).encode()
            raise NoFormerCodeError(said.decode(errors="replace").strip()) from error
        stream.seek(0)
        with contextlib.closing(tarfile.open(fileobj=stream)) as archive:
            archive.extractall(folder, filter="data")
    return Code(folder)
