"""The Chromium that is on this machine, driven by Playwright."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def running_chromium(*arguments):
    """Start a Chromium with these arguments; skip the test where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])
        yield browser
        browser.close()
