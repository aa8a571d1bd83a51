"""Where `mme up` listens: at MME_LOCAL_URL, unless --host and --port say otherwise."""

import os
import subprocess
import sys

import pytest

from mmekit.errors import SettingsError
from mmekit_local.ports import free_port, listening_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (None, ("127.0.0.1", 8950)),
        ("http://127.0.0.1:9001/", ("127.0.0.1", 9001)),
        ("http://localhost:9001", ("localhost", 9001)),
        ("http://[::1]:9001", ("::1", 9001)),
        ("http://127.0.0.2", ("127.0.0.2", 80)),
    ],
)
def test_the_service_listens_where_its_clients_look(monkeypatch, url, address):
    if url is not None:
        monkeypatch.setenv("MME_LOCAL_URL", url)
    assert listening_address() == address


def test_what_is_given_wins_over_the_variable(monkeypatch):
    monkeypatch.setenv("MME_LOCAL_URL", "http://127.0.0.2:9001")
    assert listening_address(port=7) == ("127.0.0.2", 7)
    assert listening_address(host="0.0.0.0") == ("0.0.0.0", 9001)  # noqa: S104 - whoever asks for it
    monkeypatch.setenv("MME_LOCAL_URL", "http://example.com:9001")
    assert listening_address("127.0.0.1", 0) == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:8950",
        "http://example.com:8950",
        "http://10.0.0.7:8950",
        "http://0.0.0.0:8950",
        "http://127.0.0.1.example.com",
        "http://me:word@127.0.0.1:8950",
        "ftp://127.0.0.1",
        "http://127.0.0.1:99999",
    ],
)
def test_what_is_no_http_on_this_machine_is_an_error_that_names_the_variable(monkeypatch, url):
    monkeypatch.setenv("MME_LOCAL_URL", url)
    with pytest.raises(SettingsError, match="MME_LOCAL_URL is "):
        listening_address()


def test_mme_up_is_found_at_the_address_that_the_variable_names():
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    asked = "import os; print(os.environ['MME_LOCAL_URL'])"
    command = [sys.executable, "-m", "mmekit.cli", "up", "--", sys.executable, "-c", asked]
    ran = subprocess.run(
        command,
        env={**os.environ, "MME_LOCAL_URL": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.stdout.split() == [url], ran.stderr
    assert url in ran.stderr
