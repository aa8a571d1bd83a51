"""Rules about what a model says of its table: signature.json."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mmekit.findings import Finding
from mmekit_runtime.messages import RequestError
from mmekit_runtime.signature import FILE_NAME, Signature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject

_SHOWN = 5
_TABLES = frozenset(
    {
        "BoosterHandler",
        "CatBoostHandler",
        "LightGBMHandler",
        "MLflowHandler",
        "SklearnHandler",
        "TableHandler",
        "XGBoostHandler",
    }
)
_MAKE = (
    'Write one after training: (folder / "signature.json").write_bytes('
    "mmekit.signature(X, y, model).to_json())."
)


def readable(subject: Subject) -> Iterator[Finding]:
    """Expect signature.json to be one: a handler with a table does not load otherwise."""
    data = subject.contents.data(FILE_NAME)
    if data is None:
        return
    try:
        Signature.from_json(data)
    except (ValueError, TypeError, AttributeError) as error:
        yield Finding(
            "error",
            "signature-unreadable",
            f"{FILE_NAME} cannot be read: {error}.",
            _MAKE,
            subject.place(FILE_NAME),
        )


def present(subject: Subject) -> Iterator[Finding]:
    """Expect a handler with a table to say what its columns are."""
    if FILE_NAME in subject.contents or subject.signature is not None:
        return
    if subject.measured is None and not subject.is_archive:
        return  # among the artefacts, or told by the estimator when it is measured
    if _has_table(subject):
        yield Finding(
            "note",
            "no-signature",
            f"There is no {FILE_NAME}, and the model knows no names of its columns: requests are "
            "not checked, and columns that come in another order are not noticed.",
            _MAKE,
            subject.contents.where,
        )


def complete(subject: Subject) -> Iterator[Finding]:
    """Expect types of all columns, and outputs."""
    signature = subject.signature
    if signature is None:
        return
    lacks = []
    unknown = [
        column.name
        for column in signature.inputs
        if column.type == "any" and column.known is None and column.categories is None
    ]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        lacks.append(f"the types of the columns {', '.join(unknown[:_SHOWN])}{more}")
    if not signature.outputs:
        lacks.append("the outputs")
    if lacks:
        yield Finding(
            "note",
            "signature-incomplete",
            f"The signature lacks {' and '.join(lacks)}: what is not known is not checked, nor "
            "told by `mme describe`.",
            _MAKE,
            subject.place(FILE_NAME) if FILE_NAME in subject.contents else subject.contents.where,
        )


def sample(subject: Subject) -> Iterator[Finding]:
    """Expect the sample request to be what the signature says."""
    signature, example = subject.signature, subject.example
    if signature is None or example is None or not signature.inputs or not _has_table(subject):
        return
    from mmekit_runtime.tables import TableReader  # numpy: servers start without it

    try:
        TableReader(signature).read(example.request.encode(), example.content_type)
    except RequestError as error:
        yield Finding(
            "warning",
            "sample-unlike-signature",
            f"The sample request is not what the signature says: {error}.",
            "Correct the sample request, or the signature.",
            subject.contents.where,
        )


def _has_table(subject: Subject) -> bool:
    """Whether the handler's file names a handler of tables."""
    try:
        tree = ast.parse(subject.contents.text(subject.code_file) or "")
    except (SyntaxError, ValueError):
        return False
    names = {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute))
    }
    return bool(_TABLES & names)
