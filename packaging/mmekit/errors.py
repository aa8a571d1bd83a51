"""Every exception that mmekit raises on purpose.

::

    MmekitError
    ├── SettingsError              a setting is missing or makes no sense
    ├── ProjectError               a project folder cannot be made
    ├── PackageError               a package folder cannot be used as it is
    │   ├── PropertiesError        serving.properties cannot be read
    │   ├── TextError              a text file is longer than anybody writes one
    │   ├── LibrariesError         requirements.txt cannot be made a layer of libraries
    │   ├── CheckError             `mme check` calls something an error; carries the findings
    │   └── MeasureError           the model could not be loaded in order to measure it
    │       └── BatchError         its answers depend on the requests that are answered with them
    ├── ArchiveError               an archive cannot be used as it is
    │   ├── UnsafeArchiveError     unpacking it would write where or what it must not
    │   │   └── BudgetError        reading it would cost more than a limit allows; says which
    │   └── ManifestError          its manifest is missing, unreadable or contradicted by its files
    ├── MissingExtraError          a library is missing that only some commands need
    ├── EngineError                DJL's Python engine cannot be fetched or found
    ├── ServerError                the embedded server cannot start or go on
    │   └── ModelLoadError         a model could not be loaded
    ├── EndpointError              the local endpoint cannot start or go on
    ├── ImageError                 a container image cannot be looked up, run, built or pushed
    ├── DeployError                a deployment cannot be read, planned, made or removed
    └── DemoError                  a notebook of the demonstration failed

Each says what happened, where (a file, a model, a setting) and what to do about it. The command
line prints these three and no traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.findings import Finding

__all__ = [
    "ArchiveError",
    "BatchError",
    "BudgetError",
    "CheckError",
    "DemoError",
    "DeployError",
    "EndpointError",
    "EngineError",
    "ImageError",
    "LibrariesError",
    "ManifestError",
    "MeasureError",
    "MissingExtraError",
    "MmekitError",
    "ModelLoadError",
    "PackageError",
    "ProjectError",
    "PropertiesError",
    "ServerError",
    "SettingsError",
    "TextError",
    "UnsafeArchiveError",
]


class MmekitError(Exception):
    """What every error of mmekit has in common.

    Parameters
    ----------
    what
        What happened, as one sentence.
    where
        The file, model or setting it happened to.
    remedy
        What the reader can do about it.

    Examples
    --------
    >>> print(MmekitError("The port is taken.", where="127.0.0.1:8950", remedy="Choose another."))
    The port is taken.
      where: 127.0.0.1:8950
      remedy: Choose another.
    """

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        """Return all three parts, a line each."""
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.remedy is not None:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


class SettingsError(MmekitError):
    """A setting is missing or makes no sense."""


class ProjectError(MmekitError):
    """A project folder cannot be made."""


class PackageError(MmekitError):
    """A package folder cannot be used as it is."""


class PropertiesError(PackageError):
    """serving.properties cannot be read."""


class TextError(PackageError):
    """A text file is longer than anybody writes one, and is not read."""


class LibrariesError(PackageError):
    """What requirements.txt asks for cannot be resolved, fetched or made a layer."""


class CheckError(PackageError):
    """Something that `mme check` calls an error stands in the way.

    Parameters
    ----------
    findings
        All findings of the check, those that are no errors included.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        findings: Sequence[Finding] = (),
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.findings = tuple(findings)


class MeasureError(PackageError):
    """The model could not be loaded in order to measure it."""


class BatchError(MeasureError):
    """The model answers a request differently when others are answered in the same call."""


class ArchiveError(MmekitError):
    """An archive cannot be used as it is."""


class UnsafeArchiveError(ArchiveError):
    """Unpacking the archive would write where, or what, it must not."""


class BudgetError(UnsafeArchiveError):
    """Reading the archive would cost more than a limit allows.

    Parameters
    ----------
    limit
        Which one: an attribute of `mmekit.archive.Limits`, or ``packed`` for an archive that is
        larger than what comes out of it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        limit: str = "",
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.limit = limit


class ManifestError(ArchiveError):
    """The manifest is missing, unreadable or contradicted by the files."""


class MissingExtraError(MmekitError):
    """A library is not installed that only some of the commands need.

    Parameters
    ----------
    extra
        The extra of mmekit that brings it, or several with commas between; empty where the library
        itself is to be installed.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        extra: str = "",
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.extra = extra


class EngineError(MmekitError):
    """DJL's Python engine cannot be fetched or found."""


class ServerError(MmekitError):
    """The embedded server cannot start or go on."""


class ModelLoadError(ServerError):
    """A model could not be loaded."""


class EndpointError(MmekitError):
    """The local endpoint cannot start or go on."""


class ImageError(MmekitError):
    """A container image cannot be looked up, run, built or pushed."""


class DeployError(MmekitError):
    """A deployment cannot be read, planned, made or removed."""


class DemoError(MmekitError):
    """A notebook of the demonstration failed."""
