"""Loading many models of one package, each in a fork of a process with the libraries of one.

It takes a twentieth of a measurement and shows what no model shares with another: that it loads,
what it answers, and which columns it takes and gives. What else was measured of the one, memory and
libraries, holds for another only where loading it took the same modules and classes; what it took
more of memory is added.
"""

from __future__ import annotations

import json
import os
import select
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmekit.archive.measure import ObservedModel, job_of, own_answer, properties_in
from mmekit.archive.measured import is_nothing, signature_from
from mmekit.archive.measuring_process import DEFAULT_TIMEOUT_S
from mmekit.archive.staging import stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from threading import Event

    from mmekit.archive.contents import Contents
    from mmekit.archive.measured import Measured
    from mmekit.archive.measuring_process import MeasuringProcess
    from mmekit.archive.package import Package

_MIB = 1 << 20
_CHUNK = 1 << 16
_LOOK_S = 0.2
_START_S = 60.0  # besides, for the libraries


@dataclass(frozen=True)
class Seen:
    """What one model has shown in a fork.

    Attributes
    ----------
    classes, modules
        What its pickles asked for, and what it imported of libraries.
    forked
        Its private pages, in bytes.
    told
        Signature, answer and proof of batches, as the process wrote them down.
    more
        Bytes by which its private pages are more than those of the measured model in such a fork.
    """

    classes: tuple[str, ...]
    modules: tuple[str, ...]
    forked: int
    told: dict[str, Any]
    more: int = 0

    @classmethod
    def of(cls, line: dict[str, Any]) -> Seen | None:
        """Return what a line says; None for a model that failed."""
        if line.get("failure") is not None:
            return None
        told = {name: line[name] for name in ("signature", "answer", "proof")}
        return cls(tuple(line["classes"]), tuple(line["modules"]), int(line["forked"]), told)

    def beside(self, measured: Seen) -> Seen | None:
        """Return it beside the measured model; None where that needs other things than this.

        Two forks of one and the same model differ by megabytes (which pages of an allocator a
        library touches first is chance), so that a difference is added and not taken for another
        kind of model, unless it takes more than twice as much.
        """
        if (self.classes, self.modules) != (measured.classes, measured.modules):
            return None
        more = max(0, self.forked - measured.forked)
        return None if more > max(measured.forked, _MIB) else replace(self, more=more)

    def measured(self, package: Package, like: Measured, fingerprint: str) -> Measured | None:
        """Return a measurement with what is another's and what is its own; None if it is refused.

        An answer that depends on other requests is for a measurement of its own to say.
        """
        proof = self.told["proof"]
        if proof is not None and proof["difference"] is not None:
            return None
        signature = self.told["signature"]
        memory = like.memory
        return replace(
            like,
            fingerprint=fingerprint,
            # What it seems to take less stays: a model that is promised too little is killed.
            memory=replace(
                memory,
                proportional=memory.proportional + self.more,
                private=memory.private + self.more,
                peak=memory.peak + self.more,
                forked=None if memory.forked is None else memory.forked + self.more,
            ),
            unproven=None if proof is None else proof["unproven"],
            signature=signature_from(None if signature is None else json.loads(signature)),
            answer=own_answer(package, self.told["answer"]),
            answers_nothing=is_nothing(self.told["answer"]),
            measured_on=like.measured_on or like.fingerprint,
        )


def try_each(
    package: Package,
    like: Contents,
    measured: Measured,
    others: Sequence[Contents],
    scratch: Path,
    *,
    at_once: int = 1,
    stop: Event | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Iterator[tuple[int, Seen | None]]:
    """Load the measured model and others; yield each other's number and what it has shown.

    Parameters
    ----------
    like, measured
        The files of the model that was measured, and what was.
    others
        The files of the others.
    scratch
        A new folder to work in.
    at_once
        How many are loaded at a time.
    stop
        When it is set, StoppedError is raised.
    timeout_s
        Seconds for each of them.

    Yields
    ------
    tuple of int and Seen
        None for one that failed, or of which nothing was shown that may be relied on: it has to
        be measured by itself. Those that are not yielded have not been loaded.
    """
    observation = ObservedModel(package, like, scratch, stop)
    models = [_model(package, like, scratch / "first")]
    models += [_model(package, one, scratch / f"other-{i}") for i, one in enumerate(others)]
    reader, writer = os.pipe()
    task: dict[str, Any] = {
        "task": "siblings",
        "models": models,
        "preload": [name for name in measured.preload if name not in measured.threads],
        "libraries": dict(measured.libraries),
        "report": writer,
        "at_once": at_once,
        "timeout_s": timeout_s,
    }
    if measured.unshared is not None:
        task["shared"] = None
    with ExitStack() as ending:
        ending.callback(os.close, reader)
        try:
            process = observation.start(task, observation.fork_environment(), writer)
        finally:
            os.close(writer)
        ending.callback(process.wait, 0.0, str(package.folder))
        ending.callback(process.kill)
        first: Seen | None = None
        for line in _lines(reader, process, timeout_s + _START_S):
            seen = Seen.of(line)
            if line["number"] == 0:
                first = seen
                if first is None:
                    return
            elif first is not None:
                yield line["number"] - 1, None if seen is None else seen.beside(first)


def _model(package: Package, contents: Contents, scratch: Path) -> dict[str, Any]:
    properties = properties_in(contents)
    scratch.mkdir()
    staged = stage(contents, properties, scratch / "model", scratch / "shared")
    job = job_of(package, contents, properties)
    return {"folder": str(staged.folder), "different": job["different"]}


def _lines(reader: int, process: MeasuringProcess, patience_s: float) -> Iterator[dict[str, Any]]:
    """Yield what the process reports, until it ends or says nothing for too long."""
    text = b""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        process.expect_wanted()
        if not select.select([reader], [], [], _LOOK_S)[0]:
            continue
        chunk = os.read(reader, _CHUNK)
        if not chunk:
            return
        deadline = time.monotonic() + patience_s
        *lines, text = (text + chunk).split(b"\n")
        yield from map(json.loads, lines)
