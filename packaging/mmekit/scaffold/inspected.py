"""What an artefact turned out to be when it was loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmekit_runtime.signature import Signature

TABLE, TEXTS, TENSORS = "a table", "texts", "arrays"


@dataclass(frozen=True)
class Inspected:
    """An artefact that was loaded once.

    Attributes
    ----------
    path
        The file or folder that the package takes.
    form
        How it was saved, for people.
    title
        The model's class, and what it consists of.
    library
        The library's name and version.
    handler, options
        The handler of mmekit_runtime, and what it is given beside the artefact's name.
    requirements
        Lines of requirements.txt.
    rows
        What a row is: `TABLE`, `TEXTS` or `TENSORS`.
    model
        The loaded model.
    names, width
        The model's own columns and their number, where it knows them.
    environment
        What belongs into ``option.env``.
    signature
        The columns and their types, where the file itself names them: ONNX.
    categories
        The categories of columns, in the order of training, where the file names them: LightGBM.
    coded
        The names of columns of categories that the file knows by their places alone: XGBoost.
    computes
        Whether every column without a name is a number to the model.
    frames
        Whether the handler can give the model a DataFrame.
    wrote
        The version of scikit-learn that the file says wrote it; None where it says none.
    code
        Files and folders of modules that travel in the package.
    runs_code
        Whether loading it runs code that is in it.
    """

    path: Path
    form: str
    title: str
    library: str
    handler: str
    requirements: tuple[str, ...]
    rows: str = TABLE
    model: Any = None
    names: tuple[str, ...] | None = None
    width: int | None = None
    options: Mapping[str, Any] | None = None
    environment: Mapping[str, str] | None = None
    signature: Signature | None = None
    categories: Mapping[str, tuple[Any, ...]] | None = None
    coded: frozenset[str] = frozenset()
    computes: bool = False
    frames: bool = False
    wrote: str | None = None
    code: tuple[Path, ...] = ()
    runs_code: bool = False
