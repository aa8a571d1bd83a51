"""The peers' environments: each has its own, made on first use and kept under build/."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slot_runs.subjects import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ENVIRONMENTS = ROOT / "build" / "peers" / "environments"

# What the models are made of. Every peer gets the versions that run here, so that servers are
# compared and not libraries.
_LIBRARIES = (
    "scikit-learn",
    "joblib",
    "numpy",
    "catboost",
    "setfit",
    "sentence-transformers",
    "transformers",
    "huggingface-hub",
    "torch",
)
_TAIL = 600


class PeerUnavailable(Exception):  # noqa: N818  it is the peer that is
    """A peer cannot be had on this machine; the text says why."""


@dataclass(frozen=True)
class Environment:
    """What a peer's environment holds besides the models' libraries.

    Attributes
    ----------
    name
        How its folder's name begins.
    lines
        As in a requirements.txt.
    """

    name: str
    lines: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it is, or will be: other contents have another folder."""
        text = "\n".join([sys.version.split()[0], *_wanted(self)])
        return ENVIRONMENTS / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python"

    def version(self, package: str) -> str:
        """Return the version of a package in it; empty when it is not there."""
        paths = [str(path) for path in self.folder.glob("lib/python*/site-packages")]
        found = importlib.metadata.distributions(name=package, path=paths)
        return next((one.version for one in found), "")

    def variables(self) -> dict[str, str]:
        """Return this process's environment with that one's programs first."""
        kept = {name: value for name, value in os.environ.items() if name not in _OURS}
        path = os.pathsep.join([str(self.folder / "bin"), kept.get("PATH", os.defpath)])
        return {**kept, **MODEL_VARIABLES, "PATH": path, "VIRTUAL_ENV": str(self.folder)}


MODEL_VARIABLES = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""What model_packages/setfit_classifier asks for."""

_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def make(environment: Environment, say: Callable[[str], None]) -> None:
    """Make an environment that is not there yet.

    It is made under another name and renamed when it is complete.

    Parameters
    ----------
    say
        Is told what uv says meanwhile.

    Raises
    ------
    PeerUnavailable
        uv is missing, or could not make it: no network, no disk, versions that exclude each other.
    """
    if environment.python.exists():
        return
    uv = _uv()
    unfinished = environment.folder.with_name(f".{environment.folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Relocatable: the programs in bin/ name no folder, so that it can be renamed.
        _run([uv, "venv", "--relocatable", "--python", sys.executable, str(unfinished)], say)
        python = str(unfinished / "bin" / "python")
        # Compiled, as those of mmekit are.
        install = [uv, "pip", "install", "--compile-bytecode", "--python", python]
        if "+cpu" in importlib.metadata.version("torch"):
            install += ["--torch-backend", "cpu"]
        _run([*install, *_wanted(environment)], say)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(environment.folder)


def _wanted(environment: Environment) -> list[str]:
    return [*environment.lines, *map(_pinned, _LIBRARIES)]


def _pinned(library: str) -> str:
    try:
        version = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError as error:
        raise PeerUnavailable(f"{library} is not installed here: run make setup") from error
    return f"{library}=={version.partition('+')[0]}"


def _run(command: Sequence[str], say: Callable[[str], None]) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in _OURS}
    said = []
    with subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101  it is a pipe
        try:
            for line in process.stdout:
                said.append(line)
                say(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise PeerUnavailable(f"it could not be installed: {''.join(said).strip()[-_TAIL:]}")


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    uv = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if uv is None:
        raise PeerUnavailable("uv, which makes its environment, is not installed")
    return uv
