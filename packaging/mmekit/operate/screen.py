"""`mme top` as people read it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from mmekit.plural import counted
from mmekit.printing import TextTable, written

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mmekit.operate.views import EndpointView, InstanceView, ModelView

__all__ = ["drawn_view"]

_MIB = 1 << 20
_SHOWN_CAUSES = 10
_RESTING = "other models of S3, neither loaded nor asked for: {}"


def drawn_view(
    view: EndpointView, *, most_models: int | None = None
) -> tuple[TextTable | Text, ...]:
    """Return what there is to see.

    Parameters
    ----------
    most_models
        How many models are shown, those that fail and those that are asked most first; None for
        all of which anything is to be seen.
    """
    parts: list[TextTable | Text] = [_summary(view), Text()]
    if view.instances:
        parts += [_instances(view.instances), Text()]
    busy = sorted((one for one in view.models if one.is_of_interest), key=_rank)
    shown = busy[:most_models]
    if shown:
        parts.append(_models(shown))
    if len(busy) > len(shown):
        parts.append(
            Text(f"and {counted(len(busy) - len(shown), 'model')} more: --once prints all")
        )
    if resting := len(view.models) - len(busy):
        parts.append(Text(_RESTING.format(resting), style="dim"))
    parts += [Text()] if view.models else []
    parts += _failures(view)
    parts += [Text(note, style="yellow") for note in view.notes]
    return tuple(parts)


def _summary(view: EndpointView) -> Text:
    at = datetime.fromtimestamp(view.at).astimezone()
    text = Text(view.endpoint, style="bold")
    text.append(
        f"  {view.status}, {_window(view)} until {at:%H:%M:%S}\n",
        style="not bold",
    )
    rate = "-" if view.hit_rate is None else f"{view.hit_rate:.1%}"
    text.append(f"requests {_count(view.requests)}, ", style="not bold")
    text.append(f"errors {_count(view.errors)}", style="bold red" if view.errors else "not bold")
    said = f", cold loads {_count(view.cold_loads)}, hit rate {rate}"
    if view.p50_ms is not None:
        said += f", p50 {_figure(view.p50_ms)} ms, p99 {_figure(view.p99_ms)} ms"
    return text.append(said, style="not bold")


def _instances(instances: Iterable[InstanceView]) -> TextTable:
    rows = []
    for one in instances:
        limit = "" if one.memory_limit is None else f" of {one.memory_limit / _MIB:,.0f}"
        memory = "" if one.memory_bytes is None else f"{one.memory_bytes / _MIB:,.0f}{limit}"
        loaded = "" if one.loaded is None else written(one.loaded)
        parked = "" if one.parked is None else str(one.parked)
        name = one.instance.removeprefix(f"{one.variant}/")
        rows.append((f"{one.variant}/{name}", loaded, parked, memory))
    heads = ("instance", "loaded", "parked", "memory, MiB")
    return TextTable(heads, tuple(rows), numbers=heads[1:])


def _models(models: Iterable[ModelView]) -> TextTable:
    rows = []
    for one in models:
        errors = Text(_count(one.errors), style="bold red" if one.errors else "")
        memory = "" if one.memory_bytes is None else f"{one.memory_bytes / _MIB:,.0f}"
        rows.append(
            (
                one.target,
                _count(one.requests),
                errors,
                _count(one.cold_loads),
                _figure(one.p50_ms),
                _figure(one.p99_ms),
                memory,
                _places(one.where),
            )
        )
    heads = ("model", "requests", "errors", "cold", "p50 ms", "p99 ms", "MiB", "where")
    return TextTable(heads, tuple(rows), numbers=heads[1:-1])


def _failures(view: EndpointView) -> list[TextTable | Text]:
    failures = view.failures
    # The local service counts them for as long as the endpoint is there; a log is read for a while.
    is_all = view.source == "service"
    which = "since the endpoint was made" if is_all else f"of {_window(view)}"
    if not failures:
        return [Text(f"No failures {which}.")]
    rows = []
    for one in failures[:_SHOWN_CAUSES]:
        status = "" if one.status is None else str(one.status)
        since, last = (_moment(at, view.at) for at in (one.first, one.last))
        rows.append((str(one.count), since, last, status, one.models, one.cause))
    heads = ("failures", "since", "last", "status", "model", "cause")
    table = TextTable(heads, tuple(rows), numbers=heads[:1], title=f"Failures {which}")
    parts: list[TextTable | Text] = [table]
    hidden = len(failures) - _SHOWN_CAUSES
    if hidden > 0:
        parts.append(Text(f"and {counted(hidden, 'cause')} more: --json has all"))
    return parts


def _window(view: EndpointView) -> str:
    return f"the last {view.window_s // 60} minutes"


def _moment(at: float, now: float) -> str:
    """Return the time of day, and the day where it is another."""
    moment, today = (datetime.fromtimestamp(one).astimezone() for one in (at, now))
    return f"{moment:%H:%M:%S}" if moment.date() == today.date() else f"{moment:%Y-%m-%d %H:%M}"


def _rank(one: ModelView) -> tuple[int, int, bool, str]:
    return -(one.errors or 0), -(one.requests or 0), not one.where, one.target


def _places(where: Iterable[tuple[str, str]]) -> str:
    return ", ".join(
        instance if state == "loaded" else f"{instance} ({state})" for instance, state in where
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _figure(number: float | None) -> str:
    return "-" if number is None else written(number)
