"""What log and metrics of the endpoint have to say, and whether they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.plural import counted
from mmekit.smoke.cloudwatch import SmokeLog, metric_sum, read_log
from mmekit.smoke.report import SmokeCheck

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mmekit.deploy import Site
    from mmekit.smoke.cloudwatch import MetricSum
    from mmekit.smoke.models import SmokeModel

__all__ = ["CHECKS_OF_LOG", "CHECKS_OF_METRICS", "Watch"]

_SLOTS = "the log says that worker slots serve every model"
_BODY = "the log says that one process loaded the body of two models"
_CALM = "the log has no complaint of mmekit"
_OF_INSTANCES = {"Invocations": False, "ModelCacheHit": False, "LoadedModelCount": True}

CHECKS_OF_LOG = (_SLOTS, _BODY, _CALM)
CHECKS_OF_METRICS = tuple(f"CloudWatch has the metric {name}" for name in _OF_INSTANCES)


class Watch:
    """Looks at log and metrics of an endpoint, as often as it is told to.

    Parameters
    ----------
    site
        Whose.
    models
        Which were asked.
    calls
        How many requests went out.
    since
        The first of them was later.

    Attributes
    ----------
    checks
        What was seen the last time, by their names.
    log
        The log, as it was then.
    """

    def __init__(
        self, site: Site, models: Sequence[SmokeModel], calls: int, since: datetime
    ) -> None:
        self._site = site
        self._models = models
        self._calls = calls
        self._since = since
        self.checks: dict[str, SmokeCheck] = {}
        self.log = SmokeLog()

    def look(self) -> list[str]:
        """Look once; return what is not there yet, or not as it should be."""
        lacking = []
        try:
            self.log = read_log(self._site)
        except (BotoCoreError, ClientError) as error:
            for name in CHECKS_OF_LOG:
                self._see(name, passed=False, seen=str(error))
            lacking.append("the log")
        else:
            lacking += [] if self._see_log() else ["the log"]
        for check, metric in zip(CHECKS_OF_METRICS, _OF_INSTANCES, strict=True):
            try:
                found = metric_sum(
                    self._site, metric, self._since, of_instances=_OF_INSTANCES[metric]
                )
            except (BotoCoreError, ClientError) as error:
                passed, seen = False, str(error)
            else:
                passed, seen = self._judged(metric, found)
            self._see(check, passed=passed, seen=seen)
            lacking += [] if passed else [metric]
        return lacking

    def _judged(self, metric: str, found: MetricSum) -> tuple[bool, str]:
        if metric == "Invocations":
            return found.sum >= self._calls, f"{found.sum:.0f} of {self._calls} calls"
        if metric == "ModelCacheHit":
            seen = f"{found.sum:.0f} of {found.count:.0f} calls found their model loaded"
            return 0 < found.sum <= found.count, seen
        models = len(self._models)
        return (
            found.most >= models,
            f"at most {found.most:.0f} of {counted(models, 'model')} loaded",
        )

    def _see_log(self) -> bool:
        log = self.log
        loads = {one.name: one for one in log.loads}
        slots = [one.name for one in log.loads if one.in_slot]
        plain = [one.name for one in log.loads if not one.in_slot]
        missing = [one.name for one in self._models if one.name not in loads]
        seen = [f"slots: {', '.join(slots) or 'none'}"]
        seen += [f"plain engine: {', '.join(plain)}"] if plain else []
        seen += [f"no line of {', '.join(missing)}"] if missing else []
        all_in_slots = not plain and not missing
        self._see(_SLOTS, passed=all_in_slots, seen="; ".join(seen))
        sharing = [loads[one.name] for one in self._models if one.shares_body and one.name in loads]
        bodies = {one.body for one in sharing}
        # A process that loads the body for itself is not one that loads it for others.
        apart = not bodies & {one.process for one in sharing}
        is_one = len(sharing) > 1 and len(bodies) == 1 and apart
        how = "one process" if is_one else f"{len(bodies)} processes"
        self._see(_BODY, passed=is_one, seen=f"{how} for {counted(len(sharing), 'model')}")
        calm = bool(loads) and not log.complaints
        self._see(_CALM, passed=calm, seen="; ".join(log.complaints) or "none")
        # What is there and wrong will not be right later: it is not waited for.
        return not missing

    def _see(self, name: str, *, passed: bool, seen: str) -> None:
        self.checks[name] = SmokeCheck(name, passed, seen)
