"""What was observed about a model: measured.json beside its artefacts.

It is written once and is input from then on: packing reads it, so that the same artefacts give the
same archive although no two measurements are equal.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmekit.archive.package import MEASURED_FILE
from mmekit.errors import PackageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FORMAT = 1
_MIB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """Memory of one worker process after a load and a prediction, in bytes.

    Attributes
    ----------
    proportional
        Proportional set size (PSS): its own pages, and its share of those it shares.
    private
        Pages that no other process has: what unloading the model gives back at least.
    peak
        The largest resident set that the process ever had.
    source
        Where the figures come from: ``smaps_rollup`` (Linux), ``psutil`` or ``getrusage``. The
        last two know no proportional set size; the resident set stands in for it.
    """

    proportional: int
    private: int
    peak: int
    source: str

    @property
    def required_mb(self) -> int:
        """Return the MiB that a load needs, rounded up."""
        return math.ceil(self.proportional / _MIB)


@dataclass(frozen=True)
class Measured:
    """One observation of a model.

    Attributes
    ----------
    python
        The full version of the Python that loaded it.
    libraries
        Versions of the distributions whose modules were imported, by canonical name.
    required
        Those among them that the model's own code or its pickles ask for by name. The others came
        along, and some are there only because somebody looked whether they are installed.
    imports
        Third-party top-level modules that were imported, sorted.
    modules
        Their public first-level submodules that were imported (``sklearn.linear_model``), sorted.
    memory
        Memory of the process.
    fingerprint
        SHA-256 over the names and contents of the files that were observed.
    """

    python: str
    libraries: Mapping[str, str]
    required: tuple[str, ...]
    imports: tuple[str, ...]
    modules: tuple[str, ...]
    memory: Memory
    fingerprint: str

    def to_json(self) -> bytes:
        """Return the same text for the same observation, with a line for every value."""
        content = {"format": FORMAT, **asdict(self)}
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Measured:
        """Build from what `to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        memory = content["memory"]
        return cls(
            python=str(content["python"]),
            libraries={str(k): str(v) for k, v in content["libraries"].items()},
            required=tuple(map(str, content["required"])),
            imports=tuple(map(str, content["imports"])),
            modules=tuple(map(str, content["modules"])),
            memory=Memory(
                int(memory["proportional"]),
                int(memory["private"]),
                int(memory["peak"]),
                str(memory["source"]),
            ),
            fingerprint=str(content["fingerprint"]),
        )


def read_measured(artifacts: Path) -> Measured | None:
    """Read an artefact folder's measured.json; None when there is none.

    Raises
    ------
    PackageError
        The file is not one that mmekit wrote.
    """
    file = artifacts / MEASURED_FILE
    try:
        return Measured.from_content(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PackageError(
            f"The measurement cannot be read: {type(error).__name__}: {error}",
            where=str(file),
            remedy="measure again with `mme measure`",
        ) from error
