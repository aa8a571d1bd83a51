"""Requests whose body is an image. Pillow reads it, which is imported with the first."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from mmekit_runtime.media_types import IMAGE, JPEG, PNG, media_type
from mmekit_runtime.messages import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_KINDS = (JPEG, PNG, IMAGE)


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
            _refuse_huge(image, most_pixels)
            scaled = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    except Image.DecompressionBombError as error:
        raise RequestError(400, _at_most(most_pixels), str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        received = f"{len(body)} bytes that are not"
        raise RequestError(400, "an image as JPEG or PNG", received) from error
    pixels = np.asarray(scaled, dtype=np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[np.newaxis])


def _refuse_huge(image: Image, most_pixels: int) -> None:
    if image.width * image.height > most_pixels:
        raise RequestError(400, _at_most(most_pixels), f"one of {image.width} x {image.height}")


def _at_most(pixels: int) -> str:
    return f"an image of at most {pixels} pixels"
