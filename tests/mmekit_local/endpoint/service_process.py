"""The endpoint service as a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from tests.forked_program import ForkedProgram

_PROGRAM = Path(__file__).with_name("service_program.py")


class ServiceProcess(ForkedProgram):
    """A service that has been started.

    It is forked, as to import what a service needs takes a second of a core, and there are more
    than a hundred of them.

    Parameters
    ----------
    arguments
        What `service_program` reads.
    log
        The path of a file for what it prints.
    variables
        Of its environment, besides this process's own.
    """

    def __init__(self, arguments, log, **variables):
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        streams = (os.open(os.devnull, os.O_RDONLY), output, os.dup(output))
        environment = {**os.environ, **variables}
        super().__init__(str(_PROGRAM), list(arguments), Path.cwd(), environment, *streams)
