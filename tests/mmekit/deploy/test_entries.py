"""Entries of a deployment file that stand for many models: patterns, folders, artefacts."""

import pytest

from mmekit.deploy import read_deployment
from mmekit.deploy.entries import single_entries
from mmekit.errors import DeployError


@pytest.fixture(params=["plain", "br[ack]ets"])
def folder(tmp_path, request):
    """A folder with archives, whatever its name."""
    folder = tmp_path / request.param
    for name in ("b.tar.gz", "a.tar.gz", "layers/x.tar.gz", ".hidden.tar.gz", "notes.txt"):
        file = folder / "archives" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def entries(folder, packages):
    (folder / "mme.yaml").write_text(f"name: shops\npackages:\n{packages}\n")
    return single_entries(read_deployment(folder / "mme.yaml"))


@pytest.mark.parametrize(
    "packages",
    [
        "  - archives/*.tar.gz",
        "  - archives",
        "  - archive: archives/?.tar.gz",
        "  - archives/a.tar.gz\n  - archives/b.tar.gz",
        "  - archives/[ab].tar.gz",
    ],
)
def test_patterns_and_folders_are_their_archives_by_name(folder, packages):
    found = entries(folder, packages)
    assert [entry.key for entry in found] == ["a.tar.gz", "b.tar.gz"]
    assert [entry.archive for entry in found] == [
        folder / "archives/a.tar.gz",
        folder / "archives/b.tar.gz",
    ]


def test_an_absolute_pattern_is_taken_as_it_is(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "c.tar.gz").touch()
    [entry] = entries(folder, f"  - {elsewhere}/*.tar.gz")
    assert entry.archive == elsewhere / "c.tar.gz"


def test_layers_beside_thin_archives_are_no_models(folder):
    layers = folder / "archives/layers"
    (layers / f"{'ab' * 32}.tar.gz").touch()
    found = entries(folder, "  - archives/**/*.tar.gz")
    # Whose name is no digest is a model, wherever it lies.
    assert [entry.key for entry in found] == ["a.tar.gz", "b.tar.gz", "x.tar.gz"]
    (layers / "x.tar.gz").unlink()
    with pytest.raises(DeployError, match="There is no archive of this entry"):
        entries(folder, "  - archives/layers")


def test_a_key_has_the_letters_that_a_folder_of_artefacts_may_have(folder):
    (folder / "archives/café.tar.gz").touch()
    with pytest.raises(DeployError, match="ASCII letters, digits"):
        entries(folder, "  - archives/*.tar.gz")
    with pytest.raises(DeployError, match="key"):
        entries(folder, "  - archives/café.tar.gz")


def test_a_package_goes_along_with_each_archive_of_its_pattern(folder):
    found = entries(folder, "  - archive: archives/*.tar.gz\n    package: package")
    assert {entry.package for entry in found} == {folder / "package"}


def test_each_folder_of_artefacts_is_an_archive_of_its_name(folder):
    for name in ("ridge-2", "ridge-1"):
        (folder / "artifacts" / name).mkdir(parents=True)
    text = "  - package: package\n    artifacts_in: artifacts\n    archives: packed"
    found = entries(folder, text)
    assert [(one.key, one.archive, one.artifacts) for one in found] == [
        (f"{name}.tar.gz", folder / f"packed/{name}.tar.gz", folder / "artifacts" / name)
        for name in ("ridge-1", "ridge-2")
    ]


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ("  - archives/*.zip", "nothing matches it"),
        ("  - archives/layers/*/*", "nothing matches it"),
        ("  - archives/*", "cannot be a key"),
        ("  - archives/*.tar.gz\n  - archives/a.tar.gz", "Two archives have the key a.tar.gz"),
        ("  - package: p\n    artifacts_in: none\n    archives: packed", "No folder is in"),
        ("  - archive: archives\n    key: a.tar.gz", "this stands for many"),
        ("  - package: p\n    artifacts_in: a", "belong together and stand alone"),
        ("  - {package: p, artifacts_in: a, archives: b, key: c.tar.gz}", "stand alone"),
        ("  - package: p", "name its archive"),
        ("  - archives/none.zip", "it may be what comes after the prefix"),
    ],
)
def test_an_entry_that_stands_for_nothing_or_for_too_much_is_refused(folder, packages, said):
    with pytest.raises(DeployError) as refused:
        entries(folder, packages)
    assert said in str(refused.value)
    assert refused.value.remedy
