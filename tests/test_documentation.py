"""What README and docs/ say is what is there, and what README tells one to type works."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from typer.main import get_command

from mmekit.cli import app
from mmekit.deploy import cost_of
from mmekit.settings import Settings
from mmekit.testing import load_handler
from mmekit_local.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
README, FIRST_MODEL = ROOT / "README.md", ROOT / "docs" / "first-model.md"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
PICTURES = sorted((ROOT / "docs").glob("*.svg"))
FOLDERS = ("benchmarks", "docs", "notebooks", "packaging", "tests", "tools")


def names(paths):
    return [path.name for path in paths]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def prose(page):
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    # As GitHub makes them.
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(page):
    """Return the first cells of a page's table, without their backticks."""
    return re.findall(r"^\| `(.+?)` \|", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_file_that_is_named_exists(page):
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_make_target_exists(page):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = re.findall(r"(?:^|`)make (\w+)", page.read_text(), re.MULTILINE)
    assert set(typed) <= targets


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_test_that_is_named_exists(page):
    there = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", page.read_text()):
        assert f"def {name}(" in there, name


def test_every_file_of_tests_says_what_of_the_product_it_describes():
    files = sorted((ROOT / "tests").rglob("*.py"))
    said = {path: ast.get_docstring(ast.parse(path.read_text())) or "" for path in files}
    assert len(files) > 200
    assert [path for path, text in said.items() if len(text.split()) < 4] == []


FIDELITY = [
    line
    for line in (ROOT / "docs" / "fidelity.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| What |", "| **"))
]


@pytest.mark.parametrize("line", FIDELITY, ids=lambda line: line.split("|")[1].strip()[:60])
def test_every_line_of_fidelity_names_tests_that_are_in_their_files(line):
    _, _, shown = line.strip("| ").split(" | ")
    named = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", shown)
    assert named
    assert shown.count("](") == len(named)
    for test, file in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


@pytest.mark.parametrize("picture", PICTURES, ids=names(PICTURES))
def test_every_picture_is_shown_and_says_what_it_shows(picture):
    drawn = ET.parse(picture).getroot()  # noqa: S314 - our own file
    for name in ("title", "desc"):
        assert drawn.findtext(f"{{http://www.w3.org/2000/svg}}{name}")
    assert any(f"{picture.name})" in page.read_text() for page in PAGES)


def test_what_readme_says_is_saved_is_what_deploy_computes():
    text = (ROOT / "README.md").read_text()
    (call,) = re.findall(r"`mmekit\.deploy\.(cost_of\(.+?\))`", text)
    cost = eval(call, {"cost_of": cost_of})  # noqa: S307 - our own text
    assert cost.models == 200
    apart, together = f"{cost.hour_of_single_endpoints.normalize():f}", str(cost.hour)
    assert f"cost {apart} USD an hour. On one they cost {together}." in text
    picture = (ROOT / "docs" / "one_endpoint.svg").read_text()
    assert f">{apart} USD an hour<" in picture
    assert f">{together} USD an hour<" in picture


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_table_of_commands_is_that_of_mme():
    mme = get_command(app)
    commands = mme.commands
    table = rows(ROOT / "docs" / "commands.md")
    assert [row.split()[1] for row in table] == mme.list_commands(None)
    for row in table:
        options = {option for one in commands[row.split()[1]].params for option in one.opts}
        assert set(re.findall(r"(?<!\S)--?\w[\w-]*", row)) <= options


def test_the_table_of_settings_is_that_of_settings():
    fields = Settings.model_fields
    variables = [
        str(field.validation_alias or f"MME_{name.upper()}") for name, field in fields.items()
    ]
    assert sorted(rows(ROOT / "docs" / "settings.md")) == sorted(variables)


def test_the_types_of_errors_are_those_of_the_server():
    source = "".join(
        path.read_text() for path in (ROOT / "packaging" / "mmekit_local" / "server").glob("*.py")
    )
    documented = set(re.findall(r"`(\w+Exception)`", (ROOT / "docs" / "server.md").read_text()))
    # A time-out is part of a message, and no type.
    assert documented == {*re.findall(r'"(\w+Exception)"', source)} - {"TimeoutException"}


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """Type all that README and the page after it say to type, in an empty folder; return both."""
    folder = tmp_path_factory.mktemp("reader")
    programs = folder / "bin"
    programs.mkdir()
    mme = programs / "mme"
    mme.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mmekit.cli "$@"\n')
    mme.chmod(0o755)
    typed = [block for page in (README, FIRST_MODEL) for block in blocks(page, "sh")]
    finished = subprocess.run(
        ["sh", "-c", "set -e\n" + "\n".join(typed)],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("MME_")},
            "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.defpath]),
            "PYTHONPATH": str(ROOT / "packaging"),
            # Somebody may have a `mme up` running.
            "MME_LOCAL_URL": f"http://127.0.0.1:{free_port()}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder, finished.stdout


@pytest.mark.thorough
def test_the_steps_end_with_the_answers_that_are_shown(followed):
    _, output = followed
    shown = [
        re.findall(r"It answers `(.+)`, rounded", page.read_text())
        for page in (README, FIRST_MODEL)
    ]
    answers = [
        json.loads(line)["predictions"]
        for line in output.splitlines()
        if line.startswith('{"predictions"')
    ]
    assert len(answers) == len(shown)
    for answer, (text,) in zip(answers, shown, strict=True):
        assert [round(one, 1) for one in answer] == json.loads(text)["predictions"]


@pytest.mark.thorough
def test_the_archive_made_by_hand_answers_too(followed):
    folder, _ = followed
    with load_handler(folder / "build" / "archives" / "plain.tar.gz") as model:
        answer = model.invoke('{"instances": [[5.1, 3.5, 1.4, 0.2]]}')
    assert answer.json() == {"predictions": ["setosa"]}


@pytest.mark.thorough
def test_the_handler_and_the_tests_of_it_that_are_shown_pass(followed):
    folder, _ = followed
    handler, example = blocks(FIRST_MODEL, "python")
    (folder / "model_packages" / "cars" / "model.py").write_text(handler)
    (folder / "test_cars.py").write_text(example)
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_cars.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "2 passed" in finished.stdout, finished.stdout + finished.stderr
