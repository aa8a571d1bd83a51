"""The endpoint service as a process of its own, as `mme up` runs it, with a chosen container.

It is forked from a process that has imported what a service needs: that takes a second of a core,
and there are more than a hundred of them. What it imports is said in tests/conftest.py.
"""

import argparse
import multiprocessing
import os
import pathlib
import resource
import runpy
import subprocess
import sys
import tempfile

from mmekit_local.aws import run
from mmekit_local.sagemaker import CommandLauncher, EndpointLimits, EndpointOptions

processes = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


class ServiceProcess:
    """A service that has been started, spoken of as a `subprocess.Popen` is.

    Parameters
    ----------
    arguments
        What `serve` reads.
    log
        The path of a file for what it prints.
    variables
        Of its environment, besides this process's own.
    """

    def __init__(self, arguments, log, **variables):
        log.touch()
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        given = {"given": (list(arguments), log, limit, {**os.environ, **variables})}
        # By its path: as a module of the tests it is known to pytest alone.
        self._process = processes.Process(
            target=runpy.run_path, args=(__file__, given, "forked"), daemon=True
        )
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("the service", timeout)
        return self.poll()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()


def _begin(arguments, log, limit, environment):
    # What a process that is no fork inherits.
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it may have been looked up before there was TMPDIR
    serve(arguments)


def serve(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--container", choices=["small", "embedded"], default="small")
    parser.add_argument("--limits", nargs="*", default=[], metavar="NAME=SECONDS")
    parser.add_argument("--state", type=pathlib.Path)
    parser.add_argument("--state-seconds", type=float, default=0.0)
    parser.add_argument("--autoscaling-minute", type=float, default=60.0)
    options = parser.parse_args(arguments)
    limits = (item.partition("=") for item in options.limits)
    small = pathlib.Path(__file__).with_name("small_container.py")
    launcher = CommandLauncher([sys.executable, str(small)])
    run(
        EndpointOptions(
            port=options.port,
            state=options.state,
            state_seconds=options.state_seconds,
            autoscaling_minute=options.autoscaling_minute,
            limits=EndpointLimits(**{name: float(value) for name, _, value in limits}),
        ),
        launcher=launcher if options.container == "small" else None,
    )


if __name__ == "__main__":
    serve(sys.argv[1:])
elif __name__ == "forked":
    _begin(*globals()["given"])
