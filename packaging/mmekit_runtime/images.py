"""Models whose requests are images. Pillow reads them, which is imported with the first."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mmekit_runtime.handler import Handler
from mmekit_runtime.media_types import IMAGE, JPEG, PNG, media_type
from mmekit_runtime.messages import Parameters, RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_KINDS = (JPEG, PNG, IMAGE)
_LONGEST_SIDE = 1 << 15


class ImageHandler(Handler):
    """A model whose rows are images, one a request: a body is a JPEG or PNG.

    The content type is image/jpeg, image/png, application/x-image, or none. ``predict`` gets
    float32 of shape (n, 3, height, width): red, green and blue from 0 to 255, scaled bilinearly, as
    the pixels lie in the file (how the camera was held is not regarded). Pillow reads them, and
    belongs into requirements.txt where the image of the container has none.

    Attributes
    ----------
    size
        Width and height in pixels to which images are scaled. A `load` that knows sets it.
    most_pixels
        How many an image may have before; 400 for those that have more, or more than 32,768 a
        side. Pillow refuses twice its own ``Image.MAX_IMAGE_PIXELS``, some 179 million, anyway.
    """

    size: tuple[int, int] = (224, 224)
    most_pixels: ClassVar[int] = 50_000_000

    def decode(self, body: bytes, content_type: str) -> tuple[NDArray[np.float32], Parameters]:
        """Read a request's image; there are no parameters in it."""
        pixels = decode_image(body, content_type, self.size, self.most_pixels)
        return pixels, Parameters()


def decode_image(
    body: bytes, content_type: str, size: tuple[int, int], most_pixels: int
) -> NDArray[np.float32]:
    """Return red, green and blue from 0 to 255 of an image in shape (1, 3, height, width).

    Parameters
    ----------
    size
        Width and height to which it is scaled, bilinearly.
    most_pixels
        What it may have before: a small file may unpack to any number of them.

    Raises
    ------
    RequestError
        400 for what is not a JPEG or PNG, or has too many pixels; 415 for another content type.
    """
    kind, _ = media_type(content_type)
    if kind and kind not in _KINDS:
        raise RequestError(415, f"a content type among {', '.join(_KINDS)}", content_type)
    if not body:
        raise RequestError(400, "an image as JPEG or PNG", "an empty body")
    from PIL import Image

    try:
        with Image.open(io.BytesIO(body), formats=("JPEG", "PNG")) as image:
            too_large = _too_large(image, most_pixels)
            opened = None if too_large else _with_bytes(image).convert("RGB")
    except Image.DecompressionBombError as error:
        opened, too_large = None, str(error)
    except MemoryError:
        raise
    except Exception as error:  # whatever Pillow says of bytes that somebody has sent
        received = f"{len(body)} bytes that are not"
        raise RequestError(400, "an image as JPEG or PNG", received) from error
    if opened is None:
        expected = f"an image of at most {most_pixels} pixels, and {_LONGEST_SIDE} a side"
        raise RequestError(400, expected, too_large)
    scaled = opened.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(scaled, dtype=np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[np.newaxis])


def _too_large(image: Image, most_pixels: int) -> str:
    # A side counts by itself: scaling takes memory for each row, however short it is.
    is_large = image.width * image.height > most_pixels or max(image.size) > _LONGEST_SIDE
    return f"one of {image.width} x {image.height}" if is_large else ""


def _with_bytes(image: Image) -> Image:
    """Return an image of 16 bits a pixel with 8: Pillow would cut off what is above 255."""
    if not image.mode.startswith("I"):
        return image
    from PIL import Image

    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
