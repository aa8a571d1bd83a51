"""What an image holds: of a table, or said by whoever built it."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from mmekit.archive import STOCK_IMAGE, check, declared_image, find_image, pack, verify
from mmekit.errors import ImageError

REGISTRY = "763104351884.dkr.ecr.eu-west-1.amazonaws.com"


def rules(findings):
    return {finding.rule: finding.severity for finding in findings}


@pytest.mark.parametrize(
    ("tag", "python", "scikit_learn"),
    [
        ("0.36.0", "3.11", "1.7.2"),
        ("0.35.0", "3.11", "1.7.2"),
        ("0.29.0", "3.10", None),
        ("0.28.0", "3.10", None),
        ("0.27.0", "3.10", None),
    ],
)
def test_the_stock_images_are_known_in_any_registry(tag, python, scikit_learn):
    for name in (f"djl-inference:{tag}-cpu-full", f"{REGISTRY}/djl-inference:{tag}-cpu-full"):
        image = find_image(name)
        assert (image.python, image.version("scikit-learn")) == (python, scikit_learn)
        assert image.has("numpy")
        assert not image.has("pandas")


def test_other_images_are_not_known():
    for name in ("djl-inference:0.36.0-lmi18.0.0-cu128", "djl-inference", "mine:1", ""):
        assert find_image(name) is None


def test_an_image_of_ones_own_is_declared_in_one_line():
    image = declared_image("reg/mine:1=python3.12,CatBoost==1.2.8, pandas")

    assert (image.name, image.python) == ("reg/mine:1", "3.12")
    assert image.version("catboost") == "1.2.8"
    assert image.satisfies(Requirement("catboost>=1.2"))
    assert not image.satisfies(Requirement("scikit-learn"))
    # pandas is there; whether it is new enough nobody knows.
    assert image.satisfies(Requirement("pandas"))
    assert not image.satisfies(Requirement("pandas>=2"))


def test_an_image_holds_what_the_one_it_was_built_from_does():
    image = declared_image("mine:1=djl-inference:0.36.0-cpu-full,numpy==2.3.0,scipy,torch==2.9.0")

    assert image.python == STOCK_IMAGE.python
    assert image.version("scikit-learn") == "1.7.2"
    assert image.version("numpy") == "2.3.0"
    assert image.version("torch") == "2.9.0"
    assert (image.has("scipy"), image.version("scipy")) == (True, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mine:1", "does not say what the image holds"),
        ("mine:1=", "does not say what the image holds"),
        ("=python3.11", "does not say what the image holds"),
        ("mine:1=catboost==1.2.8", "its Python version is missing"),
        ("mine:1=python3.11,", "'' is neither a distribution"),
        ("mine:1=python3.11,other:2", "'other:2' is neither a distribution nor an image"),
        ("mine:1=python3.11,catboost>=1.2", "not a version of a distribution"),
        ("mine:1=python3.11,catboost==1.2.*", "not a version of a distribution"),
        ("mine:1=python3.11,a[b]==1", "not a version of a distribution"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_an_example(text, why):
    with pytest.raises(ImageError, match="image") as refused:
        declared_image(text)

    assert why in refused.value.what
    assert "python3.11,catboost==1.2.8" in refused.value.remedy


def test_a_package_is_checked_for_the_image_that_is_named(workshop):
    workshop.pretend_measured(python="3.11.9")

    def found(image):
        return rules(check(workshop.package, artifacts=workshop.artifacts, image=image))

    assert found(find_image("djl-inference:0.35.0-cpu-full")) == {}
    assert found(find_image("djl-inference:0.29.0-cpu-full")) == {
        "library-version": "error",  # numpy 1
        "python-version": "note",
        "installs-at-load": "warning",
        "own-fork-server": "note",
    }
    assert found(None) == {"installs-at-load": "warning", "own-fork-server": "note"}
    (workshop.package / "requirements.txt").unlink()
    own = "mine:1=djl-inference:0.36.0-cpu-full,scikit-learn==1.9.0"
    assert found(declared_image(own)) == {"library-version": "error"}


def test_packing_keeps_what_the_image_lacks_and_the_manifest_names_the_image(workshop):
    workshop.pretend_measured()
    workshop.write("requirements.txt", "scikit-learn==1.7.2\njoblib\ncatboost==1.2.8\n")

    def packed(image):
        done = pack(workshop.package, workshop.artifacts, workshop.archive, image=image)
        return "requirements.txt" in done.files, verify(workshop.archive).image

    assert packed(STOCK_IMAGE) == (True, "djl-inference:0.36.0-cpu-full")
    own = declared_image("mine:1=djl-inference:0.36.0-cpu-full,catboost==1.2.8")
    assert packed(own) == (False, "mine:1")
    assert packed(None) == (True, None)
