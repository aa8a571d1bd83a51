"""What a Python source defines, seen without running it."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def parsed(text: str | None) -> ast.Module | None:
    """Return the tree of a source; None when there is none, or it is no Python.

    None as well for one that nests deeper than Python's parser goes.
    """
    if text is None:
        return None
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def statements_at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield every statement that runs when the module is imported, nested ones included."""
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        statement = waiting.pop()
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_main(statement):
            continue
        inner: list[ast.stmt] = []
        for child in ast.iter_child_nodes(statement):
            if isinstance(child, ast.stmt):
                inner.append(child)
            elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
                inner.extend(child.body)
        waiting.extend(reversed(inner))


def is_main(statement: ast.stmt) -> bool:
    """Return whether a statement is ``if __name__ ...``."""
    return (
        isinstance(statement, ast.If)
        and isinstance(statement.test, ast.Compare)
        and isinstance(statement.test.left, ast.Name)
        and statement.test.left.id == "__name__"
    )


def names_of(tree: ast.Module) -> set[str]:
    """Return the names that importing the module defines; a star import defines any."""
    names: set[str] = set()
    for statement in statements_at_import(tree):
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(statement.name)
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            aliases = {alias.asname or alias.name for alias in statement.names}
            names |= aliases | ({"handle"} if "*" in aliases else set())
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            names |= {
                node.id
                for node in ast.walk(statement)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
    return names
