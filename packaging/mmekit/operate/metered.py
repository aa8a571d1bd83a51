"""Figures of single models from the lines that model processes write where metrics are on.

The lines are CloudWatch's embedded metric format, namespace ``mmekit``. They are read from the log,
and not from the metrics that CloudWatch makes of them: it has those of single models only with
MMEKIT_METRICS_PER=models, and asks a price for each.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmekit.operate.views import ModelView

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit.operate.lines import ContainerLine

__all__ = ["is_metered", "metered_models"]

_MARK = '"_aws"'
_NAMESPACE = "mmekit"
_FAMILY = "mme_model_"
_MOST = 2.0**360
"""As large as a value is that CloudWatch takes."""
_COUNTS = ("requests", "errors", "loads")
_PREDICT = f"{_FAMILY}predict_seconds"
_MEMORY = f"{_FAMILY}memory_bytes"


@dataclass
class _Metered:
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[float] = field(default_factory=Counter)
    memory: dict[str, int] = field(default_factory=dict)


def is_metered(line: ContainerLine) -> bool:
    """Return whether a line is of our metrics, and nothing for people.

    A model may write lines of that format for itself: those are like any other.
    """
    return _content(line) is not None


def metered_models(lines: Iterable[ContainerLine]) -> tuple[ModelView, ...]:
    """Return what lines of metrics say of each model; lines of anything else are passed over."""
    found: dict[str, _Metered] = defaultdict(_Metered)
    for line in lines:
        content = _content(line)
        if content is not None:
            _add(found[content["Model"]], content, line.instance)
    return tuple(
        ModelView(
            target=name,
            where=tuple((instance, "loaded") for instance in one.memory),
            requests=one.counts["requests"],
            errors=one.counts["errors"],
            cold_loads=one.counts["loads"],
            p50_ms=_percentile(one.seconds, 0.5),
            p99_ms=_percentile(one.seconds, 0.99),
            memory_bytes=sum(one.memory.values()) or None,
        )
        for name, one in sorted(found.items())
    )


def _content(line: ContainerLine) -> dict[str, Any] | None:
    if not line.text.startswith("{") or _MARK not in line.text:
        return None
    try:
        content = json.loads(line.text)
    except (ValueError, RecursionError):
        return None
    about = content.get("_aws") if isinstance(content, dict) else None
    # It is empty where a line is for queries of the log only.
    directives = about.get("CloudWatchMetrics") if isinstance(about, dict) else None
    is_ours = (
        isinstance(directives, list)
        and all(isinstance(one, dict) and one.get("Namespace") == _NAMESPACE for one in directives)
        and isinstance(content.get("Model"), str)
        and any(name.startswith(_FAMILY) for name in content)
    )
    return content if is_ours else None


def _add(one: _Metered, content: dict[str, Any], instance: str) -> None:
    for name in _COUNTS:
        one.counts[name] += int(_number(content.get(f"{_FAMILY}{name}_total")) or 0)
    # Several processes of a model on an instance are not told apart: the latest line counts.
    memory = _number(content.get(_MEMORY))
    one.memory[instance] = one.memory.get(instance, 0) if memory is None else int(memory)
    spread = content.get(_PREDICT)
    if not isinstance(spread, dict):
        spread = {"Values": [spread], "Counts": [1]}
    values, counts = spread.get("Values"), spread.get("Counts")
    if not isinstance(values, list) or not isinstance(counts, list):
        return
    for value, count in zip(map(_number, values), map(_number, counts), strict=False):
        if value is not None and count is not None and count >= 0:
            one.seconds[value] += int(count)


def _number(value: object) -> float | None:
    """Return what is a number; None for anything else that stands in its place."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -_MOST <= value <= _MOST else None


def _percentile(seconds: Counter[float], share: float) -> float | None:
    """Return the value that so large a share of all does not exceed, in milliseconds."""
    wanted, passed = share * sum(seconds.values()), 0.0
    for value in sorted(seconds):
        passed += seconds[value]
        if passed >= wanted:
            return value * 1000
    return None
