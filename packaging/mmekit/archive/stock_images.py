"""The stock container images by name, and what they hold: what packing and checking compare with.

The images are built by ``serving/docker/Dockerfile`` (stage ``cpu-full``) and
``serving/docker/scripts/install_python.sh`` of deepjavalibrary/djl-serving at the tag of the
release. 0.36.0 (committed 2026-03-11) and 0.35.0 (2025-12-08) pin torch, and so torchvision,
scikit-learn, xgboost and pydantic, 0.36.0 also setuptools. 0.29.0 (2024-08-07), 0.28.0 (2024-06-18)
and 0.27.0 (2024-04-10) pin nothing: they have numpy (below 2 in the first two) and the AWS CLI, and
neither scikit-learn nor, for Python, torch. Everything else is what pip's resolver picked on the
day of the build. Here it is what the same resolver picks from the releases up to that day. None has
catboost, pandas, setfit or transformers. What Ubuntu's packages and security patches bring is left
out for all but 0.36.0.
"""

from __future__ import annotations

from types import MappingProxyType

from mmekit.archive.image import Image, image_holding
from mmekit.errors import ImageError

__all__ = ["STOCK_IMAGE", "Image", "container_environment", "declared_image", "find_image"]

_GLIBC = "2.35"  # of Ubuntu 22.04
_JAVA_OPTS = "-Xmx1g -Xms1g -XX:+ExitOnOutOfMemoryError"

STOCK_IMAGE = Image(
    name="djl-inference:0.36.0-cpu-full",
    python="3.11",
    java_opts=_JAVA_OPTS,
    glibc=_GLIBC,
    pinned=MappingProxyType(
        {
            "pydantic": "2.12.2",
            "scikit-learn": "1.7.2",
            "setuptools": "80.9.0",
            "torch": "2.7.1",
            "torchvision": "0.22.1",
            "xgboost": "3.0.5",
        }
    ),
    resolved=MappingProxyType(
        {
            "annotated-types": "0.7.0",
            "awscli": "1.44.56",
            "botocore": "1.42.66",
            "certifi": "2026.2.25",
            "charset-normalizer": "3.4.5",
            "cloudpickle": "3.1.2",
            "colorama": "0.4.6",
            "docutils": "0.19",
            "filelock": "3.25.2",
            "fsspec": "2026.2.0",
            "idna": "3.11",
            "jinja2": "3.1.6",
            "jmespath": "1.1.0",
            "joblib": "1.5.3",
            "markupsafe": "3.0.3",
            "mpmath": "1.3.0",
            "networkx": "3.6.1",
            "numpy": "2.4.3",
            "packaging": "26.0",
            "pillow": "12.1.1",
            "pip": "26.0.1",
            "prettytable": "3.17.0",
            "pyasn1": "0.6.2",
            "pydantic-core": "2.41.4",
            "python-dateutil": "2.9.0.post0",
            "pyyaml": "6.0.3",
            "requests": "2.32.5",
            "rsa": "4.7.2",
            "s3transfer": "0.16.0",
            "scipy": "1.17.1",
            "six": "1.17.0",
            "skops": "0.13.0",
            "sympy": "1.14.0",
            "threadpoolctl": "3.6.0",
            "typing-extensions": "4.15.0",
            "typing-inspection": "0.4.2",
            "urllib3": "2.6.3",
            "wcwidth": "0.6.0",
            "wheel": "0.46.3",
        }
    ),
)
# On two cores one worker answered 3,900 to 4,000 requests a second with it, and 1,750 to 2,400
# without.
_RESPONSE_THREADS = "-Djava.util.concurrent.ForkJoinPool.common.parallelism=16"


def _older(version: str, **resolved: str) -> Image:
    """Return an image of the releases without Python libraries but numpy and the AWS CLI."""
    return Image(
        name=f"djl-inference:{version}-cpu-full",
        python="3.10",
        java_opts=_JAVA_OPTS,
        glibc=_GLIBC,
        pinned=MappingProxyType({}),
        resolved=MappingProxyType(
            {
                "docutils": "0.16",
                "jmespath": "1.0.1",
                "numpy": "1.26.4",
                "pyasn1": "0.6.0",
                "python-dateutil": "2.9.0.post0",
                "rsa": "4.7.2",
                "six": "1.16.0",
                **{name.replace("_", "-"): one for name, one in resolved.items()},
            }
        ),
    )


STOCK_IMAGES = (
    STOCK_IMAGE,
    Image(
        name="djl-inference:0.35.0-cpu-full",
        python="3.11",
        java_opts=_JAVA_OPTS,
        glibc=_GLIBC,
        pinned=MappingProxyType(
            {
                "pydantic": "2.12.2",
                "scikit-learn": "1.7.2",
                "torch": "2.7.1",
                "torchvision": "0.22.1",
                "xgboost": "3.0.5",
            }
        ),
        resolved=MappingProxyType(
            {
                "annotated-types": "0.7.0",
                "awscli": "1.43.12",
                "botocore": "1.42.6",
                "cloudpickle": "3.1.2",
                "colorama": "0.4.6",
                "docutils": "0.19",
                "filelock": "3.20.0",
                "fsspec": "2025.12.0",
                "jinja2": "3.1.6",
                "jmespath": "1.0.1",
                "joblib": "1.5.2",
                "markupsafe": "3.0.3",
                "mpmath": "1.3.0",
                "networkx": "3.6.1",
                "numpy": "2.3.5",
                "packaging": "25.0",
                "pillow": "12.0.0",
                "pip": "25.3",
                "prettytable": "3.17.0",
                "pyasn1": "0.6.1",
                "pydantic-core": "2.41.4",
                "python-dateutil": "2.9.0.post0",
                "pyyaml": "6.0.3",
                "rsa": "4.7.2",
                "s3transfer": "0.16.0",
                "scipy": "1.16.3",
                "setuptools": "80.9.0",
                "six": "1.17.0",
                "skops": "0.13.0",
                "sympy": "1.14.0",
                "threadpoolctl": "3.6.0",
                "typing-extensions": "4.15.0",
                "typing-inspection": "0.4.2",
                "urllib3": "2.6.1",
                "wcwidth": "0.2.14",
                "wheel": "0.45.1",
            }
        ),
    ),
    _older(
        "0.29.0",
        awscli="1.33.39",
        botocore="1.34.157",
        colorama="0.4.6",
        pip="24.2",
        pyyaml="6.0.2",
        s3transfer="0.10.2",
        urllib3="2.2.2",
    ),
    _older(
        "0.28.0",
        awscli="1.33.12",
        botocore="1.34.130",
        colorama="0.4.6",
        pip="24.0",
        pyyaml="6.0.1",
        s3transfer="0.10.1",
        urllib3="2.2.2",
    ),
    _older(
        "0.27.0",
        awscli="1.32.83",
        botocore="1.34.83",
        colorama="0.4.4",
        pip="24.0",
        pyyaml="6.0.1",
        s3transfer="0.10.1",
        urllib3="2.2.1",
    ),
)
"""The images of DJL Serving for CPUs, the newest first."""


def container_environment(image: Image = STOCK_IMAGE) -> dict[str, str]:
    """Return what to put into ``Environment`` of a SageMaker model, for the best throughput.

    DJL Serving loads models and writes responses on Java's common pool, which has one thread fewer
    than there are cores: on two cores every response starts a thread of its own. JAVA_OPTS
    replaces the image's value, so that is repeated. One OpenMP thread a process is what the
    image's ``bin/serving`` sets as well; other variables a model needs are better in its
    ``option.env``.

    Examples
    --------
    >>> sorted(container_environment())
    ['JAVA_OPTS', 'OMP_NUM_THREADS']
    """
    return {
        "JAVA_OPTS": f"{image.java_opts} {_RESPONSE_THREADS}".strip(),
        "OMP_NUM_THREADS": "1",
    }


def find_image(name: str) -> Image | None:
    """Return a stock image by its repository and tag, whatever registry is before them.

    Examples
    --------
    >>> registry = "763104351884.dkr.ecr.us-east-1.amazonaws.com"
    >>> find_image(f"{registry}/djl-inference:0.35.0-cpu-full").python
    '3.11'
    """
    short = name.rpartition("/")[2]
    return next((image for image in STOCK_IMAGES if image.name == short), None)


def declared_image(text: str) -> Image:
    """Return an image of one's own that is declared in one line.

    Parameters
    ----------
    text
        ``NAME=ITEM,ITEM…``, with the items of `image_holding`.

    Raises
    ------
    ImageError
        It is not of that form.

    Examples
    --------
    >>> image = declared_image("mine:1=djl-inference:0.36.0-cpu-full,catboost==1.2.8")
    >>> image.version("scikit-learn"), image.version("catboost")
    ('1.7.2', '1.2.8')
    """
    name, _, holds = text.partition("=")
    if not name or not holds:
        raise ImageError(
            f"{text!r} does not say what the image holds",
            remedy="write it like mine:1=python3.11,catboost==1.2.8",
        )
    return image_holding(name, holds.split(","), STOCK_IMAGES)
