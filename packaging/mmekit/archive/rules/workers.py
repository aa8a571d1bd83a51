"""Rules about workers: queues, batches and failures, and worker slots.

Sources: WorkerGroup.java, WorkerPool.java, ModelInfo.java, PyProcess.java and PyModel.java of
deepjavalibrary/djl-serving at v0.36.0; for slots mmekit_runtime/slots/stub.py and settings.py,
which decide in the container.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import TYPE_CHECKING

from mmekit.archive.package import REQUIREMENTS_FILE
from mmekit.archive.requirements import parse_requirements, remaining
from mmekit.archive.runtime import HOOK_FILE
from mmekit.findings import Finding
from mmekit_runtime.slots.settings import PARK_AFTER_S, PROCESSES, SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.measured import Measured
    from mmekit.archive.rules.subject import Subject
_FEW_SLOTS = 8
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_THREADS = "OMP_NUM_THREADS"
# OpenMP takes a list, too: a number for each level of nested regions.
_NUMBERS = re.compile(r" *0*[1-9][0-9]{0,3} *(, *0*[1-9][0-9]{0,3} *)*")


def numbers(subject: Subject) -> Iterator[Finding]:
    """Expect a sensible number of workers."""
    least, most = subject.properties.min_workers, subject.properties.max_workers
    if most is None and "maxWorkers" in subject.values:
        yield Finding(
            "warning",
            "max-workers-ignored",
            "DJL Serving ignores a maxWorkers below 1 and uses the number of cores.",
            "Write a number from 1.",
            subject.place_of("maxWorkers"),
        )
    if least is not None and least < 1:
        yield Finding(
            "warning",
            "no-worker-at-load",
            f"With minWorkers={least} the load starts no process: a model that cannot load is "
            "reported as loaded, and the first request pays for the start.",
            "Write minWorkers=1.",
            subject.place_of("minWorkers"),
        )
    if least is not None and most is not None and least > most:
        yield Finding(
            "warning",
            "workers-contradict",
            f"minWorkers={least} is more than maxWorkers={most}: the server uses {most} for both.",
            "Make minWorkers at most maxWorkers.",
            subject.place_of("minWorkers"),
        )
    # A slot is no process: rules.slots has what is to be said about their number.
    if most is not None and most > 1 and not subject.uses_slots:
        each = ""
        if subject.measured is not None:
            each = f" of {subject.measured.memory.required_mb} MiB"
        yield Finding(
            "note",
            "memory-of-workers",
            f"Up to {most} workers means up to {most} processes{each} each with a copy of the "
            "model; memory is checked for one, when the model is loaded.",
            "Keep maxWorkers low unless one process cannot answer fast enough.",
            subject.place_of("maxWorkers"),
        )
    if subject.properties.max_idle_time_s < 1:
        yield Finding(
            "warning",
            "idle-time-too-short",
            "With max_idle_time below 1, a worker above minWorkers ends as soon as it waits.",
            "Write seconds, such as max_idle_time=60.",
            subject.place_of("max_idle_time"),
        )


def batches(subject: Subject) -> Iterator[Finding]:
    """Expect a queue, and batches of one request."""
    properties = subject.properties
    if properties.job_queue_size < 1:
        yield Finding(
            "error",
            "queue-too-short",
            "A queue has to hold at least one request; otherwise the load fails with 409.",
            "Write job_queue_size=1000, or remove the line.",
            subject.place_of("job_queue_size"),
        )
    if properties.batch_size > 1:
        yield Finding(
            "warning",
            "batch-shares-status",
            f"With batch_size={properties.batch_size} one batch has one status and one set of "
            "headers: a bad request among good ones cannot have a 400 of its own.",
            "Remove batch_size; with worker slots waiting requests are answered together, each "
            "with a status of its own.",
            subject.place_of("batch_size"),
        )
    if properties.batch_size < 1:
        yield Finding(
            "error",
            "batch-too-small",
            "A batch has to hold at least one request.",
            "Remove batch_size.",
            subject.place_of("batch_size"),
        )


def failures(subject: Subject) -> Iterator[Finding]:
    """Expect one time-out not to end everything."""
    threshold = subject.properties.retry_threshold
    if threshold is None and subject.uses_slots and not subject.is_archive:
        # Packing adds it.
        return
    if (threshold or 0) < 1:
        yield Finding(
            "note",
            "first-failure-is-final",
            "By default one time-out or dead worker marks the model FAILED, and /ping answers "
            "500 while any model is: SageMaker may replace the instance.",
            "Add retry_threshold=10, the default of releases up to 0.29, unless you want that.",
            subject.place_of("retry_threshold"),
        )


def hook(subject: Subject) -> Iterator[Finding]:
    """Expect no sitecustomize.py: with worker slots or layers, packing puts its own there."""
    if (subject.worker_slots or subject.has_layers) and HOOK_FILE in subject.contents:
        otherwise = "" if subject.has_layers else ", or pack with --no-worker-slots"
        yield Finding(
            "error",
            "site-hook-taken",
            f"There is a {HOOK_FILE} already. Python imports one file of that name when it starts, "
            "and with worker slots it is the one that turns a worker into a slot, with layers the "
            "one that gets them.",
            f"Move its code to the top of model.py{otherwise}.",
            subject.place(HOOK_FILE),
        )


def fallback(subject: Subject) -> Iterator[Finding]:
    """Expect nothing that makes every worker run the plain engine."""
    reason = subject.plain_engine_reason
    if reason is None:
        return
    where = subject.place(reason) if reason == "MAR-INF" else subject.place_of(reason)
    yield Finding(
        "warning",
        "slots-unused",
        f"With {reason} no worker becomes a slot: the plain engine runs, and every worker is a "
        "process with the libraries and the model of its own.",
        f"Remove {reason}, or pack with --no-worker-slots.",
        where,
    )


def own_fork_server(subject: Subject) -> Iterator[Finding]:
    """Expect a model to share the fork server, and so the imported libraries, with others."""
    if not subject.uses_slots:
        return
    # Imported, as the container asks the same function; it is standard library only.
    from mmekit_runtime.slots.keys import sharing_key

    reasons = []
    lines = parse_requirements(subject.contents.text(REQUIREMENTS_FILE) or "")
    if remaining(lines, subject.image):
        reasons.append(f"its {REQUIREMENTS_FILE} is installed first")
    if subject.properties.python_executable is not None:
        reasons.append("option.pythonExecutable names another Python")
    env = subject.properties.env
    differing = [name for name in env if sharing_key({name: env[name]}, "") != sharing_key({}, "")]
    if differing:
        reasons.append(f"libraries read {', '.join(differing)} when they are imported")
    if reasons:
        yield Finding(
            "note",
            "own-fork-server",
            f"This model shares a fork server only with models that have just the same: "
            f"{'; '.join(reasons)}. The first of them imports its libraries once more, and they "
            "are in memory once more.",
            "Set what all models need in the image or in the container's environment.",
            subject.contents.where,
        )


def slots(subject: Subject) -> Iterator[Finding]:
    """Expect one slot at load and many under load."""
    least, most = subject.properties.min_workers, subject.properties.max_workers
    if not subject.uses_slots:
        return
    if most is not None and most < _FEW_SLOTS:
        yield Finding(
            "warning",
            "few-slots",
            f"With maxWorkers={most} at most {most} requests reach the model at once. With worker "
            "slots throughput comes from many: they wait in one process, which answers them "
            "together, and a slot costs 0.1 MiB, not a process.",
            "Write maxWorkers=16, or remove the line and packing adds it.",
            subject.place_of("maxWorkers"),
        )
    if least is not None and least > 1:
        yield Finding(
            "note",
            "many-slots-at-load",
            f"With minWorkers={least} the load waits for {least} slots, and they stay while the "
            "model is idle. DJL Serving opens more under load by itself, each in some 30 ms.",
            "Write minWorkers=1.",
            subject.place_of("minWorkers"),
        )


def processes(subject: Subject) -> Iterator[Finding]:
    """Expect option.processes to be a number from 1, or auto."""
    text = _processes(subject)
    if text is None:
        return
    where = subject.place_of("option.processes")
    if not PROCESSES.fullmatch(text):
        yield Finding(
            "warning",
            "processes-ignored",
            f"option.processes is {text!r}, but may only be a whole number from 1, or auto: it is "
            "ignored, and the slots have as many processes as their requests need.",
            "Write option.processes=1 for a single process, or remove the line.",
            where,
        )
    elif subject.uses_slots and text != "auto" and _are_several(text):
        forked = None if subject.measured is None else subject.measured.memory.forked_mb
        each = "" if forked is None else f", {forked} MiB each"
        yield Finding(
            "note",
            "processes-copy-the-model",
            f"The slots are spread over {text} processes, each with a copy of the model{each}; "
            "memory is checked for one, when the model is loaded.",
            "Remove the line, and there are as many as requests need at the moment.",
            where,
        )


def park_after(subject: Subject) -> Iterator[Finding]:
    """Expect option.park_after to be a number of seconds."""
    text = subject.properties.options.get("park_after")
    if text is not None and not SECONDS.fullmatch(text.strip()):
        yield Finding(
            "warning",
            "park-after-ignored",
            f"option.park_after is {text!r}, but may only be a number of seconds: it is ignored, "
            f"and an idle model parks after {PARK_AFTER_S:.0f} s.",
            "Write option.park_after=0 if it must never park, or remove the line.",
            subject.place_of("option.park_after"),
        )


def _processes(subject: Subject) -> str | None:
    text = subject.properties.options.get("processes")
    return None if text is None else text.strip()  # as the container reads it


def _are_several(processes: str) -> bool:
    valid = PROCESSES.fullmatch(processes) is not None
    return valid and (processes == "auto" or int(processes) > 1)


def _computes_with_torch(measured: Measured) -> bool:
    """Whether torch is there for the model: importing skops brings it in for nothing."""
    if "torch" not in measured.imports:
        return False
    users = {"transformers", "sentence_transformers", "setfit"} & set(measured.imports)
    return "torch" in measured.required or bool(users) or "skops" not in measured.imports


def cores(subject: Subject) -> Iterator[Finding]:
    """Expect a model that can use several cores to say how many it shall use."""
    if not subject.uses_slots:
        return
    number = subject.properties.env.get(_THREADS)
    processes = _processes(subject) or "1"
    has_processes = _are_several(processes)
    if number is not None and not _NUMBERS.fullmatch(number):
        yield Finding(
            "warning",
            "threads-ignored",
            f"{_THREADS} is {number!r}, which is no number from 1: libraries ignore it, and take "
            "as many threads as there are cores.",
            f"Write {_THREADS}=2 in option.env, or as many as one model may use cores.",
            subject.place_of("option.env"),
        )
        return
    has_torch = subject.measured is not None and _computes_with_torch(subject.measured)
    other = subject.properties.env.get("MKL_NUM_THREADS")  # torch takes it where it is set
    if number is None and other is None and has_torch and not has_processes:
        yield Finding(
            "note",
            "one-core",
            f"Torch uses one core in each process of this model, as DJL Serving starts its workers "
            f"with {_THREADS}=1; for a second core there has to be a second process, with a copy "
            "of the model.",
            f"Add {_THREADS}=2,GOMP_SPINCOUNT=1000 to option.env, with as many threads as one "
            "model may use cores; or set both in the container's environment, where models that "
            "differ in nothing else go on sharing the imported libraries. (The second keeps "
            "threads from waiting actively for long, which costs other models their time.)",
            subject.contents.where,
        )
    elif number is not None and number.strip().lstrip("0") != "1" and has_processes:
        yield Finding(
            "warning",
            "threads-in-processes",
            f"option.processes={processes} with {_THREADS}={number}: each process has so many "
            "threads. More than there are cores wait for each other, and answers take several "
            "times as long.",
            f"Remove one of the two. {_THREADS} needs no memory; option.processes is for "
            "prediction in pure Python.",
            subject.place_of("option.processes"),
        )


def preload(subject: Subject) -> Iterator[Finding]:
    """Expect option.preload to name modules that can be there."""
    text = subject.properties.options.get("preload")
    if text is None or text == "none":
        return
    for piece in text.split(","):
        name = piece.strip()
        problem = _problem_of_module(subject, name)
        if problem is not None:
            yield Finding(
                "warning",
                "preload-unknown",
                f"option.preload names {name!r}, {problem}: it is not imported before the fork.",
                "Name modules of libraries, separated by commas, or write none; without the line, "
                "what was measured is preloaded.",
                subject.place_of("option.preload"),
            )


def threads(subject: Subject) -> Iterator[Finding]:
    """Expect imports that start no threads: a process with threads cannot be forked."""
    if subject.measured is None or not _preloads_what_was_measured(subject):
        return
    started = subject.measured.threads
    if started:
        named = ", ".join(f"{name} ({count})" for name, count in started.items())
        yield Finding(
            "note",
            "import-starts-threads",
            f"Importing {named} starts threads, and a process with threads cannot be forked: they "
            "are not preloaded, and every load of this model imports them.",
            "Leave the library out if the model can do without it, or stop its threads with a "
            "variable in the container's environment.",
            subject.contents.where,
        )


def failure(subject: Subject) -> Iterator[Finding]:
    """Expect a model that can be loaded in a forked process."""
    if subject.measured is None or not _preloads_what_was_measured(subject):
        return
    reason = subject.measured.fork_failure
    if reason is not None:
        yield Finding(
            "error",
            "fails-when-forked",
            f"In a process of its own the model answered; in one forked after its imports it "
            f"failed: {reason}",
            "Add option.preload=none, so that nothing is imported before the fork, or pack with "
            "--no-worker-slots.",
            subject.contents.where,
        )


def _preloads_what_was_measured(subject: Subject) -> bool:
    return subject.uses_slots and "preload" not in subject.properties.options


def _problem_of_module(subject: Subject, name: str) -> str | None:
    if not _MODULE.fullmatch(name):
        return "which is no name of a module"
    top_level = name.partition(".")[0]
    if f"{top_level}.py" in subject.contents or f"{top_level}/__init__.py" in subject.contents:
        return "which is the model's own: it is not there before the model is"
    if top_level in sys.stdlib_module_names:
        return None
    if subject.measured is not None and top_level in subject.measured.imports:
        return None
    try:
        is_installed = importlib.util.find_spec(top_level) is not None
    except (ImportError, ValueError):
        is_installed = False
    return None if is_installed else "which the model does not import and is not installed here"
