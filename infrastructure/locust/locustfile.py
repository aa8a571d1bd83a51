"""Callers of a multi-model endpoint for locust: boto3 in, locust's percentile table out.

Install locust beside mmekit and choose who calls::

    pip install locust
    locust -f infrastructure/locust/locustfile.py HotModel --headless --users 8 --run-time 60s \
        --endpoint mmekit --data model_packages/extra_trees_classifier/sample_request.json

The target is that of MME_TARGET, as for `mme invoke`. Each caller waits for its answer before it
calls again; `mme bench --rate` does not wait.
"""

# ruff: noqa: INP001 - a folder of a scenario is no package

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from locust import User, events, task

from mmekit.settings import Settings
from mmekit_bench import Payload, listed_targets
from mmekit_bench.connections import runtime_client
from mmekit_bench.traffic import picks, weights

_MOST_USERS = 200  # who are started from the web page


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:
    """Add what a scenario has to know to locust's own options and to its web page."""
    parser.add_argument("--endpoint", default=Settings().endpoint_name, help="Whom to call.")
    parser.add_argument("--data", required=True, help="A file with the body of every call.")
    parser.add_argument("--targets", default="", help="Target models: A,B,… the hottest first.")
    parser.add_argument("--top", type=int, default=5, help="How many models TopModels calls.")


@events.init.add_listener
def prepare(environment: Any, **_: Any) -> None:
    """Find out what there is to call, before the clock runs: boto3 takes a while to get ready."""
    options, settings = environment.parsed_options, Settings()
    named = tuple(name for name in options.targets.split(",") if name)
    environment.targets = named or listed_targets(options.endpoint, settings)
    environment.payload = Payload.of_file(Path(options.data))
    environment.client = runtime_client(settings, options.num_users or _MOST_USERS)


class _Caller(User):
    """Calls one model after the other; those below say which."""

    abstract = True
    distribution = "uniform"
    started = itertools.count()

    def on_start(self) -> None:
        """Draw models in an order of one's own."""
        options = self.environment.parsed_options
        shares = weights(self.distribution.format(top=options.top), len(self.environment.targets))
        self.picks = picks(shares, seed=next(self.started))

    @task
    def invoke_endpoint(self) -> None:
        """Call the endpoint once."""
        began = time.perf_counter()
        error, length = None, 0
        here = self.environment
        target = here.targets[next(self.picks)]
        try:
            answer = here.client.invoke_endpoint(
                EndpointName=here.parsed_options.endpoint,
                Body=here.payload.body,
                ContentType=here.payload.content_type,
                **({"TargetModel": target} if target else {}),
            )
            length = len(answer["Body"].read())
        except Exception as failed:  # noqa: BLE001 - locust counts whatever it is
            error = failed
        here.events.request.fire(
            request_type="custom_protocol_boto3",
            name="sagemaker_client_invoke_endpoint",
            response_time=(time.perf_counter() - began) * 1e3,
            response_length=length,
            exception=error,
            context={"target_model": target},
        )


class OneModel(_Caller):
    """All call the first model."""

    distribution = "one"


class HotModel(_Caller):
    """Nine of ten calls go to the first model, the tenth to any other."""

    distribution = "hot"


class TopModels(_Caller):
    """All calls go to the first few models, alike: --top says how many."""

    distribution = "top-{top}"


class AllModels(_Caller):
    """Calls go to all models alike, most of which the endpoint may have to load first."""

    distribution = "uniform"
