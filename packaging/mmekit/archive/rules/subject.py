"""What rules look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from mmekit.archive.conventions import convention_of
from mmekit.archive.layers import asks_for_libraries, shared_names
from mmekit.archive.package import MODEL_FILE
from mmekit.archive.pickles import Pickled, read_pickle
from mmekit.archive.properties import FILE_NAME as PROPERTIES_FILE
from mmekit.archive.properties import Properties, PropertyLine, parse_entries, properties_of
from mmekit.archive.secret_search import search

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit.archive.contents import Contents, Member
    from mmekit.archive.conventions import Convention
    from mmekit.archive.layers import ArchiveLayer
    from mmekit.archive.measured import Measured
    from mmekit.archive.package import Example
    from mmekit.archive.secret_search import SecretsFound
    from mmekit.archive.stock_images import Image
    from mmekit_runtime.signature import Signature


@dataclass(frozen=True)
class Subject:
    """A package folder or an archive, as the rules see it.

    Attributes
    ----------
    contents
        Its files; for a package without its artefacts, only what a person wrote.
    is_archive
        Whether this is what a server gets. A package folder may still lack what packing adds.
    name
        The model's name, where there is one.
    measured
        What was observed, where that is known.
    image
        The container image to compare with; None when nothing is known about it.
    has_sample
        Whether there is a sample request; None where there need not be one.
    example
        The sample request, where it is a short text.
    measured_files
        Fingerprint of the files that ``measured`` should be about; None when it is not known.
    worker_slots
        Whether an archive has worker slots, or a package gets them when it is packed.
    layers
        The layers of an archive.
    libraries
        The files of the layer of libraries, by name, where they are at hand.
    has_artifacts
        Whether the artefacts are among the files, or in layers.
    is_one_of_many
        Whether its package has other models, too: its name then goes before the package's.
    """

    contents: Contents
    is_archive: bool
    image: Image | None
    name: str | None = None
    measured: Measured | None = None
    has_sample: bool | None = None
    measured_files: str | None = None
    example: Example | None = None
    worker_slots: bool = True
    layers: tuple[ArchiveLayer, ...] = ()
    libraries: Mapping[str, Member] = field(default_factory=dict)
    has_artifacts: bool = True
    is_one_of_many: bool = False

    @cached_property
    def entries(self) -> tuple[PropertyLine, ...]:
        """The lines of serving.properties that can be read."""
        text = self.contents.text(PROPERTIES_FILE, "latin-1")
        return parse_entries(text or "", skip_malformed=True)

    @cached_property
    def values(self) -> dict[str, str]:
        """The keys of serving.properties; the last one of a key counts."""
        return {entry.key: entry.value for entry in self.entries}

    @cached_property
    def properties(self) -> Properties:
        """The typed settings; what DJL cannot use counts as absent."""
        return properties_of(self.entries)

    @cached_property
    def convention(self) -> Convention | None:
        """What it was made for, when that is no ``handle`` in model.py."""
        return convention_of(self.contents, self.properties)

    @cached_property
    def pickled(self) -> tuple[Pickled, ...]:
        """What the files with pickled objects say about themselves."""
        found = (read_pickle(member) for member in self.contents)
        return tuple(pickled for pickled in found if pickled is not None)

    @cached_property
    def secrets(self) -> SecretsFound:
        """What looks like a secret in its texts."""
        return search(self.contents, self.entries, self.example)

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The names of the files that it shares with other models, of those that are at hand."""
        return shared_names(self.contents.files, self.properties)

    @cached_property
    def makes_libraries(self) -> bool:
        """Whether packing makes a layer of requirements.txt, so that nothing installs it."""
        return not self.is_archive and asks_for_libraries(self.properties)

    @property
    def has_layers(self) -> bool:
        """Whether an archive has layers, or a package gets them when it is packed."""
        return bool(self.layers or self.shared or self.makes_libraries)

    @cached_property
    def signature(self) -> Signature | None:
        """What the model takes and gives: signature.json, or what it told when it was measured."""
        told = None if self.measured is None else self.measured.signature
        return self.contents.signature or told

    @cached_property
    def code_file(self) -> str:
        """The file that runs, by name; it need not exist."""
        entry = self.properties.entry_point
        if self.convention is not None:
            return self.convention.script or MODEL_FILE
        if entry is None:
            return MODEL_FILE
        if entry.endswith(".py"):
            return entry
        return entry.replace(".", "/") + ".py"

    @cached_property
    def plain_engine_reason(self) -> str | None:
        """What makes every worker run the plain engine although slots are there, as the stub sees.

        None when workers become slots, and when there are none.
        """
        if not self.worker_slots:
            return None
        for key in ("async_mode", "enable_venv", "mpi_mode"):
            if self.properties.options.get(key, "").lower() == "true":
                return f"option.{key}"
        if any(name.startswith("MAR-INF/") for name in self.contents.files):
            return "MAR-INF"
        return None

    @cached_property
    def uses_slots(self) -> bool:
        """Whether workers become slots of one process."""
        return self.worker_slots and self.plain_engine_reason is None

    @cached_property
    def required_memory_mb(self) -> int | None:
        """The MiB that packing declares; None when nobody measured.

        With worker slots that is what one more model takes, otherwise a whole worker. What a model
        takes that preloads something else than was measured, nobody knows: it is a worker's then.
        """
        if self.measured is None:
            return None
        memory = self.measured.memory
        as_measured = self.uses_slots and "preload" not in self.properties.options
        return memory.required_with_slots_mb if as_measured else memory.required_mb

    def place(self, file: str, line: int | None = None) -> str:
        """Return what a finding says about where it is."""
        path = f"{self.contents.where}/{file}"
        return path if line is None else f"{path}:{line}"

    def place_of(self, key: str) -> str:
        """Return the place of a key in serving.properties."""
        lines = [entry.line for entry in self.entries if entry.key == key]
        return self.place(PROPERTIES_FILE, lines[-1] if lines else None)
