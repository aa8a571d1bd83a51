"""What tests of all rooms share."""

import os
from pathlib import Path

import pytest

from mmekit.ports import free_port


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
