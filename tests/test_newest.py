"""What mmekit relies on in moto, botocore and jgo is still there in their newest releases.

All other tests run with the versions that requirements.lock names; these with the newest that the
package index has, inside the bounds of pyproject.toml or beyond. `make newest` asks for them: what
others release today must not fail a checkout that passed yesterday.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
# What is installed anew, and what is run with it: tests, or a module of ours.
RELIED_ON = {
    "moto": (["moto[server]"], ["coverage", "moto_itself", "rollback", "services", "storage"]),
    "botocore": (["botocore", "boto3", "s3transfer"], ["boto3", "coverage", "services"]),
    "jgo": (["jgo"], "mmekit.engine"),  # fetches DJL's engine by it
}


def bound_of(library):
    """Return what pyproject.toml says of a library, in whichever list that is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    ours = [Requirement(line) for lines in lists for line in lines]
    (bound,) = {each.specifier for each in ours if each.name == library and each.specifier}
    return bound


def newest(library):
    """Return the newest release that this Python can have; skip without an index to ask."""
    asked = subprocess.run(
        [UV, "pip", "compile", "-", "--no-deps", "--no-header", "--no-annotate", "--refresh"],
        input=library,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        pytest.skip(f"no package index answers: {asked.stderr.strip()}")
    return Version(asked.stdout.strip().partition("==")[2])


def install(requirements, library, folder):
    """Install the newest releases into a folder, all else as it is here."""
    renewed = {Requirement(each).name for each in requirements}
    here = {
        f"{each.name}=={each.version}"
        for each in importlib.metadata.distributions()
        if each.name not in {*renewed, "mmekit"}
    }
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(sorted(here)))
    options = ["--python", sys.executable, "--target", folder / "newest"]
    options += ["--constraint", constraints, "--upgrade-package", library]
    return subprocess.run(
        [UV, "pip", "install", *map(str, options), *requirements],
        capture_output=True,
        text=True,
        check=False,
    )


def command_for(relied_on):
    if isinstance(relied_on, str):
        return [sys.executable, "-m", relied_on]
    options = ["-q", "-n", "0", "--tb=short", "-p", "no:cacheprovider"]
    tests = [str(the_tests_of(name)) for name in relied_on]
    return [sys.executable, "-m", "pytest", *options, *tests]


def the_tests_of(name):
    (found,) = (ROOT / "tests").rglob(f"test_{name}.py")
    return found


@pytest.mark.parametrize("library", RELIED_ON)
def test_the_bound_lets_in_what_is_installed_and_not_everything(library):
    bound = bound_of(library)
    assert Version(importlib.metadata.version(library)) in bound
    assert Version("99") not in bound


@pytest.mark.parametrize("library", RELIED_ON)
def test_the_tests_of_what_is_relied_on_are_there(library):
    relied_on = RELIED_ON[library][1]
    assert isinstance(relied_on, str) or all(map(the_tests_of, relied_on))


@pytest.mark.skipif(
    os.environ.get("MMEKIT_TEST_NEWEST") != "1", reason="`make newest` asks for the newest releases"
)
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default:.* is out")  # said in the summary, whether it works or not
@pytest.mark.parametrize("library", RELIED_ON)
def test_the_newest_release_has_what_is_relied_on(library, tmp_path):
    latest, here = newest(library), Version(importlib.metadata.version(library))
    if latest <= here:
        pytest.skip(f"{library} {here} is the newest, and what all tests run with")
    bound = bound_of(library)
    where = "inside" if latest in bound else "beyond"
    said = f"{library} {latest} is out, {where} our bound {bound}; tests run with {here}"
    warnings.warn(said, stacklevel=1)

    requirements, relied_on = RELIED_ON[library]
    installed = install(requirements, library, tmp_path)
    assert installed.returncode == 0, f"{said}. It cannot be installed:\n{installed.stderr}"
    tried = subprocess.run(
        command_for(relied_on),
        cwd=ROOT,
        env=os.environ
        | {"PYTHONPATH": str(tmp_path / "newest"), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, f"{said}. It lacks what is relied on:\n{tried.stdout[-8000:]}"
