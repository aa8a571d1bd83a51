"""The site that `make docs` builds has every page, and none that is broken."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]


def nav():
    return set(re.findall(r'= "([\w./-]+\.md)" \}', (ROOT / "zensical.toml").read_text()))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_page_is_in_the_navigation(page):
    assert str(page.relative_to(ROOT).with_suffix(".md")) in nav()


def test_every_wing_that_names_what_it_exports_is_in_the_reference():
    faces = [
        folder.name
        for folder in (ROOT / "packaging").iterdir()
        if (folder / "__init__.py").is_file() and "__all__" in (folder / "__init__.py").read_text()
    ]
    assert {f"reference/{face}.md" for face in faces} <= nav()


@pytest.fixture
def copy(tmp_path):
    """Return a copy of all that the site is made from."""
    ignored = shutil.ignore_patterns("__pycache__", "build", "node_modules", "cdk.out")
    for name in ("docs", "infrastructure", "model_packages", "notebooks", "packaging", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("tests", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    for file in [*ROOT.glob("*.*"), ROOT / "LICENSE", ROOT / ".env.example"]:
        if file.is_file():
            shutil.copy(file, tmp_path)
    return tmp_path


def build(folder):
    return subprocess.run(
        [sys.executable, "tools/pages.py"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.thorough
@pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None, reason="zensical is not installed"
)
def test_the_site_is_whole_and_a_broken_link_is_named(copy):
    built = build(copy)
    assert built.returncode == 0, built.stdout + built.stderr
    commands = (copy / "build" / "site" / "reference" / "commands.html").read_text()
    assert "mme pack" in commands
    archives = (copy / "build" / "site" / "reference" / "mmekit.archive.html").read_text()
    assert "the same bytes" in archives

    page = copy / "docs" / "init.md"
    page.write_text(page.read_text() + "\n[nowhere](handlers.md#no-such-heading)\n")
    broken = build(copy)
    assert broken.returncode != 0
    assert "no-such-heading" in broken.stderr
    assert "Traceback" not in broken.stderr
