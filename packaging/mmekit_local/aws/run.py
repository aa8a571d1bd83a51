"""Start the endpoint service and stay until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING, TextIO

from mmekit_local.aws.listening import listening
from mmekit_local.http import run_in_loop
from mmekit_local.redaction import LineFormatter
from mmekit_local.sagemaker.instances.launcher import launcher_named
from mmekit_runtime.slots.descriptors import raise_descriptor_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit_local.sagemaker.instances.launcher import ContainerLauncher
    from mmekit_local.sagemaker.options import EndpointOptions

    _Handler = logging.StreamHandler[TextIO]
else:
    _Handler = logging.StreamHandler

__all__ = ["run"]

logger = logging.getLogger("mmekit.endpoint")


def run(options: EndpointOptions, *, launcher: ContainerLauncher | None = None) -> None:
    """Serve until SIGINT or SIGTERM; then stop every container and remove every folder.

    Progress goes to standard output, a line an event, through the logger ``mmekit.endpoint``.

    Parameters
    ----------
    options
        Port, containers and limits.
    launcher
        Starts the containers; None takes the one that ``options.server`` names.

    Raises
    ------
    EndpointError
        The port is taken, or ``options.server`` names no kind of container.
    """
    raise_descriptor_limit()
    launcher = launcher or launcher_named(options.server)
    with listening(options) as listener, _lines_on_stdout():
        logger.info("starting the local service; that takes a few seconds")
        # Here and not above: moto and Flask take a second to import.
        from mmekit_local.aws.service import serve

        run_in_loop(serve(options, launcher, listener))


class _UntilNobodyReads(_Handler):
    """Writes lines as long as somebody reads them: `mme up | head` goes on serving."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            self.setLevel(logging.CRITICAL + 1)
        else:
            super().handleError(record)


@contextlib.contextmanager
def _lines_on_stdout() -> Iterator[None]:
    handler = _UntilNobodyReads(sys.stdout)
    handler.setFormatter(LineFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    loggers = [logger, logging.getLogger("mmekit.http")]
    before = [(one, one.level, one.propagate) for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.setLevel(logging.INFO)
        one.propagate = False
    try:
        yield
    finally:
        for one, level, propagate in before:
            one.removeHandler(handler)
            one.setLevel(level)
            one.propagate = propagate
