"""Which server an image URI stands for here: by images.json, and by what is built in."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from mmekit.archive.images import ImageEntry, ImagesFile
from mmekit.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["BUILT_IN", "ImageRule", "ImageRules", "architecture_of"]

_ECR = "*.dkr.ecr.*.amazonaws.com*/"  # the account depends on the region; .com.cn is China

_DJL = (
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


_REFUSED = dict(_refused())
"""Those that nothing here runs instead of, and why."""


def _toolkits() -> Iterator[tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]]:
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
    *(ImageRule(pattern, ("djl",)) for pattern in _DJL),
    *(
        ImageRule(pattern, ("mms", *arguments), environment)
        for pattern, arguments, environment in _toolkits()
    ),
    *(ImageRule(pattern, (), refusal=why) for pattern, why in _REFUSED.items()),
)
"""Images that are known by name; what images.json says comes before."""


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
        found = ImagesFile.read(file, may_be_new=may_be_new)
        folder = found.path.absolute().parent
        return cls(found.path, tuple(_rule(one, folder) for one in found.entries))

    def find(self, uri: str) -> ImageRule | None:
        """Return the rule for an image, or None."""
        every = (*self.rules, *BUILT_IN)
        return next((rule for rule in every if rule.matches(uri)), None)

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
        entries = (
            ImageEntry(
                pattern=rule.pattern,
                command=list(rule.command),
                environment=dict(rule.environment),
                holds=list(rule.holds),
            )
            for rule in self.rules
        )
        ImagesFile(self.file, tuple(entries)).write()


def _rule(one: ImageEntry, folder: Path) -> ImageRule:
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
