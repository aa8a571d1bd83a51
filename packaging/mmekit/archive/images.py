"""The file images.json: images by the patterns of their URIs, and what each of them holds.

A line of it says what packing and checking compare with (``holds``), and which server stands for
the image in a rehearsal (``command``, ``environment``): the former is read here, the latter by
`mmekit_local.containers`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mmekit.archive.files import write_atomically
from mmekit.archive.image import image_holding
from mmekit.archive.stock_images import STOCK_IMAGES, declared_image, find_image
from mmekit.errors import ImageError

if TYPE_CHECKING:
    from mmekit.archive.image import Image

__all__ = ["FILE_VARIABLE", "ImageEntry", "ImagesFile", "find_file", "image_of"]

FILE_VARIABLE = "MME_IMAGES"
_FILE = "images.json"

_Text = Annotated[str, StringConstraints(min_length=1)]


class ImageEntry(BaseModel):
    """One entry of images.json.

    Attributes
    ----------
    pattern
        Of image URIs, as `fnmatch` has them: ``*``, ``?``, ``[abc]``.
    command
        A program and its arguments: what runs instead of the image.
    environment
        Variables that it gets besides those of a SageMaker container.
    holds
        What is in the image: its Python, its distributions, or the image that it was built from.
        Empty when nobody has said it.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    pattern: _Text
    command: Annotated[list[_Text], Field(min_length=1)]
    environment: dict[str, str] = {}
    holds: list[_Text] = []


class _Content(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[ImageEntry]


@dataclass(frozen=True)
class ImagesFile:
    """An images.json, with its entries in their order: the first that matches decides."""

    path: Path
    entries: tuple[ImageEntry, ...] = ()

    @classmethod
    def read(cls, path: Path | None = None, *, may_be_new: bool = False) -> ImagesFile:
        """Read images.json; a file that is not there has no entries.

        Parameters
        ----------
        path
            None takes the one that `find_file` finds.
        may_be_new
            Whether the file that MME_IMAGES names may be missing, as it is about to be written.

        Raises
        ------
        ImageError
            It is not what such a file may be; what and where is said.
        """
        found = path or find_file()
        try:
            content = _Content.model_validate(json.loads(found.read_text(encoding="utf-8")))
        except FileNotFoundError:
            if FILE_VARIABLE in os.environ and path is None and not may_be_new:
                why = f"{FILE_VARIABLE} names a file that does not exist"
                raise _unreadable(found, why) from None
            return cls(found)
        except OSError as error:
            raise _unreadable(found, error.strerror or str(error)) from error
        except ValidationError as error:
            raise _unreadable(found, _described(error.errors()[0])) from None
        except ValueError as error:  # of json, and of the encoding
            raise _unreadable(found, str(error)) from None
        return cls(found, tuple(content.images))

    def declared(self, uri: str) -> Image | None:
        """Return what the file says that an image holds; None when it does not say it.

        Raises
        ------
        ImageError
            It says what nobody can understand.
        """
        matching = (one for one in self.entries if one.holds and fnmatchcase(uri, one.pattern))
        entry = next(matching, None)
        return None if entry is None else image_holding(uri, entry.holds, STOCK_IMAGES)

    def write(self) -> None:
        """Write the file, at once: who reads it meanwhile sees the old or the new one.

        Raises
        ------
        OSError
            It cannot be written.
        """
        images = [one.model_dump(exclude_defaults=True) for one in self.entries]
        text = json.dumps({"images": images}, indent=2, ensure_ascii=False) + "\n"
        self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, text.encode())


def image_of(text: str) -> Image | None:
    """Return the image that packing and checking are to compare with.

    Parameters
    ----------
    text
        A stock image's name or URI, one that images.json says the contents of, or an image that is
        declared in this very line, such as ``mine:1=python3.11,catboost==1.2.8``. ``none`` is one
        that nothing is known about: None.

    Raises
    ------
    ImageError
        Nothing is known about it.
    """
    if text == "none":
        return None
    if "=" in text:
        return declared_image(text)
    image = find_image(text) or ImagesFile.read().declared(text)
    if image is None:
        raise ImageError(
            "It is not known which Python and libraries this image has.",
            where=text,
            remedy=f"Declare them in the same place: {text}=python3.11,catboost==1.2.8; or once "
            f"for all: mme images add '{text}' --holds python3.11 --holds catboost==1.2.8 -- djl. "
            "With none, no library is compared. Known are "
            + ", ".join(one.name for one in STOCK_IMAGES)
            + ".",
        )
    return image


def find_file() -> Path:
    """Return where images.json is: MME_IMAGES, or this folder or the next above that has one.

    The search ends with the project's root, as for the file .env; when there is none, it is to
    be in this folder.
    """
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / _FILE).is_file():
            return folder / _FILE
        if (folder / "pyproject.toml").is_file() or (folder / ".git").exists():
            break
    return here / _FILE


def _described(error: Any) -> str:
    """Say what is wrong and where: images[0].command."""
    place = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in error["loc"])
    return f"{place.lstrip('.') or 'the whole file'}: {error['msg']}"


def _unreadable(file: Path, why: str) -> ImageError:
    remedy = (
        'It has to look like {"images": [{"pattern": "*/my-image:*", "command": ["python", '
        '"serve.py"], "environment": {"NAME": "value"}}]}; `mme images add` writes it.'
    )
    return ImageError(f"The file of images cannot be used: {why}", where=str(file), remedy=remedy)
