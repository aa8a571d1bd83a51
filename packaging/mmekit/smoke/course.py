"""The course of a smoke test: deploy, ask, look, and take down, however it ends."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shutil
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from botocore.exceptions import BotoCoreError, ClientError

from mmekit import __version__
from mmekit.archive import STOCK_IMAGE
from mmekit.deploy import (
    Account,
    Site,
    cost_of,
    deploy_errors,
    packed_models,
    plan_deployment,
    read_deployment,
)
from mmekit.errors import DeployError, MmekitError, SettingsError
from mmekit.settings import CPU_TAG, Settings, published_image
from mmekit.smoke.ending import EndedEarly, Ending
from mmekit.smoke.models import SAID, SmokeModel, write_models
from mmekit.smoke.removal import Removal
from mmekit.smoke.report import ModelTimes, ServerTime, SmokeCheck, SmokeReport
from mmekit.smoke.watch import LoadLine, MetricSum, SmokeLog, metric_sum, read_log, server_times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mmekit.archive import Packed
    from mmekit.deploy import Report

__all__ = ["SmokeCourse", "SmokeOptions"]

_WARM_CALLS = 20
_PATIENCE_S = {True: 300.0, False: 45.0}  # of CloudWatch: a real account's, the local service's
_POLL_S = {True: 10.0, False: 0.5}
_SAID_AGAIN_S = 15.0
_NOT_READY_TRIES = 30
_BETWEEN_TRIES_S = 2.0
# The registry of these regions, where sagemaker-core, which knows them all, is not installed.
_REGISTRY = "763104351884"
_ITS_REGIONS = re.compile(
    r"us-(east|west)-[12]|eu-(central-1|north-1|west-[123])|ca-central-1|sa-east-1"
    r"|ap-(south-1|southeast-[12]|northeast-[12])"
)

_DEPLOYED = "the endpoint comes into service"
_SLOTS = "the log says that worker slots serve every model"
_BODY = "the log says that one process loaded the body of two models"
_CALM = "the log has no complaint of mmekit"
_METRICS = "CloudWatch has the metric "
_GONE = "everything is taken down"


@dataclass(frozen=True)
class SmokeOptions:
    """What may be chosen.

    Attributes
    ----------
    target
        ``local`` or ``aws``; None is what the settings say.
    region
        None is what AWS's own configuration says.
    instance_type
        Of which there is one.
    image
        None is AWS's own for the region.
    environment
        Variables of the container, besides those that a deployment has.
    minutes
        After so many, everything is taken down.
    """

    target: str | None = None
    region: str | None = None
    instance_type: str = "ml.m5.xlarge"
    image: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    minutes: float = 15.0


class SmokeCourse:
    """One smoke test: it is announced, run, and reports.

    Parameters
    ----------
    options
        What was chosen.
    say
        Is told what happens, a line at a time.

    Raises
    ------
    DeployError
        Nobody answers there, or the credentials are not valid.
    SettingsError
        A setting is not what it may be.
    """

    def __init__(self, options: SmokeOptions, say: Report) -> None:
        self._options = options
        self._say = say
        # Apart from what is rehearsed or runs there: nobody else's name begins so.
        self.name = f"mmekit-smoke-{uuid.uuid4().hex[:8]}"
        self._folder = Path(tempfile.mkdtemp(prefix="mmekit-smoke-"))
        try:
            self._site = self._written()
        except BaseException:
            self._forget()
            raise
        self._stage = "preparing"
        self._stages: dict[str, float] = {}
        self._seen: dict[str, SmokeCheck] = {}
        self._models: tuple[SmokeModel, ...] = ()
        self._times: list[ModelTimes] = []
        self._log = SmokeLog((), ())
        self._server_times: tuple[ServerTime, ...] = ()
        self._calls = 0
        self._began = datetime.now(timezone.utc)
        self.signal: int | None = None
        """The signal that ended it; None for none."""

    @property
    def is_real(self) -> bool:
        """Say whether it costs something."""
        return self._site.account.is_real

    @property
    def file(self) -> Path:
        """Return the deployment file, by which everything can be taken down by hand."""
        return self._folder / "mme.yaml"

    def announcement(self) -> list[str]:
        """Say what will be done, where, and what it costs at most."""
        account, options = self._site.account, self._options
        lines = [
            f"Smoke test {self.name} on {account}:",
            f"  one {options.instance_type} with three small models, a bucket, a role; all of it "
            f"is taken down after {options.minutes:g} minutes at the latest",
            f"  image {self._site.image}",
        ]
        if not account.is_real:
            return [*lines, "  on the local service it is free"]
        most = self._cost(options.minutes * 60)
        if most is None:
            lines.append(
                f"  cost: unknown, no published price of {options.instance_type} in "
                f"{account.region} is to be had; https://aws.amazon.com/sagemaker/pricing/ has it"
            )
        else:
            lines.append(
                f"  cost: at most {most:.2f} USD for the instance, and less than 0.01 USD for "
                "requests, storage and logs"
            )
        return [
            *lines,
            f"  should this be killed: MME_TARGET=aws mme destroy {self.file}",
        ]

    def cancel(self) -> None:
        """Forget it, before it was run."""
        self._forget()

    def run(self) -> SmokeReport:
        """Run it, take everything down, and report."""
        began = time.monotonic()
        failure = ""
        notice = f"still taking {self.name} down; by hand: mme destroy {self.file}"
        with Ending(self._options.minutes * 60, self._say, notice) as ending:
            try:
                self._proceed(ending)
                ending.stop()
            except EndedEarly as early:
                failure = f"{early}, while {self._stage}"
            except (MmekitError, BotoCoreError, ClientError, OSError) as error:
                failure = f"{error} (while {self._stage})"
            finally:
                # Whatever has happened, a fault of our own too.
                ending.stop()
                self.signal = ending.signal
                is_gone = self._take_down()
        seconds = time.monotonic() - began
        report = self._report(failure, seconds)
        if is_gone:
            self._forget()
        else:
            self._say(f"Something is left. Take it down: mme destroy {self.file}")
        return report

    def _proceed(self, ending: Ending) -> None:
        with self._doing("packing"):
            self._models = write_models(self._folder)
            packed = self._packed()
        with self._doing("deploying"):
            with deploy_errors(self._site.account.settings):
                self._deploy()
            self._see(_DEPLOYED, passed=True, seen=f"after {self._stages_so_far():.0f} s")
        with self._doing("asking the models"):
            for model in self._models:
                ending.see()
                self._ask(model, packed[model.name])
        with self._doing("waiting for log and metrics"):
            self._watch(ending)

    def _written(self) -> Site:
        """Write the deployment file, and return what it says in its account."""
        options = self._options
        chosen: dict[str, Any] = {} if options.target is None else {"target": options.target}
        if options.region is not None:
            chosen["region"] = options.region
        role = "arn:aws:iam::123456789012:role/deployment"  # of the settings; none is used
        settings = Settings(role=role, **chosen)
        content = {
            "name": self.name,
            "region": settings.region,
            "instance_type": options.instance_type,
            "image": options.image or _image(settings.region, options.instance_type),
            "environment": dict(options.environment),
            "packages": [
                {"archive": f"archives/{name}.tar.gz"}
                for name in ("body-one", "body-two", "library")
            ],
        }
        self.file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        deployment = read_deployment(self.file)
        return Site(Account(deployment, target=options.target), deployment)

    def _packed(self) -> dict[str, Packed]:
        packed = {}
        for model in self._models:
            self._say(f"packing {model.name}")
            packed[model.name] = model.packed(self._folder / "archives", STOCK_IMAGE, self._say)
        return packed

    def _deploy(self) -> None:
        models = packed_models(self._site.deployment, self._say)
        plan_deployment(self._site, models, self._say).perform(self._say)

    def _ask(self, model: SmokeModel, packed: Packed) -> None:
        """Call a model once, and then some more; note how long it takes and what comes."""
        name = f"{model.name} answers to the last bit"
        times: list[float] = []
        wrong: list[str] = []
        for _ in range(1 + _WARM_CALLS):
            try:
                answer, took_s = self._call(model)
            except (BotoCoreError, ClientError) as error:
                self._see(name, passed=False, seen=str(error))
                return
            times.append(took_s * 1000)
            if answer != model.answer:
                wrong.append(json.dumps(answer)[:200])
        cold, warm = times[0], sorted(times[1:])
        form = "thin" if model.thin else "inline"
        self._times.append(
            ModelTimes(
                model.name,
                f"{form}, {packed.size / 1000:.0f} kB",
                cold,
                _percentile(warm, 50),
                _percentile(warm, 99),
                len(warm),
            )
        )
        self._say(f"{model.name}: first call {cold:.0f} ms, then {_percentile(warm, 50):.1f} ms")
        seen = f"{len(times)} answers"
        if wrong:
            seen = f"{len(wrong)} of {seen} are not {json.dumps(model.answer)}; {wrong[0]}"
        self._see(name, passed=not wrong, seen=seen)

    def _call(self, model: SmokeModel) -> tuple[Any, float]:
        client = self._site.account.client("sagemaker-runtime")
        for left in reversed(range(_NOT_READY_TRIES)):
            self._calls += 1
            began = time.perf_counter()
            try:
                answer = client.invoke_endpoint(
                    EndpointName=self.name,
                    TargetModel=model.target,
                    ContentType="application/json",
                    Body=model.request,
                )
                body = answer["Body"].read()
                return _content(body), time.perf_counter() - began
            except ClientError as error:
                # SageMaker's word for a load that takes longer than a call may.
                code = error.response["Error"]["Code"]
                if code != "ModelNotReadyException" or not left:
                    raise
            self._say(f"{model.name} is not ready yet")
            time.sleep(_BETWEEN_TRIES_S)
        raise AssertionError

    def _watch(self, ending: Ending) -> None:
        """Wait until log and metrics are there; note what they say."""
        account = self._site.account
        began = said_at = time.monotonic()
        while True:
            ending.see()
            lacking = self._lacking()
            if not lacking or time.monotonic() - began > _PATIENCE_S[account.is_real]:
                break
            if time.monotonic() - said_at > _SAID_AGAIN_S:
                said_at = time.monotonic()
                self._say(f"waiting for {', '.join(lacking)} ({said_at - began:.0f} s)")
            time.sleep(_POLL_S[account.is_real])
        with contextlib.suppress(BotoCoreError, ClientError):
            self._server_times = server_times(self._site, self._began)

    def _lacking(self) -> list[str]:
        """Look at log and metrics once; return what is not as it should be, or not there yet."""
        lacking = []
        try:
            self._log = read_log(self._site)
        except (BotoCoreError, ClientError) as error:
            for name in (_SLOTS, _BODY, _CALM):
                self._see(name, passed=False, seen=str(error))
            lacking.append("the log")
        else:
            if not self._see_log(self._log):
                lacking.append("the log")
        metrics = (
            ("Invocations", False, lambda one: one.sum >= self._calls),
            ("ModelCacheHit", False, lambda one: 0 < one.sum <= one.count),
            ("LoadedModelCount", True, lambda one: one.most >= len(self._models)),
        )
        for metric, of_instances, is_there in metrics:
            try:
                found = metric_sum(self._site, metric, self._began, of_instances=of_instances)
            except (BotoCoreError, ClientError) as error:
                self._see(_METRICS + metric, passed=False, seen=str(error))
                lacking.append(metric)
                continue
            passed = is_there(found)
            self._see(_METRICS + metric, passed=passed, seen=self._said(metric, found))
            lacking += [] if passed else [metric]
        return lacking

    def _said(self, metric: str, found: MetricSum) -> str:
        match metric:
            case "Invocations":
                return f"{found.sum:.0f} of {self._calls} calls"
            case "ModelCacheHit":
                return f"{found.sum:.0f} of {found.count:.0f} calls found their model loaded"
            case _:
                return f"at most {found.most:.0f} of {len(self._models)} models loaded"

    def _see_log(self, log: SmokeLog) -> bool:
        """Note what the log says; return whether it says all that it should."""
        loads = {one.name: one for one in log.loads}
        slots = [one.name for one in log.loads if one.in_slot]
        plain = [one.name for one in log.loads if not one.in_slot]
        missing = [one.name for one in self._models if one.name not in loads]
        seen = [f"slots: {', '.join(slots) or 'none'}"]
        seen += [f"plain engine: {', '.join(plain)}"] if plain else []
        seen += [f"no line of {', '.join(missing)}"] if missing else []
        in_slots = not plain and not missing
        self._see(_SLOTS, passed=in_slots, seen="; ".join(seen))
        sharing = [loads[one.name] for one in self._models if one.shares_body and one.name in loads]
        bodies = {one.body for one in sharing}
        # A process that loads the body for itself is no process of a body that others share.
        apart = not bodies & {one.process for one in sharing}
        is_one = len(sharing) > 1 and len(bodies) == 1 and apart
        how = "by one process" if is_one else f"by {len(bodies)} processes, for {len(sharing)}"
        self._see(_BODY, passed=is_one, seen=f"loaded {how} of the models that share it")
        complaints = "; ".join(log.complaints) or "none"
        self._see(_CALM, passed=bool(loads) and not log.complaints, seen=complaints)
        return in_slots and is_one and not log.complaints

    def _take_down(self) -> bool:
        with self._doing("taking down"):
            removal = Removal(self.file, self._options.target, self._say)
            removal.perform()
            left = removal.left()
        self._see(_GONE, passed=not left, seen=", ".join(left) or removal.looked)
        return not left

    def _report(self, failure: str, seconds: float) -> SmokeReport:
        account, options = self._site.account, self._options
        cost = self._cost(seconds) if account.is_real else None
        place = {
            "Target": "aws" if account.is_real else "local",
            "Region": account.region,
            "Instance type": options.instance_type,
            "Image": self._site.image.rpartition("/")[2],
            "mmekit": __version__,
            "From": f"Python {platform.python_version()}, {platform.system()}",
            "Began": f"{self._began:%Y-%m-%d %H:%M} UTC",
            "Took": f"{seconds / 60:.1f} minutes",
        }
        if options.environment:
            place["Environment"] = ", ".join(options.environment)
        if account.is_real:
            told = "unknown" if cost is None else f"{cost:.3f} USD for the instance"
            place["Cost, estimated"] = told
        answers = [f"{one.name} answers to the last bit" for one in self._models]
        metrics = [_METRICS + one for one in ("Invocations", "ModelCacheHit", "LoadedModelCount")]
        names = [_DEPLOYED, *answers, _SLOTS, _BODY, _CALM, *metrics, _GONE]
        checks = tuple(self._seen.get(name) or SmokeCheck(name, None, "") for name in names)
        lines = [_spoken(one) for one in self._log.loads]
        return SmokeReport(
            place,
            checks,
            tuple(self._times),
            self._server_times,
            self._stages,
            (*lines, *self._log.complaints),
            failure,
        )

    def _cost(self, seconds: float) -> Decimal | None:
        site = self._site
        cost = cost_of(
            site.account.region,
            site.deployment.instance_type,
            instances=1,
            models=3,
            account=site.account,
        )
        return None if cost.hour is None else cost.hour * Decimal(str(round(seconds))) / 3600

    def _see(self, name: str, *, passed: bool, seen: str) -> None:
        self._seen[name] = SmokeCheck(name, passed, seen)

    @contextlib.contextmanager
    def _doing(self, stage: str) -> Iterator[None]:
        self._stage = stage
        began = time.monotonic()
        try:
            yield
        finally:
            self._stages[stage] = time.monotonic() - began

    def _stages_so_far(self) -> float:
        return (datetime.now(timezone.utc) - self._began).total_seconds()

    def _forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _image(region: str, instance_type: str) -> str:
    try:
        return published_image(region, instance_type)
    except SettingsError:
        # Without sagemaker-core; it alone knows the tags of images for GPUs.
        if _ITS_REGIONS.fullmatch(region) and not instance_type.startswith(("ml.g", "ml.p")):
            return f"{_REGISTRY}.dkr.ecr.{region}.amazonaws.com/djl-inference:{CPU_TAG}"
        raise


def _content(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _percentile(values: list[float], share: int) -> float:
    """Return the value that so many of a hundred do not exceed."""
    return values[max(0, -(-len(values) * share // 100) - 1)]


def _spoken(line: LoadLine) -> str:
    kind = "a slot" if line.in_slot else "a plain engine"
    body = "" if line.body is None else f", body {line.body}"
    return f"{SAID} {line.name} in {kind}, process {line.process}{body}"
