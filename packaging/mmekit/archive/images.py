"""Which container image a name is about, and what its environment should be."""

from __future__ import annotations

from mmekit.archive.image import Image, image_holding
from mmekit.archive.stock_images import STOCK_IMAGE, STOCK_IMAGES
from mmekit.errors import ImageError

__all__ = ["STOCK_IMAGE", "Image", "container_environment", "declared_image", "find_image"]

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
