"""Asking a model: its first call, which loads it, and some more, which do not."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.deploy.account import code_of
from mmekit.plural import counted
from mmekit.smoke.report import ModelTimes, SmokeCheck

if TYPE_CHECKING:
    from mmekit.archive import Packed
    from mmekit.deploy import Report, Site
    from mmekit.smoke.models import SmokeModel

__all__ = ["Asked", "ask", "check_of_answers"]

_WARM_CALLS = 20
_NOT_READY_TRIES = 30
_BETWEEN_TRIES_S = 2.0
_SHOWN = 200
_MS_PER_S = 1000


@dataclass(frozen=True)
class Asked:
    """What came of asking a model.

    Attributes
    ----------
    check
        Whether each answer was right.
    times
        How long it took; None where a call failed.
    calls
        How many requests went out.
    """

    check: SmokeCheck
    times: ModelTimes | None
    calls: int


def check_of_answers(name: str) -> str:
    """Return what the check of a model's answers is called."""
    return f"{name} answers to the last bit"


def ask(site: Site, model: SmokeModel, packed: Packed, say: Report) -> Asked:
    """Call a model once, and then some more; compare each answer."""
    client = site.account.client("sagemaker-runtime")
    name, calls = check_of_answers(model.name), 0
    times: list[float] = []
    wrong: list[str] = []
    while len(times) <= _WARM_CALLS:
        calls += 1
        began = time.perf_counter()
        try:
            answer = client.invoke_endpoint(
                EndpointName=site.name,
                TargetModel=model.target,
                ContentType="application/json",
                Body=model.request,
            )
            body = answer["Body"].read()
        except (BotoCoreError, ClientError) as error:
            # SageMaker's word for a load that takes longer than a call may.
            if code_of(error) != "ModelNotReadyException" or calls > _NOT_READY_TRIES:
                return Asked(SmokeCheck(name, passed=False, seen=str(error)), None, calls)
            say(f"{model.name} is not ready yet")
            time.sleep(_BETWEEN_TRIES_S)
            continue
        times.append((time.perf_counter() - began) * _MS_PER_S)
        if _content(body) != model.answer:
            wrong.append(body.decode("utf-8", "replace")[:_SHOWN])
    cold, warm = times[0], sorted(times[1:])
    form = "thin" if model.thin else "inline"
    archive = f"{form}, {packed.size / 1000:.0f} kB"
    measured = ModelTimes(
        model.name, archive, cold, _percentile(warm, 50), _percentile(warm, 99), len(warm)
    )
    say(f"{model.name}: first call {cold:.0f} ms, then {measured.p50:.1f} ms")
    seen = counted(len(times), "answer")
    if calls > len(times):
        seen += f", after {counted(calls - len(times), 'time')} that it was not ready"
    if wrong:
        seen = f"{len(wrong)} of {seen} are not {json.dumps(model.answer)}, but {wrong[0]}"
    return Asked(SmokeCheck(name, not wrong, seen), measured, calls)


def _content(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _percentile(values: list[float], share: int) -> float:
    """Return the value that so many of a hundred do not exceed."""
    return values[max(0, -(-len(values) * share // 100) - 1)]
