"""What an image URI stands for on this machine: the file images.json and what is built in."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from mmekit.archive.atomic import write_atomically
from mmekit.archive.image import Image, image_holding
from mmekit.archive.images import declared_image, find_image
from mmekit.archive.stock_images import STOCK_IMAGES
from mmekit.errors import ImageError
from mmekit_local.containers import known_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BUILT_IN", "FILE_VARIABLE", "ImageRule", "ImageRules", "find_file", "image_of"]

FILE_VARIABLE = "MME_IMAGES"
_FILE = "images.json"


@dataclass(frozen=True)
class ImageRule:
    """A pattern and what runs instead of the images that it matches.

    Attributes
    ----------
    pattern
        Of image URIs, as `fnmatch` has them: ``*``, ``?``, ``[abc]``.
    command
        A program and its arguments. Three programs are ours: ``djl`` (what ``mme up --server``
        says), ``embedded`` and ``mms HANDLER``.
    environment
        Variables that it gets besides those of a SageMaker container.
    folder
        Where images.json is, from which relative paths in the command count; None for a rule that
        is built in.
    holds
        What is in the image, for packing and checking: its Python, its distributions, or the
        image that it was built from. Empty when nobody has said it.
    refusal
        Why nothing here runs instead; "" where something does.
    """

    pattern: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    folder: Path | None = None
    holds: tuple[str, ...] = ()
    refusal: str = ""

    def matches(self, uri: str) -> bool:
        """Say whether it is about an image."""
        return fnmatchcase(uri, self.pattern)

    def words(self) -> list[str]:
        """Return the command with the files beside images.json by their absolute paths.

        A word is such a file's when it has a slash, is relative and is there; so is what an option
        has after its sign (``--config=conf/serve.yml``).
        """
        if self.folder is None:
            return list(self.command)
        return [_located(word, self.folder) for word in self.command]


BUILT_IN = (
    *(ImageRule(pattern, ("djl",)) for pattern in known_images.DJL),
    *(
        ImageRule(pattern, ("mms", *arguments), environment)
        for pattern, arguments, environment in known_images.toolkits()
    ),
    *(ImageRule(pattern, (), refusal=why) for pattern, why in known_images.REFUSED.items()),
)
"""Images that are known by name; what images.json says comes before."""


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    pattern: Annotated[str, StringConstraints(min_length=1)]
    command: Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)]
    environment: dict[str, str] = {}
    holds: list[Annotated[str, StringConstraints(min_length=1)]] = []


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[_Rule]


@dataclass(frozen=True)
class ImageRules:
    """The rules of a file, in its order.

    Attributes
    ----------
    file
        Where they are, or would be.
    rules
        The first that matches decides.
    """

    file: Path
    rules: tuple[ImageRule, ...] = ()

    @classmethod
    def read(cls, file: Path | None = None, *, may_be_new: bool = False) -> ImageRules:
        """Read images.json; a file that is not there has no rules.

        Parameters
        ----------
        file
            None takes the one that `find_file` finds.
        may_be_new
            Whether the file that MME_IMAGES names may be missing, as it is about to be written.

        Raises
        ------
        ImageError
            It is not what such a file may be; what and where is said.
        """
        path = file or find_file()
        try:
            content = _File.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            if FILE_VARIABLE in os.environ and file is None and not may_be_new:
                raise _unreadable(path, f"{FILE_VARIABLE} names a file that is not there") from None
            return cls(path)
        except OSError as error:
            raise _unreadable(path, error.strerror or str(error)) from error
        except ValidationError as error:
            raise _unreadable(path, _spoken(error.errors()[0])) from None
        except ValueError as error:  # of json, and of the encoding
            raise _unreadable(path, str(error)) from None
        folder = path.absolute().parent
        return cls(path, tuple(_rule(one, folder) for one in content.images))

    def find(self, uri: str) -> ImageRule | None:
        """Return the rule for an image, or None."""
        every = (*self.rules, *BUILT_IN)
        return next((rule for rule in every if rule.matches(uri)), None)

    def declared(self, uri: str) -> Image | None:
        """Return what the file says that an image holds; None when it does not say it.

        Raises
        ------
        ImageError
            It says what nobody can understand.
        """
        rules = (rule for rule in self.rules if rule.holds and rule.matches(uri))
        rule = next(rules, None)
        return None if rule is None else image_holding(uri, rule.holds, STOCK_IMAGES)

    def adding(
        self,
        pattern: str,
        command: Sequence[str],
        environment: Iterable[tuple[str, str]] = (),
        holds: Iterable[str] = (),
    ) -> ImageRules:
        """Return the same with one more rule, before the others.

        A rule of the same pattern is replaced, in its place. Files that the command names as they
        are called from this folder get their names as seen from images.json.

        Raises
        ------
        ImageError
            It names a handler for Multi Model Server that is not there.
        """
        folder = self.file.absolute().parent
        here = Path.cwd()
        program, *arguments = command
        if program == "mms" and not (arguments and (here / arguments[0]).is_file()):
            what = "There is no such handler." if arguments else "No handler is named."
            remedy = "Name the Python file that has handle(data, context): mms HANDLER.py."
            raise ImageError(what, where=" ".join(command), remedy=remedy)
        words = (
            _as_seen_from(folder, program, here, is_program=True),
            *(_as_seen_from(folder, word, here) for word in arguments),
        )
        rule = ImageRule(pattern, words, tuple(environment), folder, tuple(holds))
        if any(one.pattern == rule.pattern for one in self.rules):
            kept = (rule if one.pattern == rule.pattern else one for one in self.rules)
            return ImageRules(self.file, tuple(kept))
        return ImageRules(self.file, (rule, *self.rules))

    def removing(self, pattern: str) -> ImageRules:
        """Return the same without a pattern.

        Raises
        ------
        ImageError
            It is not in the file.
        """
        kept = tuple(rule for rule in self.rules if rule.pattern != pattern)
        if len(kept) == len(self.rules):
            what = f"There is no rule for {pattern}."
            remedy = "`mme images list` shows those that there are; the built-in ones stay."
            raise ImageError(what, where=str(self.file), remedy=remedy)
        return ImageRules(self.file, kept)

    def write(self) -> None:
        """Write the file, at once: who reads it meanwhile sees the old or the new one.

        Raises
        ------
        OSError
            It cannot be written.
        """
        images = [
            {
                "pattern": rule.pattern,
                "command": list(rule.command),
                **({"environment": dict(rule.environment)} if rule.environment else {}),
                **({"holds": list(rule.holds)} if rule.holds else {}),
            }
            for rule in self.rules
        ]
        text = json.dumps({"images": images}, indent=2, ensure_ascii=False) + "\n"
        self.file.absolute().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.file, text.encode())


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
    image = find_image(text) or ImageRules.read().declared(text)
    if image is None:
        raise ImageError(
            "Nothing is known about what this image holds.",
            where=text,
            remedy=f"Say it in the same place: {text}=python3.11,catboost==1.2.8; or once for all: "
            f"mme images add '{text}' --holds python3.11 --holds catboost==1.2.8 -- djl. With "
            "none, nothing is compared. Known are "
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


def _rule(one: _Rule, folder: Path) -> ImageRule:
    environment = tuple(one.environment.items())
    return ImageRule(one.pattern, tuple(one.command), environment, folder, tuple(one.holds))


def _located(word: str, folder: Path) -> str:
    before, path = _parted(word)
    return before + os.path.normpath(folder / path) if _is_file(path, folder) else word


def _as_seen_from(folder: Path, word: str, here: Path, *, is_program: bool = False) -> str:
    """Return a word of a command that was typed here, for a file in another folder.

    A file is written with a slash, by which `_located` knows it: ``./serve.py``. A program without
    one is looked for on PATH, as a shell does, and what has no suffix may be an argument.
    """
    before, path = _parted(word)
    is_bare = "/" not in path
    if is_bare and (is_program or not Path(path).suffix or not (here / path).is_file()):
        return word
    if not is_bare and not _is_file(path, here):
        return word
    seen = os.path.relpath(here / path, folder)
    return before + (seen if "/" in seen else f"./{seen}")


def _parted(word: str) -> tuple[str, str]:
    """Divide an option with a value behind its sign; any other word is the latter alone."""
    name, sign, value = word.partition("=")
    return (name + sign, value) if word.startswith("-") and sign else ("", word)


def _is_file(word: str, folder: Path) -> bool:
    return "/" in word and not word.startswith("/") and (folder / word).exists()


def _spoken(error: Any) -> str:
    """Say what is wrong and where: images[0].command."""
    place = "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in error["loc"])
    return f"{place.lstrip('.') or 'the whole'}: {error['msg']}"


def _unreadable(file: Path, why: str) -> ImageError:
    remedy = (
        'It is to look like {"images": [{"pattern": "*/my-image:*", "command": ["python", '
        '"serve.py"], "environment": {"NAME": "value"}}]}; `mme images add` writes it.'
    )
    return ImageError(f"The file of images cannot be used: {why}", where=str(file), remedy=remedy)
