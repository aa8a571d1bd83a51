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
_COUNTS = ("requests", "errors", "loads")
_PREDICT = "mme_model_predict_seconds"
_MEMORY = "mme_model_memory_bytes"


@dataclass
class _Metered:
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[float] = field(default_factory=Counter)
    memory: dict[str, int] = field(default_factory=dict)


def is_metered(line: ContainerLine) -> bool:
    """Return whether a line is of metrics, and nothing for people."""
    return line.text.startswith("{") and _MARK in line.text


def metered_models(lines: Iterable[ContainerLine]) -> tuple[ModelView, ...]:
    """Return what lines of metrics say of each model; lines of anything else are passed over."""
    found: dict[str, _Metered] = defaultdict(_Metered)
    for line in lines:
        content = _content(line) if is_metered(line) else None
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
    try:
        content = json.loads(line.text)
    except ValueError:
        return None
    return content if isinstance(content, dict) and "Model" in content else None


def _add(one: _Metered, content: dict[str, Any], instance: str) -> None:
    for name in _COUNTS:
        one.counts[name] += int(content.get(f"mme_model_{name}_total", 0))
    # Several processes of a model on an instance are not told apart: the latest line counts.
    one.memory[instance] = int(content.get(_MEMORY, one.memory.get(instance, 0)))
    spread = content.get(_PREDICT)
    if isinstance(spread, dict):
        for value, count in zip(spread["Values"], spread["Counts"], strict=True):
            one.seconds[value] += count
    elif spread is not None:
        one.seconds[spread] += 1


def _percentile(seconds: Counter[float], share: float) -> float | None:
    """Return the value that so large a share of all does not exceed, in milliseconds."""
    wanted, passed = share * sum(seconds.values()), 0.0
    for value in sorted(seconds):
        passed += seconds[value]
        if passed >= wanted:
            return value * 1000
    return None
