"""The images that this repository builds: their Dockerfiles, and what is pinned for them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmekit.archive.stock_images import STOCK_IMAGE
from mmekit_local.containers import ImageRules, mms

FOLDER = Path(__file__).resolve().parents[3] / "infrastructure" / "containers"
DOCKERFILES = sorted(FOLDER.glob("*/Dockerfile"))
ALL_REQUIREMENTS = sorted(FOLDER.rglob("requirements.txt"))


def lines(file):
    stripped = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in stripped if line]


def named(paths):
    return [str(path.relative_to(FOLDER)) for path in paths]


@pytest.mark.parametrize("file", DOCKERFILES, ids=named(DOCKERFILES))
def test_a_dockerfile_has_no_finding(file):
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")

    linted = subprocess.run(
        [hadolint, "--no-color", str(file)], capture_output=True, text=True, check=False
    )

    assert (linted.stdout, linted.returncode) == ("", 0)


@pytest.mark.parametrize("file", DOCKERFILES, ids=named(DOCKERFILES))
def test_an_image_starts_from_a_tag_and_copies_what_is_there(file):
    text = file.read_text()
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))

    def filled(word):
        return re.sub(r"\$\{(\w+)\}", lambda name: arguments[name[1]], word)

    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert re.search(r":\d", filled(image)), image
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (file.parent / filled(source)).exists(), source


@pytest.mark.parametrize("file", ALL_REQUIREMENTS, ids=named(ALL_REQUIREMENTS))
def test_every_requirement_of_an_image_is_pinned(file):
    for line in lines(file):
        (specifier,) = Requirement(line).specifier
        assert specifier.operator == "==", line
        assert "*" not in specifier.version, line


def test_the_image_of_multi_model_server_says_what_sagemaker_looks_for():
    text = (FOLDER / "mms" / "Dockerfile").read_text()

    for label in ("multi-models", "accept-bind-to-port"):
        assert f"com.amazonaws.sagemaker.capabilities.{label}=true" in text
    assert not re.search(r"^USER root", text, re.MULTILINE)


def test_the_rehearsal_has_what_the_image_has():
    assert tuple(lines(FOLDER / "mms" / "requirements.txt")) == mms.REQUIREMENTS


def test_the_image_of_djl_serving_has_what_the_model_packages_ask_for(root):
    there = [Requirement(line) for line in lines(FOLDER / "djl" / "requirements.txt")]
    pinned = {requirement.name: str(requirement.specifier) for requirement in there}

    for file in root.glob("model_packages/*/requirements.txt"):
        for asked in map(Requirement, lines(file)):
            if not STOCK_IMAGE.satisfies(asked):
                assert pinned[asked.name] == str(asked.specifier), file
    for name, version in STOCK_IMAGE.pinned.items():
        assert pinned.get(name, f"=={version}") == f"=={version}"


def test_the_file_of_images_says_what_the_image_of_djl_serving_holds(root):
    rule = ImageRules.read(root / "images.json").find("mmekit-djl:latest")

    requirements = lines(FOLDER / "djl" / "requirements.txt")
    assert rule.holds == (STOCK_IMAGE.name, *requirements)
    assert f"FROM ${{REGISTRY}}/{STOCK_IMAGE.name}" in (FOLDER / "djl/Dockerfile").read_text()
