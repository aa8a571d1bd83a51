"""Which endpoint a command means: a name, or a deployment file with region and profile."""

import pytest

from mmekit.deploy.whereabouts import nearest, whereabouts
from mmekit.errors import DeployError, EndpointError


def test_a_name_is_of_the_settings_and_a_file_says_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "staging.yaml").write_text(
        "name: shop-staging\nversions: true\npackages: []\nregion: eu-west-1\nprofile: staging\n"
    )
    (tmp_path / "shop").write_text("no deployment file, and nobody means it")
    named, filed = whereabouts("shop"), whereabouts("staging.yaml")
    assert (named.name, named.settings.region, named.profile) == ("shop", "us-east-1", None)
    assert (filed.name, filed.settings.region) == ("shop-staging", "eu-west-1")
    assert filed.profile == "staging"


def test_a_file_that_is_not_there_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EndpointError, match="no such deployment file"):
        whereabouts("stagin.yaml")
    (tmp_path / "mme.yaml").write_text("name: [")
    with pytest.raises(DeployError):
        whereabouts("./mme.yaml")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("shop", ["shops", "bookshop"]),
        ("SHPOS", ["shops"]),
        ("shops-staging", ["shops"]),
        ("x", []),
    ],
)
def test_the_nearest_names_are_those_that_are_alike_and_those_that_have_it_inside(wanted, found):
    assert nearest(wanted, ["till", "bookshop", "shops"]) == found
