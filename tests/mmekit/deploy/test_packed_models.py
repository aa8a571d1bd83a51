"""Real packages: packed on the way, answered by the embedded server, told how many fit."""

import json
import re

import pytest

from mmekit.archive import measure
from tests.mmekit.archive.wheelhouse import add_wheel
from tests.mmekit.deploy.conftest import changes

PROPERTIES = "engine=Python\nminWorkers=1\nmaxWorkers=2\n"
MODEL = """\
from mmekit_runtime import Handler


class Doubling(Handler):
    features = 1

    def load(self, folder):
        return float((folder / "factor.txt").read_text())

    def predict(self, model, rows, parameters):
        return model * rows[:, 0]


handle = Doubling()
"""
SHARING = MODEL.replace(
    """    def load(self, folder):
        return float((folder / "factor.txt").read_text())
""",
    """    def load_shared(self, folder):
        return (folder / "body/weights.bin").read_bytes()

    def load(self, folder, shared):
        return len(shared) / (20 << 20) * float((folder / "factor.txt").read_text())
""",
)
PACKAGE = {
    "doubling/model.py": MODEL,
    "doubling/serving.properties": PROPERTIES,
    "doubling/sample_request.json": '{"instances": [[7.0]]}',
    "factor/factor.txt": "2",
}
FILE = """
name: farm
packages:
  - archive: out/doubling.tar.gz
    package: doubling
    artifacts: factor
"""
FLOCK = """
name: flock
thin: true
packages:
  - archive: out/first.tar.gz
    package: doubling
    artifacts: first
  - archive: out/second.tar.gz
    package: doubling
    artifacts: second
"""


@pytest.fixture(scope="module")
def container():
    return "embedded"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What measuring the package with its artefact says: once for all."""
    folder = tmp_path_factory.mktemp("measured")
    for name, text in PACKAGE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return measure(folder / "doubling", folder / "factor").to_json()


@pytest.fixture
def farm(desk, measured):
    """A package, its artefact, which is measured, and a file that names both; no archive."""
    for name, text in PACKAGE.items():
        desk.put(name, text)
    desk.put("factor/measured.json", measured)
    desk.write(FILE)
    return desk


def ask(desk, endpoint="farm", model="doubling"):
    answer = desk.mme(
        "invoke", endpoint, "--target-model", f"{model}.tar.gz",
        "--data", "doubling/sample_request.json",
    )  # fmt: skip
    return json.loads(answer)["predictions"]


@pytest.mark.thorough
def test_a_package_is_packed_deployed_asked_and_packed_anew_when_it_changes(farm, nothing_left):
    said = farm.mme("deploy")
    assert "packed from" in said
    assert ask(farm) == [14.0]
    assert "packed" not in farm.planned()

    farm.put("factor/factor.txt", "3")
    said = farm.mme("deploy")
    assert "measured.json does not match the files; measuring again" in said
    assert "packed anew" in said
    assert changes(said)["archive doubling.tar.gz"] == "change"
    assert ask(farm) == [21.0]
    farm.mme("destroy")


def test_each_folder_of_artefacts_is_packed_once_and_again_when_it_changes(farm, nothing_left):
    farm.put("factors/two/factor.txt", "2")
    farm.put("factors/three/factor.txt", "3")
    farm.write("""
        name: farm
        packages:
          - package: doubling
            artifacts_in: factors
            archives: out
    """)
    said = farm.planned()
    assert "packed 2 of 2 in factors" in said
    assert {"archive three.tar.gz", "archive two.tar.gz"} <= changes(said).keys()
    assert "packed" not in farm.planned()
    farm.put("factors/two/factor.txt", "4")
    assert "packed 1 of 2 in factors" in farm.planned()


@pytest.fixture
def flock(desk):
    """Two models with one body, and a file that has them packed thin."""
    desk.put("doubling/model.py", SHARING)
    desk.put("doubling/serving.properties", f"{PROPERTIES}option.shared=body\n")
    desk.put("doubling/sample_request.json", '{"instances": [[7.0]]}')
    for name in ("first", "second"):
        desk.put(f"{name}/body/weights.bin", bytes(20 << 20))
        desk.put(f"{name}/factor.txt", "2")
    desk.write(FLOCK)
    return desk


def layers_beside(desk):
    return {path.name for path in (desk.folder / "out/layers").iterdir()}


def test_what_deploy_packs_thin_has_its_layers_beside_it_once(flock, nothing_left):
    said = flock.planned()
    assert re.search(r" 2\d MiB of it are bodies that models share, loaded once", said)
    plan = changes(said)
    layers = [name for name in plan if name.startswith("layer ")]
    kinds = {"body", "runtime"}
    assert len(layers) == len(layers_beside(flock)) == len(kinds)
    before = flock.contents()
    assert changes(flock.planned()) == plan
    assert flock.contents() == before
    (removed, *_) = (flock.folder / "out/layers").iterdir()
    removed.unlink()
    flock.planned()
    assert flock.contents() == before


def test_libraries_are_packed_for_the_image_that_will_serve(farm, nothing_left):
    (farm.folder / "wheels").mkdir()
    add_wheel(farm.folder / "wheels", "wanted", "2.0")
    farm.put("doubling/requirements.txt", "wanted==2.0\n")
    offline = {"UV_FIND_LINKS": str(farm.folder / "wheels"), "UV_OFFLINE": "1"}
    farm.write(f"{FILE}thin: true\nlayers: true\n")
    plan = farm.planned(**offline)
    assert "(libraries of 1 model; " in plan
    listed = json.loads(farm.mme("layers", "list", "out/doubling.tar.gz", "--json"))
    [libraries] = [one for one in listed[0]["layers"] if one["kind"] == "libraries"]
    assert (libraries["says"], libraries["python"]) == ("wanted 2.0", "3.11")
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1"
    farm.write(f"{FILE}layers: true\nimage: {image}\n")
    told = farm.refused("deploy", "--plan", **offline)
    assert "It is not known which Python and libraries this image has." in told
    assert "mme images add" in told


def offline_with(desk, folder):
    """A package that asks for a wheel in a folder by its own line; variables without a network."""
    (desk.folder / folder).mkdir(parents=True)
    add_wheel(desk.folder / folder, "wanted", "2.0")
    desk.put("doubling/requirements.txt", "wanted==2.0\n")
    desk.put("doubling/serving.properties", f"{PROPERTIES}option.layers=true\n")
    return {"UV_FIND_LINKS": str(desk.folder / folder), "UV_OFFLINE": "1"}


@pytest.mark.thorough
def test_libraries_that_a_package_itself_asks_for_are_those_for_the_image_that_will_serve(
    farm, nothing_left
):
    offline = offline_with(farm, "wheels")
    farm.planned(**offline)
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1"
    farm.write(f"{FILE}image: {image}\n")
    told = farm.refused("deploy", "--plan", **offline)
    assert "It is not known which Python and libraries this image has." in told
    farm.put("doubling/serving.properties", PROPERTIES)
    farm.planned(**offline)


@pytest.mark.thorough
def test_wheels_of_a_package_that_went_into_a_layer_do_not_make_its_archive_stale(
    farm, nothing_left
):
    offline = offline_with(farm, "doubling/requirements")
    farm.planned(**offline)
    farm.write(FILE.replace("    artifacts: factor\n", ""))
    farm.planned(**offline)
    farm.put("doubling/model.py", f"{MODEL}# changed\n")
    told = farm.refused("deploy", "--plan", **offline)
    assert "since it was packed, model.py changed." in told


@pytest.mark.parametrize("thin", ["true", pytest.param("false", marks=pytest.mark.thorough)])
def test_a_package_whose_shared_file_changed_is_stale(desk, nothing_left, thin):
    desk.put("doubling/model.py", MODEL)
    desk.put("doubling/words.txt", "of the package")
    desk.put("doubling/serving.properties", f"{PROPERTIES}option.shared=words.txt\n")
    desk.put("doubling/sample_request.json", '{"instances": [[7.0]]}')
    desk.put("factor/factor.txt", "2")
    desk.write(f"{FILE}thin: {thin}\n")
    desk.planned()
    desk.write(FILE.replace("    artifacts: factor\n", ""))
    desk.planned()
    desk.put("doubling/words.txt", "of another")
    assert "since it was packed, words.txt changed." in desk.refused("deploy", "--plan")


@pytest.mark.thorough
def test_thin_archives_answer_with_layers_that_instances_fetch(flock, service, nothing_left):
    flock.mme("deploy")
    assert ask(flock, "flock", "first") == [14.0]
    assert ask(flock, "flock", "second") == [14.0]
    flock.mme("destroy")


def test_it_is_told_how_many_models_an_instance_has_room_for(farm):
    said = farm.planned()
    assert "ml.m5.xlarge has 4 vCPUs and 16384 MiB" in said
    assert "1 of 1 measured models are in memory at once" in said
    farm.write(FILE + "instance_type: ml.g5.xlarge")
    assert "capacity: unknown, ml.g5.xlarge is not in the table" in farm.planned()
    assert "cost: unknown, no published price of ml.g5.xlarge" in farm.planned()


def test_a_model_that_no_instance_of_the_type_has_room_for_is_refused(farm, nothing_left):
    farm.planned()
    measured = farm.folder / "factor/measured.json"
    content = json.loads(measured.read_bytes())
    content["memory"] |= {"proportional": 40 << 30, "forked": 40 << 30}
    measured.write_text(json.dumps(content))
    told = farm.refused("deploy")
    assert "every load of it would be refused" in told
    assert "Choose an `instance_type` with more memory." in told


def test_a_stale_archive_without_artefacts_is_told_with_how_to_pack_it(farm, nothing_left):
    farm.planned()
    farm.write(FILE.replace("    artifacts: factor\n", ""))
    assert "create archive doubling.tar.gz" in farm.planned().replace("  ", " ")
    farm.put("doubling/model.py", MODEL.replace("model *", "2 * model *"))
    farm.put("doubling/serving.properties", PROPERTIES.replace("2", "3"))
    told = farm.refused("deploy")
    changed = "model.py, serving.properties changed"
    assert f"The archive is stale: since it was packed, {changed}." in told
    assert "mme pack" in told


def test_an_archive_that_is_kept_without_its_artefacts_cannot_be_judged(farm, nothing_left):
    farm.planned()
    (farm.folder / "factor").rename(farm.folder / "elsewhere")
    told = farm.refused("deploy")
    assert "not known whether the archive is stale" in told
    assert "leave `artifacts` out" in told
