"""Packing many models of one package: a folder of artefact folders becomes a folder of archives.

One model is measured, and the others are tried in forks of a process with its libraries: what they
say of themselves is their own, and what they need and take is compared (`mmekit.archive.trial`).
Those that differ in more than numbers are measured, too.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmekit.archive.files import write_atomically
from mmekit.archive.likeness import Outline
from mmekit.archive.measure import fingerprint, observe
from mmekit.archive.measured import read_measured
from mmekit.archive.measuring_process import StoppedError
from mmekit.archive.pack import Packing
from mmekit.archive.package import MEASURED_FILE, read_package
from mmekit.archive.packed_series import PackedSeries, SeriesProgress
from mmekit.archive.record import Record
from mmekit.archive.stock_images import STOCK_IMAGE, Image
from mmekit.archive.sub_folders import sub_folders
from mmekit.archive.trial import try_each
from mmekit.errors import ArchiveError, MmekitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mmekit.archive.layers import PackedLayer
    from mmekit.archive.measured import Measured
    from mmekit.archive.rules.subject import Subject

_logger = logging.getLogger("mmekit.archive")

_MOST_TRIALS = 3  # of one model, after which it is measured


def pack_all(  # noqa: PLR0913 - what can be chosen about archives
    package: Path,
    artifacts_in: Path,
    output: Path,
    *,
    worker_slots: bool = True,
    layers: bool = False,
    thin: bool = False,
    compress: int | None = None,
    image: Image | None = STOCK_IMAGE,
    measure_each: bool = False,
    jobs: int | None = None,
    say: Callable[[str], object] = _logger.info,
    watch: Callable[[SeriesProgress], object] = bool,
) -> PackedSeries:
    """Pack every sub-folder of a folder as one model of a package, several at a time.

    Each archive has the bytes that `pack` makes of that sub-folder and its measured.json. An
    archive that is there and was made of the same inputs (by their digests, which are in
    ``.mme-pack.json`` beside the archives) stays as it is.

    Parameters
    ----------
    package
        The package folder.
    artifacts_in
        The folder whose sub-folders are artefact folders. A measured.json is written into each.
    output
        The folder for the archives: ``<name of the sub-folder>.tar.gz``.
    worker_slots, layers, thin, compress, image, say
        As for `pack`.
    measure_each
        Whether every model is measured by itself.
    jobs
        How many models are loaded or packed at a time; by default as many as there are processors.
    watch
        Is told how far it is, from several threads, one at a time.

    Returns
    -------
    PackedSeries
        A model that fails does not stop the others: it is among ``failures``.

    Raises
    ------
    PackageError
        The package cannot be used, or the folder has no sub-folder, or one whose name cannot be
        the key of an archive.
    KeyboardInterrupt
        It was interrupted. Archives that were finished stay, and no unfinished ones.
    """
    packing = Packing(
        read_package(Path(package)),
        worker_slots=worker_slots,
        layers=layers,
        thin=thin,
        compress=compress,
        image=image,
        say=say,
    )
    output = Path(output)
    found = sub_folders(Path(artifacts_in), output)
    jobs = jobs or _processors()
    with ExitStack() as ending:
        scratch = ending.enter_context(tempfile.TemporaryDirectory(prefix="mmekit-pack-"))
        record = Record.read(output, packing)
        ending.callback(record.save)
        series = _Series(
            packing, output, record, Path(scratch).resolve(), jobs, watch, measure_each
        )
        return series.run(found.folders, found.left_out)


@dataclass
class _Model:
    """One model of a series."""

    name: str
    folder: Path
    given: Subject
    fingerprint: str
    measured: Measured | None
    outline: Outline
    trials: int = 0
    twins: list[_Model] = field(default_factory=list)

    @property
    def can_be_followed(self) -> bool:
        """Whether others can be tried in forks of a process with its libraries."""
        measured = self.measured
        return (
            measured is not None
            and measured.measured_on is None
            and measured.memory.forked is not None
            and measured.fork_failure is None
            and measured.python == ".".join(map(str, sys.version_info[:3]))
        )


class _Series:
    def __init__(
        self,
        packing: Packing,
        output: Path,
        record: Record,
        scratch: Path,
        jobs: int,
        watch: Callable[[SeriesProgress], object],
        measure_each: bool,  # noqa: FBT001
    ) -> None:
        self._packing, self._output, self._record = packing, output, record
        self._scratch, self._jobs, self._watch = scratch, jobs, watch
        self._measure_each = measure_each
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(jobs, thread_name_prefix="mme-pack")
        self._futures: list[Future[Any]] = []
        self._libraries: dict[str, PackedLayer | None] = {}
        self._libraries_lock = threading.Lock()
        self._trials = 0
        self._progress = SeriesProgress(0)
        self._said: set[str] = set()
        self._result = PackedSeries()

    def run(self, folders: dict[str, Path], left_out: tuple[str, ...]) -> PackedSeries:
        self._progress = SeriesProgress(len(folders))
        self._watch(self._progress)
        try:
            prepared: list[_Model] = []
            for name, folder in folders.items():
                self._later(self._prepare, name, folder, prepared)
            self._finish()
            for group in self._groups(prepared):
                self._later(self._measure_group, group)
            self._finish()
        except BaseException:
            self._stop.set()
            raise
        finally:
            self._pool.shutdown(cancel_futures=True)
        return self._result.ordered(left_out)

    def _later(self, work: Callable[..., object], *arguments: Any) -> None:
        self._futures.append(self._pool.submit(work, *arguments))

    def _finish(self) -> None:
        """Wait for everything, that which is asked for meanwhile included."""
        while pending := [future for future in self._futures if not future.done()]:
            wait(pending)
        for future in self._futures:
            future.result()
        self._futures.clear()

    def _note(self, what: str, name: str, value: Any = None) -> None:
        """Write down what became of a model."""
        with self._lock:
            place = getattr(self._result, what)
            if isinstance(place, list):
                place.append(name)
            else:
                place[name] = value
            counter = "failed" if what == "failures" else what
            count = getattr(self._progress, counter) + 1
            self._progress = replace(self._progress, **{counter: count})
            self._watch(self._progress)

    def _fail(self, model: str, error: MmekitError | OSError) -> None:
        if isinstance(error, OSError):
            where = None if error.filename is None else str(error.filename)
            error = ArchiveError(error.strerror or str(error), where=where)
        with self._lock:
            is_new = error.what not in self._said
            self._said.add(error.what)
        if is_new:
            # At once: what is wrong with the first is often wrong with all of them.
            self._packing.say(f"{model} failed: {error}")
        self._note("failures", model, error)

    def _prepare(self, name: str, folder: Path, prepared: list[_Model]) -> None:
        """Read a model's folder; pack it at once if it was measured before."""
        if self._stop.is_set():
            return
        try:
            given = self._packing.given(folder)
            measured, print_ = read_measured(folder), fingerprint(given.contents)
            if measured is not None and measured.fingerprint != print_:
                measured = None
            outline = Outline.of(given.contents, given.shared)
        except (MmekitError, OSError) as error:
            self._fail(name, error)
            return
        model = _Model(name, folder, given, print_, measured, outline)
        if measured is not None and (measured.measured_on is None or not self._measure_each):
            prepared.append(model)
            self._later(self._pack, model)
            return
        model.measured = None
        try:
            # What can be seen without running it is said before it is run.
            self._packing.refuse_errors(given)
        except MmekitError as error:
            self._fail(name, error)
            return
        prepared.append(model)

    def _groups(self, prepared: Iterable[_Model]) -> list[list[_Model]]:
        """Return models whose files are alike, the largest first; a folder only once."""
        by_place: dict[Path, _Model] = {}
        for model in sorted(prepared, key=lambda one: one.name):
            first = by_place.setdefault(model.folder.resolve(), model)
            if first is not model and model.measured is None:
                first.twins.append(model)
        groups = defaultdict(list)
        for model in by_place.values():
            groups[model.outline.form].append(model)
        return [
            sorted(group, key=lambda one: -one.outline.size)
            for group in groups.values()
            if any(model.measured is None for model in group)
        ]

    def _measure_group(self, group: list[_Model]) -> None:
        left = [model for model in group if model.measured is None]
        followed = [model for model in group if model.can_be_followed]
        if self._measure_each:
            followed, each = [], left
        else:
            each = []
            for model in followed:
                left = self._try(model, left)
        while left and not self._measure_each and not self._stop.is_set():
            model, *left = left
            if not self._measure(model):
                continue
            if model.can_be_followed:
                left = self._try(model, left)
                each += [one for one in left if one.trials >= _MOST_TRIALS]
                left = [one for one in left if one.trials < _MOST_TRIALS]
            else:
                each, left = each + left, []
        for model in each:
            self._later(self._measure, model)

    def _try(self, like: _Model, left: list[_Model]) -> list[_Model]:
        """Have others take over what holds for them, too; return those that have to be measured."""
        others = [one for one in left if one.outline.is_like(like.outline)]
        if not others or like.measured is None:
            return left
        with self._lock:
            self._trials += 1
            scratch = self._scratch / f"trial-{self._trials}"
        scratch.mkdir()
        done = set()
        package = self._packing.package
        try:
            for number, seen in try_each(
                *(package, like.given.contents, like.measured),
                *([one.given.contents for one in others], scratch),
                at_once=self._jobs,
                stop=self._stop,
            ):
                model = others[number]
                model.trials += 1
                found = seen and seen.measured(package, like.measured, model.fingerprint)
                if found:
                    done.add(model.name)
                    self._keep(model, found, like.name)
        except StoppedError:
            return []
        except (MmekitError, OSError) as error:
            _logger.warning("%s: %s", like.name, error)
        for one in others:
            one.trials += one.name not in done
        return [one for one in left if one.name not in done]

    def _measure(self, model: _Model) -> bool:
        try:
            found = observe(self._packing.package, model.given.contents, stop=self._stop)
        except StoppedError:
            return False
        except (MmekitError, OSError) as error:
            for one in (model, *model.twins):
                self._fail(one.name, error)
            return False
        self._keep(model, found, None)
        return True

    def _keep(self, model: _Model, measured: Measured, like: str | None) -> None:
        try:
            write_atomically(model.folder / MEASURED_FILE, measured.to_json())
        except OSError as error:
            for one in (model, *model.twins):
                self._fail(one.name, error)
            return
        for one in (model, *model.twins):
            one.measured = measured
            self._note("measured" if like is None else "reused", one.name, like)
            self._later(self._pack, one)

    def _pack(self, model: _Model) -> None:
        """Write a model's archive, unless it is there."""
        if self._stop.is_set():
            return
        measured, output = model.measured, self._output / f"{model.name}.tar.gz"
        assert measured is not None  # noqa: S101 - it was measured by now
        try:
            inputs = self._record.inputs_of(model.given, measured)
            if self._record.has(output, inputs):
                self._note("unchanged", model.name)
                return
            libraries = self._libraries_of(model.given)
            packed = self._packing.write(model.given, measured, libraries, output, self._proceed)
            # requirements.lock may have been written by now.
            inputs = self._record.inputs_of(model.given, measured)
            self._record.note(packed, inputs)
        except StoppedError:
            return
        except (MmekitError, OSError) as error:
            self._fail(model.name, error)
            return
        self._note("packed", model.name, packed)

    def _libraries_of(self, given: Subject) -> PackedLayer | None:
        """Return the layer of libraries, which models with the same requirements have once."""
        if not self._packing.makes_libraries(given):
            return None
        key = self._record.requirements_of(given)
        with self._libraries_lock:
            if key not in self._libraries:
                scratch = self._scratch / f"libraries-{len(self._libraries)}"
                scratch.mkdir()
                self._libraries[key] = self._packing.libraries(given, scratch)
            return self._libraries[key]

    def _proceed(self) -> None:
        if self._stop.is_set():
            raise StoppedError


def _processors() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
