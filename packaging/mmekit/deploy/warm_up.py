"""Models asked once after a deployment that gave new instances, on each of them, within a budget.

SageMaker has no call that says which models are loaded, nor one that asks a chosen instance. So a
model is asked several times at once, which its router spreads over the instances, until the count
of loaded models says that it is everywhere, or the seconds or the requests are spent. A version
that takes another's place on the same instances is asked before it becomes current.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.deploy.loaded import are_loading, loaded_before, loaded_count, loaded_on
from mmekit.deploy.samples import read_samples
from mmekit.deploy.step import Action, Step
from mmekit.errors import MmekitError
from mmekit.plural import are, counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmekit.archive.package import Example
    from mmekit.deploy.account import Site
    from mmekit.deploy.parts import WarmUp
    from mmekit.deploy.samples import AskedModel
    from mmekit.deploy.step import Report

__all__ = ["warmed_up", "warmed_up_before"]

_AT_ONCE = 32  # calls of one model, and of all
_EACH, _LEAST = 4, 64  # requests a model and instance; all, so that few models spread, too
_PAUSE_S = {True: 5.0, False: 0.2}  # of a real account, of the local service
_FAULTS = (MmekitError, ClientError, BotoCoreError, OSError, KeyError)


def warmed_up(site: Site, endpoint: Step, models: Sequence[AskedModel]) -> Step:
    """Return the step of an endpoint that is changed, with its models asked afterwards."""
    chosen, perform = site.deployment.warm_up, endpoint.perform
    if chosen is None or perform is None or endpoint.action is not Action.CHANGE or not models:
        return endpoint

    def change(report: Report) -> None:
        prepared = _prepared(site, chosen, models, report)
        perform(report)
        _warm_up(site, chosen, prepared, report)

    return _noted(endpoint, chosen, "then", models, change)


def warmed_up_before(site: Site, release: Step, models: Sequence[AskedModel]) -> Step:
    """Return the step that makes other versions current, with these asked before it."""
    chosen, perform = site.deployment.warm_up, release.perform
    if chosen is None or perform is None or not models:
        return release

    def change(report: Report) -> None:
        _warm_up(site, chosen, _prepared(site, chosen, models, report), report)
        perform(report)

    return _noted(release, chosen, "before that", models, change)


def _noted(
    step: Step,
    chosen: WarmUp,
    when: str,
    models: Sequence[AskedModel],
    perform: Callable[[Report], None],
) -> Step:
    most = min(chosen.models, len(models))
    many = "model is" if most == 1 else "models are"
    note = f"{when} up to {most} {many} asked, for {chosen.seconds:g} s at most"
    notes = "; ".join(filter(None, (step.note, note)))
    return dataclasses.replace(step, note=notes, perform=perform)


@dataclass(frozen=True)
class _Prepared:
    """What is asked.

    Attributes
    ----------
    examples
        By the keys of models, the most important first.
    how
        By what these were chosen.
    """

    examples: Mapping[str, Example]
    how: str


@dataclass
class _Asking:
    """What has come of asking so far.

    Attributes
    ----------
    answered, failed
        The keys of models that answered, and those that did not, with what was said.
    sent
        The key of each request.
    count
        What CloudWatch's LoadedModelCount said last.
    """

    answered: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    count: float | None = None


@contextlib.contextmanager
def _ending_nothing(report: Report) -> Iterator[None]:
    """Let a deployment go on without it."""
    try:
        yield
    except _FAULTS as error:
        said = str(error).splitlines() or [type(error).__name__]
        report(f"warm-up: ended early: {said[0]}")


def _prepared(
    site: Site, chosen: WarmUp, models: Sequence[AskedModel], report: Report
) -> _Prepared | None:
    """Choose models while those that were loaded still are; None where there is nothing to ask."""
    with _ending_nothing(report):
        samples = {}
        if site.account.is_real and site.deployment.metrics == "models":
            samples = read_samples(site, models, chosen.seconds)
        names = {key: sample.names for key, sample in samples.items()}
        found, how = loaded_before(site, models, names)
        found = found[: chosen.models]
        unread = [one for one in found if one.key not in samples]
        samples |= read_samples(site, unread, chosen.seconds)
        for one in found:
            if samples[one.key].lacks:
                report(f"warm-up: {one.key} is left out: {samples[one.key].lacks}")
        examples = {
            one.key: example for one in found if (example := samples[one.key].example) is not None
        }
        without = sum(not samples[one.key].lacks for one in found) - len(examples)
        if without:
            report(
                f"warm-up: {without} of {counted(len(found), 'model')} have no sample request, "
                "and are left out"
            )
        if examples:
            return _Prepared(examples, how)
        why = "" if found else f": none of {len(models)} was loaded"
        report(f"warm-up: no model to ask{why}")
    return None


def _warm_up(site: Site, chosen: WarmUp, prepared: _Prepared | None, report: Report) -> None:
    if prepared is not None:
        with _ending_nothing(report):
            _ask_all(site, chosen, prepared, report)


def _ask_all(site: Site, chosen: WarmUp, prepared: _Prepared, report: Report) -> None:
    deadline, instances = time.monotonic() + chosen.seconds, _instances(site)
    asked = prepared.examples
    most = chosen.requests or max(len(asked) * instances * _EACH, _LEAST)
    report(
        f"warm-up: {counted(len(asked), 'model')}, for {chosen.seconds:g} s and "
        f"{counted(most, 'request')} at most: "
        f"{prepared.how}"
    )
    done, at_once = _Asking(), min(instances, _AT_ONCE)
    began = datetime.now(timezone.utc)
    missing, is_told = dict(asked), True
    while missing and time.monotonic() < deadline:
        left = most - len(done.sent) if at_once <= _AT_ONCE else 0
        if is_told and left <= 0:
            break
        # Twice as many each time, and only when it was told that fewer were not enough: the router
        # keeps to an instance that has a model until that one is busy.
        if is_told:
            _ask(site, missing, min(at_once, left), left, deadline, done)
            at_once *= 2
            began = datetime.now(timezone.utc)
        missing, is_told = _missing(site, asked, instances, done, began)
        if missing:
            time.sleep(max(0.0, min(_PAUSE_S[site.account.is_real], deadline - time.monotonic())))
    for key, said in sorted(done.failed.items()):
        report(f"warm-up: {key} did not answer: {said}")
    spent = chosen.seconds - max(0.0, deadline - time.monotonic())
    everywhere = len(asked) - len(missing) - len(done.failed)
    report(
        f"warm-up: {len(done.answered)} of {counted(len(asked), 'model')} answered after "
        f"{spent:.0f} s and {counted(len(done.sent), 'request')}; "
        f"{_reached(site, everywhere, len(missing), instances, done)}"
    )


def _reached(site: Site, everywhere: int, missing: int, instances: int, done: _Asking) -> str:
    if instances == 1:
        return f"{everywhere} {are(everywhere)} loaded on the instance"
    if site.account.is_real:
        # It counts what others have asked for, too.
        told = "" if done.count is None else f" (the last it said is {done.count:g})"
        if missing:
            return (
                f"whether they are loaded on all {instances} instances is not known: CloudWatch's "
                f"LoadedModelCount did not say so in time{told}"
            )
        return (
            f"LoadedModelCount is {done.count or 0:g} on {instances} instances, as many as these "
            "would be on all of them, or more; which models it counts nobody says"
        )
    kept = ""
    if missing:
        kept = f", {missing} on fewer: a model that is not busy is asked where it is"
    return f"{everywhere} {are(everywhere)} loaded on all {instances} instances{kept}"


def _ask(
    site: Site,
    missing: Mapping[str, Example],
    at_once: int,
    most: int,
    deadline: float,
    done: _Asking,
) -> None:
    """Ask each of some models several times at once, and no more often than that in all."""
    runtime = site.account.settings.client(
        "sagemaker-runtime",
        retries={"total_max_attempts": 1},
        # The budget ends a call, too.
        read_timeout=max(1.0, deadline - time.monotonic()),
        max_pool_connections=_AT_ONCE,
    )

    def invoke(key: str) -> str:
        sample = missing[key]
        if time.monotonic() > deadline:
            return ""
        done.sent.append(key)
        try:
            runtime.invoke_endpoint(
                EndpointName=site.name,
                TargetModel=key,
                ContentType=sample.content_type,
                Body=sample.request.encode(),
            )["Body"].read()
        except (ClientError, BotoCoreError) as error:
            return str(error).splitlines()[0]
        done.answered.add(key)
        return ""

    with contextlib.closing(runtime), ThreadPoolExecutor(_AT_ONCE) as threads:
        keys = [key for key in missing for _ in range(at_once)][:most]
        for key, said in zip(keys, threads.map(invoke, keys), strict=True):
            if said:
                done.failed.setdefault(key, said)
    for key in done.answered:
        done.failed.pop(key, None)


def _missing(
    site: Site,
    asked: Mapping[str, Example],
    instances: int,
    done: _Asking,
    began: datetime,
) -> tuple[dict[str, Example], bool]:
    """Return the models that are not loaded everywhere, and whether that was told since then."""
    left = {key: sample for key, sample in asked.items() if key not in done.failed}
    if instances == 1:
        return {key: sample for key, sample in left.items() if key not in done.answered}, True
    if site.account.is_real:
        count = loaded_count(site, began)
        if count is None:
            return left, not left
        done.count = count
        return ({} if count >= len(left) * instances else left), True
    places = loaded_on(site)
    fewer = {key: sample for key, sample in left.items() if places.get(key, 0) < instances}
    # What it says is a moment old: it has to know of the answers.
    is_told = all(places.get(key) for key in fewer if key in done.answered)
    return fewer, is_told and not are_loading(site, fewer)


def _instances(site: Site) -> int:
    found = site.account.client("sagemaker").describe_endpoint(EndpointName=site.name)
    counts = [int(one.get("CurrentInstanceCount", 0)) for one in found["ProductionVariants"]]
    return max(sum(counts), 1)
