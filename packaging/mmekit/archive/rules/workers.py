"""Rules about workers, queues, batches and failures.

Sources: WorkerGroup.java, WorkerPool.java, ModelInfo.java and PyProcess.java of
deepjavalibrary/djl-serving at v0.36.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit.archive.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject


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
