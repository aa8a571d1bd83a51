"""The course of a smoke test: deploy, ask, look, and take down, however it ends."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
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
from mmekit.errors import MmekitError
from mmekit.settings import Settings, published_image
from mmekit.smoke.asking import ask, check_of_answers
from mmekit.smoke.cloudwatch import read_log, server_times
from mmekit.smoke.ending import EndedEarly, Ending
from mmekit.smoke.models import NAMES, write_models
from mmekit.smoke.removal import Removal
from mmekit.smoke.report import SmokeCheck, SmokeReport
from mmekit.smoke.watch import CHECKS_OF_LOG, CHECKS_OF_METRICS, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mmekit.archive import Packed
    from mmekit.deploy import Report
    from mmekit.smoke.cloudwatch import SmokeLog
    from mmekit.smoke.models import SmokeModel
    from mmekit.smoke.report import ModelTimes, ServerTime

__all__ = ["SmokeCourse", "SmokeOptions"]

_PATIENCE_S = {True: 300.0, False: 45.0}  # with CloudWatch: a real account's, the local service's
_POLL_S = {True: 10.0, False: 0.5}
_SAID_AGAIN_S = 10.0
_HOUR_S = 3600
_REMOVAL_MINUTES = 5
"""That the instance may still be there when it has begun to be taken down."""

_DEPLOYED = "the endpoint comes into service"
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
        self._checks: dict[str, SmokeCheck] = {}
        self._models: tuple[SmokeModel, ...] = ()
        self._times: list[ModelTimes] = []
        self._log: SmokeLog | None = None
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

    @property
    def removal_command(self) -> str:
        """Return what takes everything down by hand, in any shell: it says the account, too."""
        said = {"MME_TARGET": "aws" if self.is_real else "local"}
        if self.is_real and (profile := os.environ.get("AWS_PROFILE")):
            said["AWS_PROFILE"] = profile
        variables = [f"{name}={shlex.quote(value)}" for name, value in said.items()]
        return " ".join([*variables, "mme destroy", shlex.quote(str(self.file))])

    @property
    def notice(self) -> str:
        """Return what whoever is in a hurry is told while everything is taken down."""
        return f"still taking {self.name} down; by hand: {self.removal_command}"

    @property
    def leftover(self) -> str:
        """Return what is said where something is left."""
        return f"Something is left. Take it down: {self.removal_command}"

    def announcement(self) -> list[str]:
        """Say what will be done, where, and about what it costs."""
        account, options = self._site.account, self._options
        lines = [
            f"Smoke test {self.name} on {account}:",
            f"  one {options.instance_type} with three small models, a bucket, a role",
            f"  all of it is taken down, after {options.minutes:g} minutes at the latest",
            f"  image {self._site.image}",
        ]
        if not account.is_real:
            return [*lines, "  on the local service it is free"]
        minutes = options.minutes + _REMOVAL_MINUTES
        expected = self._cost(minutes * 60)
        if expected is None:
            lines.append(
                f"  cost: unknown, no published price of {options.instance_type} in "
                f"{account.region} is to be had; https://aws.amazon.com/sagemaker/pricing/ has it"
            )
        else:
            cost = f"{expected:.2f} USD for {minutes:g} minutes of the instance"
            lines += [
                f"  cost: about {cost}, and less than 0.01 USD",
                "    for requests, storage, logs; an endpoint that hangs can be there for longer",
            ]
        return [
            *lines,
            f"  should this be killed: {self.removal_command}",
        ]

    def cancel(self) -> None:
        """Forget it, before it was run."""
        self._forget()

    def run(self) -> SmokeReport:
        """Run it, take everything down, and report."""
        began = time.monotonic()
        failure = ""
        with Ending(self._options.minutes * 60, self._say, self.notice) as ending:
            try:
                self._proceed(ending)
                ending.stop()
            except EndedEarly as early:
                failure = f"{early}, while {self._stage}"
            except (MmekitError, BotoCoreError, ClientError, OSError) as error:
                failure = f"{error} (while {self._stage})"
                self._read_log()
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
            self._say(self.leftover)
        return report

    def _proceed(self, ending: Ending) -> None:
        with self._doing("packing"):
            self._models = write_models(self._folder)
            packed = self._packed()
        with self._doing("deploying"):
            self._see(_DEPLOYED, passed=False, seen="it does not")
            began = time.monotonic()
            with deploy_errors(self._site.account.settings):
                self._deploy()
            self._see(_DEPLOYED, passed=True, seen=f"after {time.monotonic() - began:.0f} s")
        with self._doing("asking the models"):
            for model in self._models:
                ending.see()
                asked = ask(self._site, model, packed[model.name], self._say)
                self._calls += asked.calls
                self._checks[asked.check.name] = asked.check
                self._times += [] if asked.times is None else [asked.times]
        with self._doing("waiting for log and metrics"):
            self._wait(ending)

    def _written(self) -> Site:
        """Write the deployment file, and return what it says in its account."""
        options = self._options
        chosen: dict[str, Any] = {} if options.target is None else {"target": options.target}
        if options.region is not None:
            chosen["region"] = options.region
        settings = Settings(**chosen)
        content = {
            "name": self.name,
            "region": settings.region,
            "instance_type": options.instance_type,
            "image": options.image or published_image(settings.region, options.instance_type),
            "environment": dict(options.environment),
            "packages": [{"archive": f"archives/{name}.tar.gz"} for name in NAMES],
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

    def _wait(self, ending: Ending) -> None:
        """Wait until log and metrics are there; note what they say."""
        is_real = self._site.account.is_real
        watch = Watch(self._site, self._models, self._calls, self._began)
        began = said_at = time.monotonic()
        while True:
            ending.see()
            lacking = watch.look()
            self._checks |= watch.checks
            self._log = watch.log
            if not lacking or time.monotonic() - began > _PATIENCE_S[is_real]:
                break
            if time.monotonic() - said_at > _SAID_AGAIN_S:
                said_at = time.monotonic()
                self._say(f"waiting for {', '.join(lacking)} ({said_at - began:.0f} s)")
            time.sleep(_POLL_S[is_real])
        with contextlib.suppress(BotoCoreError, ClientError):
            self._server_times = server_times(self._site, self._began)

    def _read_log(self) -> None:
        """Have what the log says of a failure in the report, where it can be had."""
        with contextlib.suppress(BotoCoreError, ClientError):
            self._log = read_log(self._site)

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
        answers = map(check_of_answers, NAMES)
        names = (_DEPLOYED, *answers, *CHECKS_OF_LOG, *CHECKS_OF_METRICS, _GONE)
        return SmokeReport(
            place,
            tuple(self._checks.get(name) or SmokeCheck(name, None, "") for name in names),
            tuple(self._times),
            self._server_times,
            self._stages,
            () if self._log is None else self._log.lines(),
            failure,
        )

    def _cost(self, seconds: float) -> Decimal | None:
        site = self._site
        cost = cost_of(
            site.account.region,
            site.deployment.instance_type,
            instances=1,
            models=len(NAMES),
            account=site.account,
        )
        return None if cost.hour is None else cost.hour * Decimal(str(round(seconds))) / _HOUR_S

    def _see(self, name: str, *, passed: bool, seen: str) -> None:
        self._checks[name] = SmokeCheck(name, passed, seen)

    @contextlib.contextmanager
    def _doing(self, stage: str) -> Iterator[None]:
        self._stage = stage
        began = time.monotonic()
        try:
            yield
        finally:
            self._stages[stage] = time.monotonic() - began

    def _forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
