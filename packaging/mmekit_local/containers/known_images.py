"""Images that are known by name: what runs instead of them, or why nothing does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DJL", "REFUSED", "architecture_of", "toolkits"]

_ECR = "*.dkr.ecr.*.amazonaws.com*/"  # the account depends on the region; .com.cn is China

DJL = (
    f"{_ECR}djl-inference[:@]*",
    f"{_ECR}djl-serving[:@]*",
    "deepjavalibrary/djl-serving*",
    "*/mmekit-djl[:@]*",  # infrastructure/containers/djl: the stock image and more
)
"""Those of DJL Serving."""

_HANDLER = Path(__file__).parent / "frameworks" / "framework_handler.py"
_PYTHON = "3.11"
"""On which all of these run; the images have 3.8, 3.10 and 3.12."""
_USUAL = ("numpy<2", "scipy<1.14", "pandas<2.3", "boto3")
_TOOLKITS: dict[str, dict[str, tuple[str, ...]]] = {
    # Versions: the Dockerfiles and requirements.txt of aws/sagemaker-scikit-learn-container and
    # aws/sagemaker-xgboost-container at their releases.
    "scikit-learn": {
        "1.2-1": ("scikit-learn==1.2.1", *_USUAL),
        "1.4-2": ("scikit-learn==1.4.2", *_USUAL),
    },
    "xgboost": {
        "1.5-1": ("xgboost==1.5.2", "scikit-learn==1.2.1", *_USUAL),
        "1.7-1": ("xgboost==1.7.4", "scikit-learn==1.2.1", *_USUAL),
        "3.0-5": ("xgboost-cpu==3.0.5", "scikit-learn==1.4.2", *_USUAL),
    },
}

_DOCKER = "`mme up --server docker` runs the image itself."
_OTHERS = (
    f"Its server is not rehearsed without Docker. {_DOCKER} Or pack the model for DJL Serving "
    "(`mme init`), whose images are djl-inference."
)


def _refused() -> Iterator[tuple[str, str]]:
    for name, versions in _TOOLKITS.items():
        known = " and ".join(versions)
        yield (
            f"*/sagemaker-{name}[:@]*",
            f"Of sagemaker-{name}, the versions {known} are rehearsed. {_DOCKER}",
        )
    for name in ("pytorch", "tensorflow", "mxnet", "huggingface-*"):
        yield f"*/{name}-inference*", _OTHERS
    yield "*tritonserver*", _OTHERS


REFUSED = dict(_refused())
"""Those that nothing here runs instead of, and why."""


def toolkits() -> Iterator[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]]:
    """Yield the images of AWS's toolkits: pattern, arguments of ``mms``, and variables."""
    for name, versions in _TOOLKITS.items():
        variables = (("MMEKIT_FRAMEWORK", name),)
        for version, requirements in versions.items():
            arguments = [str(_HANDLER), "--python", _PYTHON]
            for one in requirements:
                arguments += ["--requirement", one]
            yield f"{_ECR}sagemaker-{name}:{version}*", tuple(arguments), variables


_AWS = re.compile(r".*\.dkr\.ecr\..*/(djl-|sagemaker-|pytorch-|tensorflow-|mxnet-|huggingface-).*")
_ARM = re.compile(r".*(graviton|arm64|aarch64).*")


def architecture_of(uri: str) -> str | None:
    """Return what an image is built for, ``arm64`` or ``x86_64``; None when its name tells not.

    Examples
    --------
    >>> architecture_of("1.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.36.0-cpu-full")
    'x86_64'
    >>> architecture_of("deepjavalibrary/djl-serving:0.36.0-aarch64")
    'arm64'
    >>> architecture_of("1.dkr.ecr.us-east-1.amazonaws.com/mine:1") is None
    True
    """
    _, _, name = uri.rpartition("/")
    if _ARM.fullmatch(name):
        return "arm64"
    stock = _AWS.fullmatch(uri) or uri.startswith("deepjavalibrary/djl-serving")
    return "x86_64" if stock else None
