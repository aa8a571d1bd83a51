"""What tests of all rooms share."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from mmekit_local.ports import free_port

# A shell that runs the tests in the background has them ignore SIGINT, and all that they start.
with contextlib.suppress(ValueError):  # not the main thread
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

# As servers do it. Threads of OpenMP wait actively: with workers of pytest side by side, models
# that are fitted or asked take four times as long. Before a library looks at it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Servers, services and `mme` are forked from a process that has imported these: see
# forked_program.py.
if sys.platform == "linux":
    multiprocessing.set_forkserver_preload(
        [
            *("mmekit.archive", "mmekit.cli", "mmekit_bench", "mmekit_local.aws.service"),
            *("mmekit_local.server.__main__", "uvloop"),
        ]
    )

# How long an example takes, or to make one, decides nothing: that is the machine's affair.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

LONGEST = (
    "test_notebooks",
    "test_catboost_notebook",
    "test_benchmarks",
    "test_endpoint_benchmark",
    "test_server_benchmark",
    "test_state",
    "test_docker",
    "test_processes",
    "test_cli",
    "test_deploy",
    "test_embedded",
    "test_rehearsal",
    "test_setup",
    "test_bench_command",
)
"""Files of tests that take a worker for long: they are begun first, so that none is left alone."""


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # by the number of a file's tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Say in a line what was skipped, by reason: each of them alone is shown by -rs."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons and "s" not in terminalreporter.reportchars:
        said = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"skipped: {said}")


@pytest.fixture(scope="session")
def root():
    """Return the folder of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _settings_of_the_user_stay_out(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("MME_", "AWS_")) and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)


@pytest.fixture(name="free_port")
def a_free_port():
    """Return a port of loopback that nothing listened on a moment ago."""
    return free_port()
