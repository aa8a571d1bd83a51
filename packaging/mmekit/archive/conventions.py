"""Packages that were made for SageMaker's or DJL's conventions: what they are, and where they run.

Sources: PyModel.java (findModelFile, hasModelFile), djl_python/custom_formatter_handling.py and
utils.py (SAGEMAKER_SIGNATURES) of deepjavalibrary/djl-serving at v0.36.0;
sagemaker_inference/environment.py of aws/sagemaker-inference-toolkit.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmekit.archive.syntax import names_of, parsed, statements_at_import
from mmekit_runtime.model_files import RECOMMENDING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmekit.archive.contents import Contents
    from mmekit.archive.properties import Properties, PropertyLine

ENTRY_POINT = "mmekit_runtime.conventions"
"""What serves them on every platform, as option.entryPoint."""

SKLEARN = "djl_python.sklearn_handler"
XGBOOST = "djl_python.xgboost_handler"
HANDLERS = (SKLEARN, XGBOOST)
"""DJL 0.36's entry points without code, which the engine of 0.34 lacks."""

INFERENCE_FILE = "code/inference.py"
"""Where SageMaker's framework containers look for a script."""

CODE_REQUIREMENTS = "code/requirements.txt"
"""What SageMaker's framework containers install; DJL Serving looks beside model.py only."""

Platform = Literal["the embedded server", "DJL Serving 0.36", "SageMaker's stock image"]
_EVERY: tuple[Platform, ...] = (
    "the embedded server",
    "DJL Serving 0.36",
    "SageMaker's stock image",
)

_MODEL_FILE = "model.py"
_PROGRAM = "SAGEMAKER_PROGRAM"
_REPLACED = ("option.entryPoint", "option.convention")
_DECORATORS = frozenset({"init_handler", "input_formatter", "prediction_handler"})
_DECORATORS |= {"output_formatter"}
_FUNCTIONS = ("model_fn", "input_fn", "predict_fn", "output_fn", "transform_fn")
# The names that parameters must have, or DJL 0.36 takes no notice of a function.
_PARAMETERS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "model_fn": (("model_dir",),),
    "input_fn": (("request_body", "content_type"), ("request_body", "request_content_type")),
    "predict_fn": (("input_data", "model"),),
    "output_fn": (("prediction", "accept"), ("prediction", "response_content_type")),
}


@dataclass(frozen=True)
class Convention:
    """What a package or an archive was made for, when it was not for ``handle`` in model.py.

    Attributes
    ----------
    made_for
        One of `HANDLERS`, or the path of the script: what ``option.convention`` says.
    script
        The script, by name; None when DJL's handler needs none.
    functions
        SageMaker's functions that the script has.
    platforms
        Where it runs as it is.
    ignored
        SageMaker's functions of which DJL 0.36 takes no notice, as their parameters have other
        names than those that it looks for.
    is_packed
        Whether it has the entry point that serves it everywhere.
    """

    made_for: str
    script: str | None
    functions: tuple[str, ...]
    platforms: tuple[Platform, ...]
    ignored: tuple[str, ...] = ()
    is_packed: bool = False

    @property
    def is_of_handler(self) -> bool:
        """Whether it was made for one of DJL's handlers."""
        return self.made_for in HANDLERS


def convention_of(contents: Contents, properties: Properties) -> Convention | None:
    """Return the convention of a package or an archive; None when it has a ``handle`` in model.py.

    What DJL 0.36 would run comes first; then what only SageMaker's framework containers run.
    """
    entry = properties.entry_point
    if entry == ENTRY_POINT:
        return _packed(contents, properties)
    if properties.handler not in (None, "handle"):
        return None
    if entry in HANDLERS:
        return _of_handler(contents, str(entry))
    if entry is not None:
        return _of_entry(contents, entry)
    return _of_files(contents, properties)


def packed_properties(
    text: bytes, entries: tuple[PropertyLine, ...], convention: Convention
) -> bytes:
    """Return serving.properties with the entry point that serves a convention everywhere.

    The line that named another entry point becomes a comment; one that goes on in the next line
    stays, as the last line of a key is what counts.
    """
    replaced = {one.line for one in entries if one.key in _REPLACED}
    lines = re.split(rb"(\r\n|\r|\n)", text)
    for number in replaced:
        # The line ends stand between the lines, so that each stays what it was.
        position = 2 * (number - 1)
        if not lines[position].rstrip().endswith(b"\\"):
            lines[position] = b"# " + lines[position]
    own = b"".join(lines)
    end = b"" if own.endswith((b"\n", b"\r")) or not own else b"\n"
    value = "".join(map(_escaped, convention.made_for))
    added = f"option.entryPoint={ENTRY_POINT}\noption.convention={value}\n"
    return own + end + f"\n# Added when the model was packed:\n{added}".encode()


def _escaped(character: str) -> str:
    """Write a character of a value in ASCII, as java.util.Properties understands it."""
    if character.isascii() and character != "\\":
        return character
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


class _Script:
    """What a script defines."""

    def __init__(self, contents: Contents, name: str) -> None:
        tree = parsed(contents.text(name))
        self.names = set() if tree is None else names_of(tree)
        self.functions = tuple(name for name in _FUNCTIONS if name in self.names)
        definitions = [
            statement
            for statement in (() if tree is None else statements_at_import(tree))
            if isinstance(statement, ast.FunctionDef)
        ]
        self.is_decorated = any(
            _last_name(decorator) in _DECORATORS
            for definition in definitions
            for decorator in definition.decorator_list
        )
        self.is_conventional = bool(self.functions) or self.is_decorated
        self.ignored = tuple(
            definition.name
            for definition in definitions
            if definition.name in _PARAMETERS
            and _parameters(definition) not in _PARAMETERS[definition.name]
        )


def _packed(contents: Contents, properties: Properties) -> Convention:
    script = _model_file(contents)
    made_for = properties.options.get("convention")
    if made_for is None:
        made_for = script or (INFERENCE_FILE if INFERENCE_FILE in contents else SKLEARN)
    if made_for not in HANDLERS:
        script = made_for
    functions = () if script is None else _Script(contents, script).functions
    return Convention(made_for, script, functions, _EVERY, is_packed=True)


def _of_handler(contents: Contents, handler: str) -> Convention:
    script = _model_file(contents)
    if script is None:
        return Convention(handler, None, (), _EVERY)
    found = _Script(contents, script)
    ignored = () if found.is_decorated else found.ignored
    return Convention(handler, script, found.functions, _EVERY, ignored)


def _of_files(contents: Contents, properties: Properties) -> Convention | None:
    """Return the convention of files without an entry point."""
    script = _model_file(contents)
    found = _Script(contents, script or "")
    if "handle" in found.names:
        return None
    if found.is_conventional and script is not None:
        # DJL's handlers call four functions, and transform_fn is none of them.
        if _is_recommended(contents) and "transform_fn" not in found.functions:
            return _of_handler(contents, SKLEARN)
        return Convention(script, script, found.functions, ())
    program = f"code/{properties.env[_PROGRAM]}" if _PROGRAM in properties.env else INFERENCE_FILE
    if program in contents:
        return Convention(program, program, _Script(contents, program).functions, ())
    return _of_handler(contents, SKLEARN) if _is_recommended(contents) and not script else None


def _of_entry(contents: Contents, entry: str) -> Convention | None:
    """Return the convention of a script that option.entryPoint names.

    One in a folder with a ``handle`` is loaded by path since 0.35; the engine before looks for a
    module called code/inference.
    """
    if not entry.endswith(".py") or entry not in contents:
        return None
    found = _Script(contents, entry)
    if "handle" in found.names:
        return Convention(entry, entry, found.functions, _EVERY) if "/" in entry else None
    return Convention(entry, entry, found.functions, ()) if found.is_conventional else None


def _model_file(contents: Contents) -> str | None:
    return _MODEL_FILE if _MODEL_FILE in contents else None


def _is_recommended(contents: Contents) -> bool:
    """Return whether DJL 0.36 recommends its handler for scikit-learn: PyModel.hasModelFile."""
    return any(name in contents for name in RECOMMENDING)


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _parameters(definition: ast.FunctionDef) -> tuple[str, ...]:
    """Return all parameters in the order of inspect.signature."""
    given = definition.args
    names = [*given.posonlyargs, *given.args]
    names += [given.vararg] if given.vararg else []
    names += given.kwonlyargs
    names += [given.kwarg] if given.kwarg else []
    return tuple(one.arg for one in names)
