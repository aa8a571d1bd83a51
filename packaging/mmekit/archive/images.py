"""What the stock container image holds: the table that packing and checking compare with.

The image of djl-inference:0.36.0-cpu-full is built by ``serving/docker/Dockerfile`` (stage
``cpu-full``) and ``serving/docker/scripts/install_python.sh`` of deepjavalibrary/djl-serving at tag
v0.36.0 (committed 2026-03-11). Those two pin torch, scikit-learn, xgboost, pydantic and setuptools
(and with torch, torchvision); everything else is what pip's resolver picked on the day of the
build. Here it is what the same resolver picks from the releases up to 2026-03-10. It has neither
catboost nor setfit nor transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from packaging.requirements import Requirement


@dataclass(frozen=True)
class Image:
    """A container image and the Python distributions in it.

    Attributes
    ----------
    name
        Repository and tag.
    python
        Version of Python, as ``major.minor``.
    pinned
        Versions that the image's build fixes, by canonical distribution name.
    resolved
        Versions that the build leaves to the day it ran on: right for that day, not promised.
    java_opts
        The options of the Java machine that the image starts with (``ENV JAVA_OPTS``).
    """

    name: str
    python: str
    pinned: Mapping[str, str]
    resolved: Mapping[str, str]
    java_opts: str = ""

    def version(self, distribution: str) -> str | None:
        """Return the version of a distribution in the image; None when it is not there."""
        name = canonicalize_name(distribution)
        return self.pinned.get(name) or self.resolved.get(name)

    def satisfies(self, requirement: Requirement) -> bool:
        """Return whether pip would find nothing to do for a requirement inside the image.

        A requirement on an extra or on a URL counts as not satisfied: the table knows neither. One
        whose marker does not hold in the image is satisfied.

        Examples
        --------
        >>> from packaging.requirements import Requirement
        >>> STOCK_IMAGE.satisfies(Requirement("scikit-learn>=1.7,<1.8"))
        True
        >>> STOCK_IMAGE.satisfies(Requirement("catboost"))
        False
        """
        if requirement.marker and not requirement.marker.evaluate(self._environment()):
            return True
        version = self.version(requirement.name)
        if version is None or requirement.extras or requirement.url:
            return False
        return requirement.specifier.contains(version)

    def _environment(self) -> dict[str, str]:
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }


STOCK_IMAGE = Image(
    name="djl-inference:0.36.0-cpu-full",
    python="3.11",
    java_opts="-Xmx1g -Xms1g -XX:+ExitOnOutOfMemoryError",
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

_RESPONSE_THREADS = "-Djava.util.concurrent.ForkJoinPool.common.parallelism=16"


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
