"""Taking a smoke test down, and looking whether anything of it is left."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from mmekit.deploy import Account, Action, Site, deploy_errors, plan_removal, read_deployment
from mmekit.deploy.account import TAG, code_of, is_missing
from mmekit.errors import MmekitError
from mmekit.operate.endpoints import log_group

if TYPE_CHECKING:
    from pathlib import Path

    from mmekit.deploy import Report

__all__ = ["Removal"]

_TRIES = 3
_TRIES_OF_LOG = 5
_LATE_S = {True: 20.0, False: 1.0}
"""That the last lines of an instance may take: a real account's, the local service's."""


class Removal:
    """What takes down all that a smoke test has made.

    It has clients of its own: those of a call that was interrupted may be in any state.

    Parameters
    ----------
    file
        The deployment file.
    target
        As of `mmekit.smoke.SmokeOptions`.
    say
        Is told what happens.
    """

    def __init__(self, file: Path, target: str | None, say: Report) -> None:
        self._file = file
        self._target = target
        self._say = say
        self._failure = ""
        self.looked = ""
        """How it was looked for what is left."""

    def perform(self) -> None:
        """Remove it, with what SageMaker has made for it. What fails is tried again."""
        for _ in range(_TRIES):
            try:
                site = self._site()
                with deploy_errors(site.account.settings):
                    plan_removal(site, self._say).perform(self._say)
                    self._remove_log(site)
            except (MmekitError, OSError) as error:
                self._failure = str(error)
                self._say(self._failure)
            else:
                self._failure = ""
                return

    def left(self) -> list[str]:
        """Return what is still there, and what could not be looked up."""
        if self._failure:
            return [self._failure]
        try:
            site = self._site()
            with deploy_errors(site.account.settings):
                steps = plan_removal(site, lambda _: None).steps
                left = [f"{one.kind} {one.name}" for one in steps if one.action is Action.REMOVE]
                left += _logs(site)
        except (MmekitError, OSError) as error:
            return [str(error)]
        self.looked = f"no endpoint, config, model, object, bucket, role, log; {_listed(site)}"
        return left

    def _site(self) -> Site:
        deployment = read_deployment(self._file)
        return Site(Account(deployment, target=self._target), deployment)

    def _remove_log(self, site: Site) -> None:
        """Remove the log group, again where an instance's last lines have made it anew."""
        for _ in range(_TRIES_OF_LOG):
            try:
                site.account.client("logs").delete_log_group(logGroupName=log_group(site.name))
            except ClientError as error:
                if not (is_missing(error) or code_of(error) == "ResourceNotFoundException"):
                    raise
                return
            self._say(f"remove log group {log_group(site.name)}")
            time.sleep(_LATE_S[site.account.is_real])


def _logs(site: Site) -> list[str]:
    found = site.account.client("logs").describe_log_groups(logGroupNamePrefix=log_group(site.name))
    return [f"log group {one['logGroupName']}" for one in found["logGroups"]]


def _listed(site: Site) -> str:
    """Say what AWS lists by the deployment's tag. What is gone stays in that list for a while."""
    try:
        pages = site.account.client("resourcegroupstaggingapi").get_paginator("get_resources")
        found = [
            one["ResourceARN"].split(":", 5)[-1]
            for page in pages.paginate(TagFilters=[{"Key": TAG, "Values": [site.name]}])
            for one in page["ResourceTagMappingList"]
        ]
    except (BotoCoreError, ClientError) as error:
        return f"the list by tag could not be had: {code_of(error) or type(error).__name__}"
    if not found:
        return "nothing is listed by tag"
    return f"still listed by tag, where what is gone stays for a while: {', '.join(found)}"
