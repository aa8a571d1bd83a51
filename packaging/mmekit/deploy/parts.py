"""The parts of a deployment file: a model or many, autoscaling, alarms, network, roll-out."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

__all__ = [
    "FETCHED_TO",
    "Alarms",
    "AllAtOnce",
    "Autoscaling",
    "Canary",
    "Linear",
    "ModelEntry",
    "Network",
    "Part",
    "Rollout",
    "WarmUp",
    "is_key",
]

FETCHED_TO = ("build", "registry")
"""The folder of what is fetched from the model registry, unless the file says another."""

_KEY = r"^[A-Za-z0-9_!.*'()-][A-Za-z0-9_!.*'()/-]*\.tar\.gz$"
_GROUP = r"^[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}$"
_MODEL_PACKAGE = r"^arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{12}:model-package/[a-zA-Z0-9-]+(/\d+)?$"
_SNS = r"^arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[\w-]+(\.fifo)?$"
_SUBNET = r"^subnet-[0-9a-f]+$"
_SECURITY_GROUP = r"^sg-[0-9a-f]+$"
_MAGIC = frozenset("*?[")
_HOURS = 8  # MaximumExecutionTimeoutInSeconds


class Part(BaseModel):
    """A mapping in the file, whose fields are those that are named here and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, str_strip_whitespace=True)


def is_key(text: str) -> bool:
    """Say whether a text can be a key under the prefix."""
    return re.fullmatch(_KEY, text) is not None


class ModelEntry(Part):
    """A model or many: their archives, and what those are packed from.

    Attributes
    ----------
    archive
        The .tar.gz; a folder of them, or a pattern such as build/archives/*.tar.gz. None where
        `archives` says it.
    key
        Its key under the prefix, which is the target model. The archive's name unless it is given;
        of many archives it cannot be given.
    package, artifacts
        The folders to pack from, when the archive is absent or stale.
    artifacts_in, archives
        Instead: a folder with the artefacts of a model in each of its folders, and the folder for
        the archives, which are named after those.
    model_package_group, model_package
        Instead of folders: the newest approved model package of a group of SageMaker's model
        registry, or one by its ARN. Its archive is fetched to `archive`, which is
        ``build/registry/GROUP.tar.gz`` unless it is given.
    """

    archive: Path | None = None
    key: Annotated[str, StringConstraints(pattern=_KEY, max_length=900)] = ""
    package: Path | None = None
    artifacts: Path | None = None
    artifacts_in: Path | None = None
    archives: Path | None = None
    model_package_group: Annotated[str, StringConstraints(pattern=_GROUP)] | None = None
    model_package: Annotated[str, StringConstraints(pattern=_MODEL_PACKAGE)] | None = None
    _folder: Path = PrivateAttr(default=Path())

    def model_post_init(self, context: Any) -> None:
        """Keep the file's folder: of a path, only what the file says can be a pattern."""
        self._folder = _folder_of(context)

    @model_validator(mode="before")
    @classmethod
    def _name_the_key(cls, given: Any, info: ValidationInfo) -> Any:
        if isinstance(given, str):
            given = {"archive": given}
        if isinstance(given, dict) and not given.get("archive"):
            # One that is registered has the name of its group, unless the file gives another.
            named = given.get("model_package_group") or given.get("model_package") or ""
            group = str(named).partition(":model-package/")[2].partition("/")[0] or str(named)
            if group:
                given = {**given, "archive": f"{'/'.join(FETCHED_TO)}/{group}.tar.gz"}
        if not isinstance(given, dict) or "key" in given or not given.get("archive"):
            return given
        archive = Path(str(given["archive"])).expanduser()
        file = Path(_folder_of(info.context), archive)
        if file.is_dir() or (_is_magic(archive) and not file.is_file()):
            return given
        return {**given, "key": archive.name}

    @field_validator("archive", "package", "artifacts", "artifacts_in", "archives")
    @classmethod
    def _beside_the_file(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return None if path is None else Path(_folder_of(info.context), path.expanduser())

    @model_validator(mode="after")
    def _is_whole(self) -> ModelEntry:
        if self.model_package_group or self.model_package:
            folders = (self.package, self.artifacts, self.artifacts_in, self.archives)
            if any(folders) or (self.model_package_group and self.model_package) or self.is_many:
                raise ValueError(
                    "model_package_group and model_package stand alone, beside `archive` and `key`"
                )
            return self
        if self.artifacts_in is not None or self.archives is not None:
            named = (self.package, self.artifacts_in, self.archives)
            if None in named or self.archive or self.artifacts or self.key:
                raise ValueError(
                    "package, artifacts_in and archives belong together and stand alone: each "
                    "folder in artifacts_in becomes an archive of its name in archives"
                )
            return self
        if self.archive is None:
            raise ValueError("name its archive: a .tar.gz, a pattern, or a folder of them")
        if self.artifacts is not None and self.package is None:
            raise ValueError("artifacts without package: name the package folder too")
        if self.is_many and (self.artifacts or self.key):
            raise ValueError(
                "key and artifacts are of one archive, and this stands for many; pack many with "
                "package, artifacts_in and archives"
            )
        return self

    @property
    def pattern(self) -> tuple[Path, str] | None:
        """Return a folder, and what its archives have to match; None for what is no pattern."""
        if self.archive is None or self.archive.is_file():
            return None
        inside = self.archive.is_relative_to(self._folder)
        said = self.archive.relative_to(self._folder) if inside else self.archive
        return (self._folder, str(said)) if _is_magic(said) else None

    @property
    def is_many(self) -> bool:
        """Return whether it stands for as many models as there are archives, or artefacts."""
        if self.archive is None:
            return True
        return self.pattern is not None or self.archive.is_dir()

    @property
    def packs(self) -> bool:
        """Return whether there are artefacts to pack from."""
        return self.artifacts is not None or self.artifacts_in is not None


def _folder_of(context: Any) -> Path:
    return Path((context or {}).get("folder", Path()))


def _is_magic(path: Path) -> bool:
    return not _MAGIC.isdisjoint(str(path))


class Autoscaling(Part):
    """Target tracking on the invocations an instance gets in a minute.

    Attributes
    ----------
    minimum, maximum
        How many instances there are at least and at most.
    invocations_per_instance
        A minute: with more, instances are added; with clearly fewer, removed.
    scale_out_cooldown, scale_in_cooldown
        Seconds after a change in which there is no other.
    """

    minimum: Annotated[int, Field(ge=1)] = 1
    maximum: Annotated[int, Field(ge=1)]
    invocations_per_instance: Annotated[float, Field(gt=0)]
    scale_out_cooldown: Annotated[int, Field(ge=0)] = 60
    scale_in_cooldown: Annotated[int, Field(ge=0)] = 300

    @model_validator(mode="after")
    def _in_order(self) -> Autoscaling:
        if self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is less than minimum {self.minimum}")
        return self


class Alarms(Part):
    """What is too much.

    Attributes
    ----------
    errors_5xx
        So many answers of the kind 5xx in five minutes.
    latency_ms
        The slowest hundredth of the invocations takes longer, for 15 minutes.
    memory_percent, disk_percent
        More of an instance's is used, for ten minutes.
    notify
        SNS topics that are told when an alarm begins and when it ends.
    """

    errors_5xx: Annotated[int, Field(ge=1)] = 5
    latency_ms: Annotated[float, Field(gt=0)] = 1000
    memory_percent: Annotated[float, Field(gt=0, le=100)] = 85
    disk_percent: Annotated[float, Field(gt=0, le=100)] = 85
    notify: tuple[Annotated[str, StringConstraints(pattern=_SNS)], ...] = ()


class Network(Part):
    """The private network that the instances are attached to."""

    subnets: tuple[Annotated[str, StringConstraints(pattern=_SUBNET)], ...] = Field(min_length=1)
    security_groups: tuple[Annotated[str, StringConstraints(pattern=_SECURITY_GROUP)], ...] = Field(
        min_length=1
    )


class AllAtOnce(Part):
    """All traffic moves at once, and is watched.

    Attributes
    ----------
    wait_minutes
        How long the alarms are watched then.
    """

    wait_minutes: Annotated[float, Field(ge=0, le=60)] = 10


class Canary(Part):
    """A part of the traffic goes first, then the rest.

    Attributes
    ----------
    percent, instances
        How much that part is, one of the two: at most half.
    wait_minutes
        How long the alarms are watched after each of the two steps.
    """

    percent: Annotated[int, Field(ge=1, le=50)] | None = None
    instances: Annotated[int, Field(ge=1)] | None = None
    wait_minutes: Annotated[float, Field(ge=0, le=60)] = 10

    @model_validator(mode="after")
    def _has_one_size(self) -> Canary:
        if (self.percent is None) == (self.instances is None):
            raise ValueError("give a canary percent or instances, one of them")
        return self


class Linear(Part):
    """The traffic moves part by part.

    Attributes
    ----------
    percent
        How much each part is.
    wait_minutes
        How long the alarms are watched after each part.
    """

    percent: Annotated[int, Field(ge=10, le=50)]
    wait_minutes: Annotated[float, Field(ge=0, le=60)] = 10


class Rollout(Part):
    """How traffic moves to new instances, and when it goes back.

    Attributes
    ----------
    all_at_once, canary, linear
        One of them.
    keep_old_minutes
        How long the old instances are kept after that, to go back to.
    """

    all_at_once: AllAtOnce | None = None
    canary: Canary | None = None
    linear: Linear | None = None
    keep_old_minutes: Annotated[float, Field(ge=0, le=60)] = 0

    @model_validator(mode="after")
    def _is_one_kind(self) -> Rollout:
        if sum(one is not None for one in (self.all_at_once, self.canary, self.linear)) != 1:
            raise ValueError("give all_at_once, canary or linear, one of them")
        if self.minutes >= _HOURS * 60:
            raise ValueError(
                f"it waits for {self.minutes:g} minutes in all, and SageMaker ends a deployment "
                f"after {_HOURS} hours; choose fewer steps or shorter waits"
            )
        return self

    @property
    def steps(self) -> int:
        """Return in how many steps the traffic moves."""
        if self.linear is not None:
            return math.ceil(100 / self.linear.percent)
        return 1 if self.canary is None else 2

    @property
    def wait_minutes(self) -> float:
        """Return how long it waits after each step."""
        kinds = (self.all_at_once, self.canary, self.linear)
        return next(one.wait_minutes for one in kinds if one is not None)

    @property
    def minutes(self) -> float:
        """Return how long it waits in all."""
        return self.steps * self.wait_minutes + self.keep_old_minutes


class WarmUp(Part):
    """Models are asked once after a deployment that gave new instances, within a budget.

    Attributes
    ----------
    seconds
        How long that may take.
    models
        How many at most.
    requests
        How many at most; None for four a model and instance, or 64 where that is more.
    """

    seconds: Annotated[float, Field(gt=0, le=3600)] = 60
    models: Annotated[int, Field(ge=1)] = 50
    requests: Annotated[int, Field(ge=1)] | None = None
