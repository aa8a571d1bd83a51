"""Run `mme` again and again, each run killed right after the first thing it changed at AWS.

SIGKILL comes from inside the process, the moment boto3 has the answer: so every state that a kill
between two changes can leave is gone through once. Prints, a line each, the operations after which
a run was killed, and at the end the exit code of the run that had nothing left to change.
"""

import functools
import os
import signal
import sys

import botocore.client
import botocore.session

import mmekit.deploy  # noqa: F401 - for the runs, too
from mmekit.cli import main
from mmekit.settings import Settings

SERVICES = ("sts", "s3", "iam", "sagemaker", "application-autoscaling", "cloudwatch")
READING = ("Describe", "List", "Get", "Head")
answer = botocore.client.BaseClient._make_api_call


def answer_and_die(client, operation, arguments):
    answered = answer(client, operation, arguments)
    if not operation.startswith(READING):
        sys.stderr.write(f"{operation}\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return answered


def run_once(arguments):
    process = os.fork()
    if process == 0:
        botocore.client.BaseClient._make_api_call = answer_and_die
        sys.argv = ["mme", *arguments]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main()
    _, status = os.waitpid(process, 0)
    return status


def read_service_models():
    """Read them once and not in each of the runs, which are forked from here."""
    botocore.session.create_loader = functools.lru_cache(botocore.session.create_loader)
    settings = Settings(target="local")
    for service in SERVICES:
        settings.client(service).close()


if __name__ == "__main__":
    read_service_models()
    while os.WIFSIGNALED(status := run_once(sys.argv[1:])):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
    sys.stderr.write(f"exit {os.WEXITSTATUS(status)}\n")
