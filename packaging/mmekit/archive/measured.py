"""What was observed about a model: measured.json beside its artefacts.

It is written once and is input from then on: packing reads it, so that the same artefacts give the
same archive although no two measurements are equal.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mmekit.archive.files import read_text
from mmekit.archive.package import MEASURED_FILE
from mmekit.errors import PackageError
from mmekit_runtime.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


FORMAT = 3
_OLDER_FORMATS = (1, 2)
_IN_MANIFESTS = (2, FORMAT)  # of archives, which are not measured again
# Besides a wrong form: JSON that nests deeply, and an integer that is Infinity.
UNREADABLE = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
_MIB = 1 << 20
_LEAST_REQUIRED_MB = 16


@dataclass(frozen=True)
class MeasuredMemory:
    """MeasuredMemory of one worker process after a load and a prediction, in bytes.

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
    forked
        Private pages of a process that did the same after a fork from one that had imported
        `Measured.preload`: what one more model takes with worker slots. None where nobody could
        measure it.
    shared
        Private pages that loading what the model shares (``load_shared``) took in the process that
        was forked: once for all models that share it. None where nothing is shared so.
    """

    proportional: int
    private: int
    peak: int
    source: str
    forked: int | None = None
    shared: int | None = None

    @property
    def required_mb(self) -> int:
        """Return the MiB that a load needs in a process of its own, rounded up."""
        return math.ceil(self.proportional / _MIB)

    @property
    def forked_mb(self) -> int | None:
        """Return the MiB that a load needs with worker slots, rounded up; None if unknown."""
        return None if self.forked is None else math.ceil(self.forked / _MIB)

    @property
    def required_with_slots_mb(self) -> int:
        """Return the ``required_memory_mb`` of a model with worker slots.

        It is the model's marginal memory, as DJL Serving compares it with the memory that is there
        when the model is loaded. The libraries are in memory once for all models; the first one
        that brings them in takes that from the reserve (``reserved_memory_mb``, 500 by default).
        """
        forked = self.forked_mb
        return self.required_mb if forked is None else max(_LEAST_REQUIRED_MB, forked)


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
    preload
        The modules to import before a fork, in the order in which the model asked for them: what
        its own code or its pickles name, each after the packages that it is in. Importing them
        brings in every third-party module that the model used.
    threads
        How many threads importing a module started, for those of ``preload`` that started any. A
        process with threads cannot be forked: the fork server leaves them to each model.
    memory
        MeasuredMemory of the process.
    fork_failure
        Why the model did not load or answer in a forked process; None if it did, or nobody tried.
    unproven
        Why it is not known whether an answer depends on the requests that are answered with it;
        None where batches were proven to be answered as single requests, or there are none.
    signature
        What the loaded handler knew of its columns: from signature.json, or else from its
        estimator; None if nothing.
    fingerprint
        SHA-256 over the names and contents of the files that were observed.
    unshared
        Why what the model shares is loaded by each process and not once before they are forked;
        None where it is loaded once, or nothing is shared.
    answer
        What it answered to the sample request, where that is not what the package has for an
        answer; an empty text for one that is none, or is long. None where it is the package's.
    measured_on
        Fingerprint of the model of the same package that was measured in its place: libraries,
        imports and memory are that one's, with what this one took more in a fork. None for its own.
    answers_nothing
        Whether its answer to the sample request is null throughout.
    """

    python: str
    libraries: Mapping[str, str]
    required: tuple[str, ...]
    imports: tuple[str, ...]
    modules: tuple[str, ...]
    preload: tuple[str, ...]
    threads: Mapping[str, int]
    memory: MeasuredMemory
    fork_failure: str | None
    fingerprint: str
    unproven: str | None = None
    signature: Signature | None = None
    unshared: str | None = None
    answer: str | None = None
    measured_on: str | None = None
    answers_nothing: bool = False

    def to_json(self) -> bytes:
        """Return the same text for the same observation, with a line for every value."""
        content = {"format": FORMAT, **asdict(self)}
        if self.signature is not None:
            content["signature"] = json.loads(self.signature.to_json())
        for name in ("answer", "measured_on"):
            if content[name] is None:
                del content[name]
        if not self.answers_nothing:
            del content["answers_nothing"]
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> Measured:
        """Build from what `to_json` wrote; KeyError, TypeError or ValueError for anything else."""
        if content["format"] not in _IN_MANIFESTS:
            raise ValueError(f"format {content['format']!r}")
        memory = content["memory"]
        forked, failure = memory["forked"], content["fork_failure"]
        unproven, unshared = content.get("unproven"), content.get("unshared")
        answer, measured_on = content.get("answer"), content.get("measured_on")
        shared = memory.get("shared")
        return cls(
            python=str(content["python"]),
            libraries={str(k): str(v) for k, v in content["libraries"].items()},
            required=tuple(map(str, content["required"])),
            imports=tuple(map(str, content["imports"])),
            modules=tuple(map(str, content["modules"])),
            preload=tuple(map(str, content["preload"])),
            threads={str(k): int(v) for k, v in content["threads"].items()},
            memory=MeasuredMemory(
                int(memory["proportional"]),
                int(memory["private"]),
                int(memory["peak"]),
                str(memory["source"]),
                None if forked is None else int(forked),
                None if shared is None else int(shared),
            ),
            fork_failure=None if failure is None else str(failure),
            fingerprint=str(content["fingerprint"]),
            unproven=None if unproven is None else str(unproven),
            signature=signature_from(content.get("signature")),
            unshared=None if unshared is None else str(unshared),
            answer=None if answer is None else str(answer),
            measured_on=None if measured_on is None else str(measured_on),
            answers_nothing=bool(content.get("answers_nothing", False)),
        )


def is_nothing(answer: str | None) -> bool:
    """Whether an answer is JSON with null, or a number that is not finite, in every place.

    >>> is_nothing('{"predictions": [null, null]}'), is_nothing('{"predictions": [null, 3.5]}')
    (True, False)
    """
    try:
        content = json.loads(answer or "")
    except (ValueError, RecursionError):
        return False
    if isinstance(content, dict) and "predictions" in content:
        content = content["predictions"]
    left, has_any = [content], False
    while left:
        value = left.pop()
        if isinstance(value, (list, dict)):
            left += value.values() if isinstance(value, dict) else value
        elif value is None or (isinstance(value, float) and not math.isfinite(value)):
            has_any = True
        else:
            return False
    return has_any


def signature_from(content: Any) -> Signature | None:
    """Read a signature that is a part of other JSON; ValueError says what is wrong."""
    return None if content is None else Signature.from_json(json.dumps(content))


def read_measured(artifacts: Path) -> Measured | None:
    """Read an artefact folder's measured.json; None when there is none of today's format.

    Raises
    ------
    PackageError
        The file is not one that mmekit wrote.
    TextError
        It is longer than mmekit writes one.
    """
    file = artifacts / MEASURED_FILE
    try:
        content = json.loads(read_text(file))
        if content["format"] in _OLDER_FORMATS:
            return None
        return Measured.from_content(content)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise PackageError(
            f"The measurement cannot be read: {type(error).__name__}: {error}",
            where=str(file),
            remedy="measure again with `mme measure`",
        ) from error
