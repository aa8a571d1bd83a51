"""`mme new-project`: a folder with a model, tests, mme.yaml and a workflow, and nothing of ours."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import yaml

import mmekit
from mmekit.archive import check
from mmekit.deploy import read_deployment
from mmekit.errors import ProjectError
from mmekit.scaffold import new_project
from mmekit_local.ports import free_port

STAGING = """
name: churn-staging
region: eu-central-1
profile: staging
versions: true
packages:
  - build/archives/*.tar.gz
  - package: model_packages/cars
    artifacts_in: build/artifacts/shops
    archives: build/archives/shops
"""


@pytest.fixture
def project(tmp_path):
    new_project(tmp_path / "churn-models")
    return tmp_path / "churn-models"


def test_everything_that_a_project_needs_is_there_under_its_name(project):
    there = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert there >= {
        ".github/workflows/models.yml",
        ".gitignore",
        "README.md",
        "env.py",
        "mme.yaml",
        "model_packages/cars/model.py",
        "notebooks/cars.ipynb",
        "requirements.txt",
        "tests/test_cars.py",
    }
    assert not any("my-project" in (project / path).read_text() for path in there)
    assert (project / "README.md").read_text().startswith("# churn-models\n")


def test_its_models_are_packed_by_the_version_of_mmekit_that_made_it(project):
    lines = (project / "requirements.txt").read_text().splitlines()
    asked = {line.split("  #")[0] for line in lines}
    assert f"mmekit[local]=={mmekit.__version__}" in asked


def test_its_deployment_file_is_one(project):
    deployment = read_deployment(project / "mme.yaml")
    assert deployment.name == "churn-models"
    (package,) = deployment.packages
    assert package.package == project / "model_packages" / "cars"


def test_its_package_has_no_fault(project):
    found = check(project / "model_packages" / "cars")
    assert [one.rule for one in found if one.severity != "note"] == []


def test_its_notebook_is_kept_without_outputs(project):
    cells = json.loads((project / "notebooks" / "cars.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_an_empty_folder_is_filled_and_one_with_a_file_is_left_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    assert Path("mme.yaml") in new_project(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ProjectError, match="nothing is overwritten"):
        new_project(tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ProjectError, match="nothing is overwritten"):
        new_project(tmp_path / "file")


@pytest.mark.parametrize(
    "name", ["Churn", "two--hyphens", "-churn", "churn_1", "a" * 33, "ä", "a b"]
)
def test_a_name_that_no_endpoint_or_bucket_may_have_is_refused(tmp_path, name):
    with pytest.raises(ProjectError, match="is no name for a project"):
        new_project(tmp_path / name)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["no", "null", "true", "123", "0x1f", "1e3", "2026-11-28"])
def test_a_name_that_yaml_reads_otherwise_stays_a_name(tmp_path, name):
    new_project(tmp_path / name)
    assert read_deployment(tmp_path / name / "mme.yaml").name == name
    for file in (tmp_path / name).rglob("*.y*ml"):
        assert f": {name}\n" not in file.read_text()


def test_a_name_that_leads_to_a_folder_in_use_overwrites_nothing(tmp_path):
    (tmp_path / "in-use" / "below").mkdir(parents=True)
    with pytest.raises(ProjectError, match="nothing is overwritten"):
        new_project(tmp_path / "in-use" / "below" / "..")


def test_a_workflow_asks_for_an_account_only_to_deploy(project):
    jobs = yaml.safe_load((project / ".github/workflows/models.yml").read_text())["jobs"]
    assert "deploy" in jobs
    for name, job in jobs.items():
        assert ("aws-actions" in json.dumps(job)) == (name == "deploy")
        assert ("MME_TARGET" in json.dumps(job)) == (name == "deploy")
    assert jobs["deploy"]["needs"] == "rehearse"


def test_its_rehearsal_asks_each_model_of_the_file_that_is_meant(project, monkeypatch):
    """As patterns, folders of artefacts and texts stand for them, in another file too."""
    for name in ("one", "two"):
        archive = project / "build" / "archives" / f"{name}.tar.gz"
        archive.parent.mkdir(parents=True, exist_ok=True)
        archive.touch()
    for shop in ("north", "south"):
        (project / "build" / "artifacts" / "shops" / shop).mkdir(parents=True)
    (project / "staging.yaml").write_text(STAGING)

    def asked(file):
        monkeypatch.setenv("MME_FILE", file)
        env = types.SimpleNamespace(**runpy.run_path(str(project / "env.py")))
        monkeypatch.setitem(sys.modules, "env", env)
        rehearsal = runpy.run_path(str(project / "rehearsal" / "test_endpoint.py"))
        settings = env.settings()
        return env.endpoint_name, settings.region, [one.key for one in rehearsal["ENTRIES"]]

    assert asked("mme.yaml") == ("churn-models", "us-east-1", ["cars.tar.gz"])
    models = ["one.tar.gz", "two.tar.gz", "north.tar.gz", "south.tar.gz"]
    assert asked("staging.yaml") == ("churn-staging", "eu-central-1", models)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
def test_the_workflow_of_a_new_project_trains_checks_packs_and_rehearses(project):
    """Run its steps as the runner does, but for the installation: all of it is here."""
    jobs = yaml.safe_load((project / ".github/workflows/models.yml").read_text())["jobs"]
    steps = [step for step in jobs["rehearse"]["steps"] if "run" in step]
    assert steps.pop(0)["run"] == "pip install -r requirements.txt"
    assert len(steps) == 5
    programs = project.parent / "bin"
    programs.mkdir()
    for name, module in (("mme", "mmekit.cli"), ("jupyter", ""), ("pytest", "pytest")):
        program = programs / name  # `jupyter nbconvert` is the module nbconvert
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MME_")}
    environment |= {
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.defpath]),
        # Somebody may have a `mme up` running.
        "MME_LOCAL_URL": f"http://127.0.0.1:{free_port()}",
    }

    def run(script):
        ran = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    rehearsed = [run(step["run"]) for step in steps][-1]
    assert "2 passed" in rehearsed
    assert (project / "build" / "archives" / "cars.tar.gz").is_file()

    # Another file, with versions, a pattern, and a model for each folder of artefacts.
    for shop in ("north", "south"):
        shutil.copytree(
            project / "build" / "artifacts" / "cars", project / "build/artifacts/shops" / shop
        )
    (project / "staging.yaml").write_text(STAGING)
    rehearsed = run(
        "mme up -- sh -c 'mme deploy staging && MME_FILE=staging.yaml pytest rehearsal'"
    )
    assert "4 passed" in rehearsed
