"""All parts of the endpoint service, put together and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import threading
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmekit.aws_environment import announcement, reachable_url
from mmekit.settings import LOCAL_REGION
from mmekit_local.aws.cloudformation import Stacks
from mmekit_local.aws.front import AwsFront
from mmekit_local.aws.functions import Functions
from mmekit_local.aws.listening import cannot_listen
from mmekit_local.aws.moto.aws import Aws
from mmekit_local.aws.moto.identities import role_variables
from mmekit_local.aws.state.log import StateLog
from mmekit_local.aws.state.recorder import StateRecorder
from mmekit_local.aws.state.replay import restore
from mmekit_local.http import HttpServer, OriginPolicy
from mmekit_local.printed import lines_per_second
from mmekit_local.sagemaker.asynchronous import AsyncInference
from mmekit_local.sagemaker.control.autoscaling import Autoscaler
from mmekit_local.sagemaker.control.control_plane import ControlPlane
from mmekit_local.sagemaker.control.endpoint_controller import EndpointController
from mmekit_local.sagemaker.data_plane import DataPlane
from mmekit_local.sagemaker.event_log import EventLog
from mmekit_local.sagemaker.instances.fleet import Fleet
from mmekit_local.sagemaker.observability.capture import DataCapture
from mmekit_local.sagemaker.observability.logs import LogShipper
from mmekit_local.sagemaker.observability.metrics import Metrics
from mmekit_local.sagemaker.observability.monitor import EndpointMonitor, publish
from mmekit_local.sagemaker.page.routes import PAGE_PATHS, PageRoutes
from mmekit_local.scratch import scratch_folder, sweep

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mmekit_local.sagemaker.instances.launcher import ContainerLauncher
    from mmekit_local.sagemaker.options import EndpointOptions
    from mmekit_local.sagemaker.specification import EndpointId, EndpointSpecification

__all__ = ["serve"]

logger = logging.getLogger("mmekit.endpoint")

_CLOSING_SECONDS = 2
_FLUSH_SECONDS = 1.0


async def serve(
    options: EndpointOptions, launcher: ContainerLauncher, listener: socket.socket
) -> None:
    """Serve on a bound socket until SIGINT or SIGTERM comes.

    Raises
    ------
    EndpointError
        The state folder cannot be used.
    SettingsError
        ``MMEKIT_ALLOWED_HOSTS``, ``MMEKIT_LOG_LINES_PER_S`` or ``MMEKIT_BAKING_MINUTE_S`` cannot
        be read.
    """
    lines_per_second()
    policy = OriginPolicy.of(options.host, listener.getsockname()[0], PAGE_PATHS)
    for prefix in ("mmekit-endpoint-", "mme-"):  # of a service, and of containers, that was killed
        await asyncio.to_thread(sweep, prefix)
    with _state(options.state) as state, scratch_folder("mmekit-endpoint-") as folder:
        aws = Aws(state)
        metrics = Metrics(aws)
        event_log = EventLog()
        logs, captures = LogShipper(metrics.embedded), DataCapture(aws)
        make_fleet = _fleets(
            aws, launcher, options, folder, metrics, event_log, logs, captures, url=_url(listener)
        )

        def forget(endpoint: EndpointId) -> None:
            for one in (metrics, monitor, captures, event_log):
                one.forget(endpoint)

        controller = EndpointController(
            options, make_fleet, event_log, _outcome_recorder(state), forget, metrics
        )
        control_plane = ControlPlane(aws, controller)
        asynchronous = AsyncInference(controller.serving, aws, metrics)
        data_plane = DataPlane(controller.serving, options.limits, asynchronous)
        monitor = EndpointMonitor(controller.serving, metrics)
        page = PageRoutes(monitor, event_log, controller.statuses, data_plane, aws.keys)
        functions = Functions(_url(listener), folder / "functions", lambda: aws.is_replaying)
        stacks = Stacks(
            _url(listener),
            aws,
            controller,
            state.record_change if state else _discard,
            _outcome_recorder(state),
        )
        front = AwsFront(
            data_plane, control_plane, stacks, aws, functions, metrics, options.limits, page
        )
        server = HttpServer(front.responder, front.limits, policy)
        stop_requested = asyncio.Event()
        _stop_at_signals(stop_requested)
        tasks = [
            asyncio.ensure_future(work)
            for work in (publish(monitor, logs, captures), asynchronous.run())
        ]
        try:
            if state is not None:
                # Before anybody is answered: a state that is half there gives answers that are
                # wrong.
                await restore(state, aws, control_plane, controller, stacks)
                tasks.append(asyncio.ensure_future(_flush_pending(state)))
            tasks.append(
                asyncio.ensure_future(Autoscaler(controller, options.autoscaling_minute).run())
            )
            try:
                await server.start(listener)
            except OSError as error:  # Linux lets two bind to a port, until one of them listens
                raise cannot_listen(error, options) from error
            _announce(listener, options.state)
            await stop_requested.wait()
        finally:
            logger.info("stopping")
            page.close()
            # Before the server: the work on stacks calls this very service, and would take its end
            # for refusals to roll back from.
            await asyncio.to_thread(stacks.close)
            await server.close(_CLOSING_SECONDS)
            for task in tasks:
                task.cancel()
            await functions.close()
            await asynchronous.close()
            await controller.close()
            await captures.flush()
            aws.close()
            kept = "nothing else is left behind" if state else "nothing is left behind"
            logger.info("stopped; %s", kept)


@contextlib.contextmanager
def _state(folder: Path | None) -> Iterator[StateRecorder | None]:
    if folder is None:
        yield None
        return
    log = StateLog(folder)
    try:
        state = StateRecorder(log)
        yield state
        try:
            state.flush_pending()
        except OSError as error:
            logger.warning("the last changes are not written down: %s", error)
    finally:
        log.close()


def _outcome_recorder(state: StateRecorder | None) -> Callable[[dict[str, Any]], None]:
    """Return what writes down what has become of something, now or as soon as there is room."""

    def record(change: dict[str, Any]) -> None:
        if state is not None:
            try:
                state.record_outcome(change)
            except OSError as error:
                logger.warning("a change cannot be written down yet: %s", error)

    return record


def _discard(_: dict[str, Any]) -> None:
    """Write nothing down, where nothing is kept."""


async def _flush_pending(state: StateRecorder) -> None:
    """Write down, until cancelled, what there was no room for once there is."""
    while True:
        await asyncio.sleep(_FLUSH_SECONDS)
        if state.has_pending:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(state.flush_pending)


def _fleets(  # noqa: PLR0913 - what a fleet is made of
    aws: Aws,
    launcher: ContainerLauncher,
    options: EndpointOptions,
    folder: Path,
    metrics: Metrics,
    event_log: EventLog,
    logs: LogShipper,
    captures: DataCapture,
    *,
    url: str,
) -> Callable[[EndpointSpecification], Fleet]:
    options = replace(options, instances=None)  # the specification has it

    def make_fleet(specification: EndpointSpecification) -> Fleet:
        account, region, _ = specification.id
        return Fleet(
            specification,
            options=options,
            launcher=launcher,
            read_object=lambda bucket, key: aws.read_object(account, region, bucket, key),
            folder=folder / uuid.uuid4().hex[:12],
            metrics=metrics,
            event_log=event_log,
            logs=logs,
            capture=captures.of(specification),
            account_of=lambda role: role_variables(account, region, role, url),
        )

    return make_fleet


def _stop_at_signals(stop_requested: asyncio.Event) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # whoever runs it in a thread stops it otherwise
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop_requested.set)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return reachable_url(host, port)


def _announce(listener: socket.socket, state: Path | None) -> None:
    url = _url(listener)
    if state is None:
        kept = "Everything is temporary: Ctrl-C forgets all; --state DIR would keep it."
    else:
        kept = f"Buckets, models and endpoints are kept in {state}."
    lines = (
        f"SageMaker, S3 and the rest of AWS listen on {url}; Ctrl-C stops them.",
        kept,
        f"What they do is shown live on {url}/_mme/",
        "For boto3 and the AWS CLI in another terminal:",
        *(f"  {line}" for line in announcement(url, LOCAL_REGION)),
    )
    for line in lines:
        logger.info(line, extra={"printed": True})  # as it is: the credentials are no secret
    if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
        logger.warning(
            "Whoever reaches %s can run models and change everything here; there is no "
            "authentication.",
            url,
        )
