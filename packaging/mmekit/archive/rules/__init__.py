"""The rules of `mmekit.archive.check`, in the order in which they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmekit.archive.rules import (
    entry_point,
    files,
    layers,
    libraries,
    settings,
    signature,
    source,
    spelling,
    top_level,
    workers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mmekit.archive.rules.subject import Subject
    from mmekit.findings import Finding

RULES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    settings.bad_values,
    settings.suspicious_lines,
    spelling.names,
    spelling.variables,
    spelling.quotes,
    settings.engine,
    settings.memory,
    settings.name,
    settings.interpreter,
    workers.numbers,
    workers.batches,
    workers.failures,
    workers.hook,
    workers.fallback,
    workers.own_fork_server,
    workers.slots,
    workers.processes,
    workers.park_after,
    workers.cores,
    workers.preload,
    workers.threads,
    workers.failure,
    entry_point.entry_point,
    entry_point.platforms,
    entry_point.functions,
    entry_point.model_format,
    source.syntax,
    source.handler,
    source.log_level,
    source.work_at_import,
    source.threads_at_import,
    source.state_in_globals,
    libraries.of_main,
    signature.readable,
    signature.present,
    signature.complete,
    signature.sample,
    libraries.requirements,
    libraries.missing,
    libraries.versions,
    libraries.python,
    layers.weights,
    layers.shared_files,
    layers.load_shared,
    layers.sharing,
    layers.own_path,
    layers.folder,
    layers.replaced,
    layers.complete,
    layers.wheels_fit,
    layers.compiled_files,
    top_level.hides_python,
    top_level.path_files,
    top_level.startup,
    files.secret_files,
    files.secret_texts,
    files.names,
    files.links,
    files.size,
    files.torchserve,
    files.samples,
    files.answers,
    files.batches,
    files.stale_measurement,
)

__all__ = ["RULES"]
