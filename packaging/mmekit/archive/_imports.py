"""Which libraries a model imported, and which of them its own code or its pickles asked for.

A part of `_observer`, which imports it by its place: standard library only.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

NOT_THE_MODELS = frozenset({"djl_python", "djl_python_engine", "mmekit", "mmekit_runtime"})
"""Packages that are in every worker, whatever the model is."""

_IMPORT_FUNCTION = ("<frozen importlib._bootstrap>", "_find_and_load")


class ImportRecorder:
    """A finder that finds nothing, and remembers who asked for which module.

    Attributes
    ----------
    importers
        For each top-level module, the module that asked for it first.
    asked
        The modules that were asked for by the model's own code, or by any code while no other
        import was going on; in that order, found or not.
    """

    def __init__(self, model_folder: str) -> None:
        self.importers: dict[str, str] = {}
        self.asked: dict[str, None] = {}
        self._model_folder = model_folder

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> None:
        """Note the importing module; leave the search to the real finders."""
        self._note_outermost()
        if "." in name or name in self.importers:
            return
        frame = sys._getframe(1)  # noqa: SLF001 - the importer is known by its frame alone
        while frame.f_back is not None and _belongs_to_import(frame.f_globals.get("__name__", "")):
            frame = frame.f_back
        self.importers[name] = str(frame.f_globals.get("__name__", "")).partition(".")[0]

    def _note_outermost(self) -> None:
        """Note the import that all others on the stack serve, inside of the model's own modules."""
        frame = sys._getframe(2)  # noqa: SLF001
        outermost = None
        while frame is not None:
            if (frame.f_code.co_filename, frame.f_code.co_name) == _IMPORT_FUNCTION:
                name = frame.f_locals["name"]
                if _is_of_model(name, self._model_folder):
                    break
                if name.partition(".")[0] not in sys.stdlib_module_names:
                    outermost = name
            frame = frame.f_back  # type: ignore[assignment]
        if outermost is not None:
            self.asked[outermost] = None


def _belongs_to_import(module: str) -> bool:
    return module == __name__ or module.partition(".")[0] in ("importlib", "_frozen_importlib")


def _is_of_model(name: str, model_folder: str) -> bool:
    # By place, not by name: a folder of weights may be called as a library is.
    file = getattr(sys.modules.get(name), "__file__", None)
    return name.partition(".")[0] in NOT_THE_MODELS or (
        file is not None and str(file).startswith(f"{model_folder}{os.sep}")
    )


def with_packages(names: Iterable[str]) -> list[str]:
    """Put the packages that a module is in before it.

    They are imported anyway. Named, they are what two models have in common that use different
    parts of a library.
    """
    packages: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        packages.update({".".join(parts[: i + 1]): None for i in range(len(parts))})
    return list(packages)


def importable(names: Iterable[str], model_folder: str) -> list[str]:
    """Return those of the names that are modules of libraries, imported under that very name."""
    return [
        name
        for name in names
        if name in sys.modules
        and getattr(getattr(sys.modules[name], "__spec__", None), "name", None) == name
        and name.partition(".")[0] not in sys.stdlib_module_names
        and not _is_of_model(name, model_folder)
    ]


def libraries_of(
    model_folder: Path, loaded: set[str], importers: dict[str, str]
) -> dict[str, dict[str, str] | list[str]]:
    own = {name.partition(".")[0] for name in loaded if _is_of_model(name, str(model_folder))}
    own |= NOT_THE_MODELS
    standard = sys.stdlib_module_names
    candidates = {
        name
        for name in {module.partition(".")[0] for module in loaded} - own - standard
        if name.isidentifier() and not name.startswith("_")
    }
    providers = _providers(candidates)
    imports = sorted(name for name in candidates if providers.get(name))
    # A library that another library tried to import may be absent: nobody relies on it.
    asked = {
        name
        for name, importer in importers.items()
        if importer in own or importer in standard or importer == "__main__"
    }
    asked |= _named_in_source(model_folder)
    return {
        "imports": imports,
        "modules": sorted(
            name
            for name in loaded
            if re.fullmatch(r"[^.]+\.[a-zA-Z]\w*", name)
            and name.partition(".")[0] in imports
            and getattr(getattr(sys.modules[name], "__spec__", None), "name", None) == name
        ),
        "libraries": {d: v for name in imports for d, v in providers[name].items()},
        "required": sorted({d for name in imports if name in asked for d in providers[name]}),
    }


def _providers(top_level: set[str]) -> dict[str, dict[str, str]]:
    """Return for each top-level module the distributions (and versions) that installed it.

    importlib.metadata.packages_distributions knows no wheels without top_level.txt on Python 3.10,
    and several distributions may share a namespace: only one whose file was loaded counts.
    """
    files = {
        str(Path(file).resolve())
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in top_level and (file := getattr(module, "__file__", None))
    }
    providers: dict[str, dict[str, str]] = {}
    for distribution in importlib.metadata.distributions():
        record = distribution.read_text("RECORD")
        if record is None:
            names = (distribution.read_text("top_level.txt") or "").split()
        else:
            paths = [line.partition(",")[0] for line in record.splitlines()]
            by_name: dict[str, list[str]] = {}
            for path in paths:
                first = re.split(r"[/.]", path, maxsplit=1)[0]
                if first in top_level:
                    by_name.setdefault(first, []).append(path)
            root = str(Path(str(distribution.locate_file(""))).resolve())
            names = [
                name
                for name, owned in by_name.items()
                if any(os.path.join(root, path) in files for path in owned)  # noqa: PTH118 - many
            ]
        canonical = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        for name in names:
            providers.setdefault(name, {})[canonical] = distribution.version
    return providers


def _named_in_source(model_folder: Path) -> set[str]:
    """Return the top-level modules that the model's own files import outside of a try."""
    names: set[str] = set()
    for path in sorted(model_folder.glob("*.py")):
        try:
            nodes: list[ast.AST] = [ast.parse(path.read_bytes())]
        except (SyntaxError, ValueError):
            continue
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
            if not isinstance(node, ast.Try):
                nodes.extend(ast.iter_child_nodes(node))
    return names
