"""What the image provides need not be installed."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from mmekit.archive import STOCK_IMAGE, parse_requirements, remaining
from mmekit.archive.requirements import with_dependencies


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", []),
        ("scikit-learn==1.7.2\nSciKit_Learn\nnumpy>=2\njoblib # any", []),
        ("scikit-learn==1.5.0", ["scikit-learn==1.5.0"]),
        ("setfit==1.2.0\ntorch", ["setfit==1.2.0"]),
        ("catboost; python_version < '3.9'", []),
        ("catboost; sys_platform == 'linux'", ["catboost; sys_platform == 'linux'"]),
        ("--extra-index-url https://example.com\nnumpy", []),
        (
            "--find-links wheels\nsetfit \\\n  ==1.2.0 --hash=sha256:00\nnumpy",
            ["--find-links wheels", "setfit   ==1.2.0 --hash=sha256:00"],
        ),
        ("-r others.txt", ["-r others.txt"]),
        ("-e .", ["-e ."]),
        ("./wheels/mine.whl", ["./wheels/mine.whl"]),
        ("joblib @ https://example.com/joblib.whl", ["joblib @ https://example.com/joblib.whl"]),
        ("requests[socks]", ["requests[socks]"]),
    ],
)
def test_only_what_the_stock_image_lacks_remains(text, left):
    assert [line.text for line in remaining(parse_requirements(text), STOCK_IMAGE)] == left


def test_everything_remains_for_an_image_that_nothing_is_known_about():
    assert len(remaining(parse_requirements("numpy\nscipy"), None)) == 2


def test_what_an_extra_brings_counts_when_it_is_asked_for():
    plain = with_dependencies([Requirement("hypothesis")])
    assert "sortedcontainers" in plain
    assert "numpy" not in plain  # hypothesis[numpy]
    assert "numpy" in with_dependencies([Requirement("hypothesis[numpy]")])
