"""What whoever deploys may choose, and within which limits."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Alarms",
    "ChoiceError",
    "Instances",
    "archives_in",
    "checked_metrics",
    "checked_name",
    "checked_prefix",
    "layers_in",
]

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_INSTANCE_TYPE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9]+")
_LAYER = re.compile(r"[0-9a-f]{64}\.tar\.gz")
_METRICS = ("none", "endpoint", "models")
_PREFIX = re.compile(r"[\w.-]+(/[\w.-]+)*/?")


class ChoiceError(ValueError):
    """Something chosen cannot be; the message says what to do about it."""


@dataclass(frozen=True)
class Instances:
    """What the endpoint runs on.

    Parameters
    ----------
    type
        Such as ``ml.m6i.large``.
    least, most
        Between them autoscaling moves.
    invocations
        A minute and instance, that autoscaling aims at.
    """

    type: str = "ml.m6i.large"
    least: int = 1
    most: int = 2
    invocations: int = 600

    def __post_init__(self) -> None:
        """Check them."""
        if _INSTANCE_TYPE.fullmatch(self.type) is None:
            raise ChoiceError(
                f"{self.type!r} is no instance type of SageMaker hosting; "
                "choose one such as ml.m6i.large."
            )
        if not 1 <= self.least <= self.most:
            raise ChoiceError(
                f"{self.least} to {self.most} instances cannot be: choose at least 1, and no fewer "
                "at most than at least."
            )
        if self.invocations < 1:
            raise ChoiceError(f"{self.invocations} invocations an instance cannot be aimed at.")


@dataclass(frozen=True)
class Alarms:
    """When somebody is to look.

    Parameters
    ----------
    errors
        Answers of the kind 5xx in five minutes.
    latency_ms
        Of the slowest hundredth of the calls.
    memory_percent, disk_percent
        How full.
    topic_arn
        The SNS topic that is told; None for none.
    """

    errors: int = 5
    latency_ms: int = 1000
    memory_percent: int = 85
    disk_percent: int = 85
    topic_arn: str | None = None

    def __post_init__(self) -> None:
        """Check them."""
        for name, value, most in (
            ("errors", self.errors, 10**9),
            ("latency_ms", self.latency_ms, 60_000),
            ("memory_percent", self.memory_percent, 100),
            ("disk_percent", self.disk_percent, 100),
        ):
            if not 1 <= value <= most:
                raise ChoiceError(f"{name} is {value}; choose 1 to {most}.")


def checked_name(name: str) -> str:
    """Return an endpoint's name, if it is one."""
    if _NAME.fullmatch(name) is None:
        raise ChoiceError(
            f"{name!r} is no name of an endpoint: choose 1 to 63 letters, digits and hyphens, "
            "with no hyphen at either end."
        )
    return name


def checked_metrics(metrics: str) -> str:
    """Return of what there are metrics, if that can be."""
    if metrics not in _METRICS:
        raise ChoiceError(f"metrics is {metrics!r}; choose {', '.join(_METRICS)}.")
    return metrics


def checked_prefix(prefix: str) -> str:
    """Return a prefix of keys, if it is one."""
    if _PREFIX.fullmatch(prefix) is None or ".." in prefix.split("/"):
        raise ChoiceError(
            f"{prefix!r} is no prefix: choose a path such as models, without a slash before it."
        )
    return prefix


def archives_in(folder: Path) -> list[str]:
    """Return the names of the archives in a folder, which has some."""
    names = sorted(path.name for path in folder.glob("*.tar.gz") if path.is_file())
    if not names:
        raise ChoiceError(
            f"There is no archive (*.tar.gz) in {folder}: run python -m examples.fetch_models, or "
            "name another folder with -c archives=FOLDER."
        )
    return names


def layers_in(folder: Path) -> list[str]:
    """Return the names of the layers in a folder, which has some and nothing else."""
    names = sorted(path.name for path in folder.glob("*.tar.gz") if path.is_file())
    others = [name for name in names if _LAYER.fullmatch(name) is None]
    if others or not names:
        found = f"{others[0]} is no layer" if others else "There is no layer"
        raise ChoiceError(
            f"{found} in {folder}: choose the folder layers/ that mme pack --thin has left beside "
            "an archive."
        )
    return names
