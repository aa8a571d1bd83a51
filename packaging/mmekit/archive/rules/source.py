"""Rules about the handler's source. It is parsed, never imported."""

from __future__ import annotations

import ast
import logging
from typing import TYPE_CHECKING

from mmekit.archive.syntax import is_main, names_of, parsed, statements_at_import
from mmekit.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmekit.archive.rules.subject import Subject

_LOADERS = frozenset(
    {
        "cloudpickle.load",
        "cloudpickle.loads",
        "dill.load",
        "joblib.load",
        "np.load",
        "numpy.load",
        "onnxruntime.InferenceSession",
        "pickle.load",
        "pickle.loads",
        "sentence_transformers.SentenceTransformer",
        "skops.io.load",
        "torch.jit.load",
        "torch.load",
        "transformers.pipeline",
    }
)
_THREADS = frozenset({"threading.Thread", "threading.Timer"})
_LOADING_METHODS = frozenset({"fit", "from_pretrained", "load_model", "load_state_dict"})


def syntax(subject: Subject) -> Iterator[Finding]:
    """Expect Python."""
    text = subject.contents.text(subject.code_file)
    if text is None:
        return
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        yield Finding(
            "error",
            "syntax-error",
            f"This is not valid Python: {getattr(error, 'msg', error)}.",
            "Correct the line.",
            subject.place(subject.code_file, line),
        )


def handler(subject: Subject) -> Iterator[Finding]:
    """Expect something of the name that DJL calls."""
    tree = _tree(subject)
    wanted = subject.properties.handler or "handle"
    if tree is None or subject.convention is not None or wanted in names_of(tree):
        return
    yield Finding(
        "error",
        "handler-missing",
        f"Nothing in this file is called {wanted}, which DJL Serving calls for every request.",
        f"Write def {wanted}(inputs): ..., or {wanted} = MyHandler().",
        subject.place(subject.code_file),
    )


def log_level(subject: Subject) -> Iterator[Finding]:
    """Expect the root logger to be left alone: a worker reports at INFO that it is ready."""
    tree = _tree(subject)
    if tree is None:
        return
    imports = _Imports(tree)
    for call in _calls_at_import(tree):
        if _silences(call, imports):
            yield Finding(
                "error",
                "log-level-raised",
                "This silences INFO on the root logger while the file is imported. DJL Serving "
                "waits for the line 'Python engine started.', which is logged after that: the "
                "load hangs for two minutes, and fails.",
                "Set the level of your own logger: logging.getLogger(__name__).setLevel(...).",
                subject.place(subject.code_file, call.lineno),
            )


def work_at_import(subject: Subject) -> Iterator[Finding]:
    """Expect a cheap import: DJL Serving 0.36 runs the file three times for every worker."""
    tree = _tree(subject)
    if tree is None:
        return
    imports = _Imports(tree)
    for call in _calls_at_import(tree):
        name = imports.name_of(call.func)
        method = name.rpartition(".")[2]
        if name in _LOADERS or ("." in name and method in _LOADING_METHODS):
            yield Finding(
                "warning",
                "loads-at-import",
                f"{name} runs while the file is imported, and DJL Serving 0.36 imports it three "
                "times for every worker; the reason of a failure there is not logged.",
                "Load in Handler.load, or in handle when the inputs are empty.",
                subject.place(subject.code_file, call.lineno),
            )


def threads_at_import(subject: Subject) -> Iterator[Finding]:
    """Expect no threads before the model is loaded."""
    tree = _tree(subject)
    if tree is None:
        return
    imports = _Imports(tree)
    for call in _calls_at_import(tree):
        if imports.name_of(call.func) in _THREADS:
            yield Finding(
                "warning",
                "thread-at-import",
                "A thread is made while the file is imported. A plain worker imports it three "
                "times, so that three of them run; with worker slots it runs once for all "
                "workers, and a process that is replaced starts it anew.",
                "Start it in Handler.load, or in handle when the inputs are empty.",
                subject.place(subject.code_file, call.lineno),
            )


def state_in_globals(subject: Subject) -> Iterator[Finding]:
    """Expect nothing that requests leave behind: an idle model parks, and its process ends."""
    tree = _tree(subject)
    never_parks = subject.properties.options.get("park_after", "").strip() == "0"
    if tree is None or not subject.uses_slots or never_parks:
        return
    containers = _containers(tree)
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if function.name in _AT_LOAD:
            continue
        for node in ast.walk(function):
            name = _changed(node, function, containers)
            if name is not None:
                yield Finding(
                    "note",
                    "state-in-globals",
                    f"{name} keeps what requests leave behind. A model that nobody asks for a "
                    "while gives back its process, and a busy one may have several: each begins "
                    "with what the file says.",
                    "Keep it outside, in a file or a store. option.park_after=0 and "
                    "option.processes=1 keep one process, as long as it does not die.",
                    subject.place(subject.code_file, node.lineno),  # type: ignore[attr-defined]
                )
                return


_AT_LOAD = frozenset({"__init__", "load", "prepare"})
_CHANGING = frozenset(
    {"add", "append", "appendleft", "extend", "insert", "pop", "setdefault", "update"}
)
_CONTAINERS = frozenset({"Counter", "OrderedDict", "defaultdict", "deque", "dict", "list", "set"})


def _containers(tree: ast.Module) -> set[str]:
    """Return the names at the top of a module that begin as containers."""
    found = set()
    for statement in tree.body:
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        is_container = isinstance(value, (ast.Dict, ast.List, ast.Set)) or (
            isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] in _CONTAINERS
        )
        if is_container and isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def _changed(
    node: ast.AST, function: ast.FunctionDef | ast.AsyncFunctionDef, containers: set[str]
) -> str | None:
    """Return the name of what a part of a function changes that outlives the call."""
    if isinstance(node, ast.AugAssign):
        target = node.target
        if isinstance(target, ast.Name) and target.id in _globals(function):
            return target.id
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
            return f"self.{target.attr}"
    if isinstance(node, (ast.Assign, ast.AugAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for one in targets:
            if isinstance(one, ast.Subscript) and ast.unparse(one.value) in containers:
                return ast.unparse(one.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        owner = ast.unparse(node.func.value)
        if node.func.attr in _CHANGING and owner in containers:
            return owner
    return None


def _globals(function: ast.AST) -> set[str]:
    return {
        name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names
    }


class _Imports:
    """What the names at the top of a module stand for."""

    def __init__(self, tree: ast.Module) -> None:
        self._full: dict[str, str] = {}
        self.root_loggers: set[str] = set()
        for statement in statements_at_import(tree):
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    if alias.asname:
                        self._full[alias.asname] = alias.name
            elif isinstance(statement, ast.ImportFrom) and statement.module:
                for alias in statement.names:
                    self._full[alias.asname or alias.name] = f"{statement.module}.{alias.name}"
            elif isinstance(statement, ast.Assign) and self.is_root_logger(statement.value):
                self.root_loggers |= {t.id for t in statement.targets if isinstance(t, ast.Name)}

    def name_of(self, node: ast.expr) -> str:
        """Return the dotted name of an expression, imports resolved; empty when it has none."""
        if isinstance(node, ast.Name):
            return self._full.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self.name_of(node.value)
            return f"{owner}.{node.attr}" if owner else f"?.{node.attr}"
        return ""

    def is_root_logger(self, node: ast.expr) -> bool:
        """Return whether an expression is the root logger."""
        if isinstance(node, ast.Name) and node.id in self.root_loggers:
            return True
        if isinstance(node, ast.Call) and self.name_of(node.func) == "logging.getLogger":
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            return not arguments or all(
                isinstance(argument, ast.Constant) and argument.value in (None, "", "root")
                for argument in arguments
            )
        return self.name_of(node) == "logging.root"

    def level_of(self, node: ast.expr | None) -> int | None:
        """Return a logging level that stands in the source; None when it is computed."""
        if isinstance(node, ast.Constant):
            value = node.value
            level = getattr(logging, value.upper(), None) if isinstance(value, str) else value
            return level if isinstance(level, int) else None
        if node is not None:
            level = getattr(logging, self.name_of(node).removeprefix("logging."), None)
            return level if isinstance(level, int) else None
        return None


def _silences(call: ast.Call, imports: _Imports) -> bool:
    name = imports.name_of(call.func)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    first = call.args[0] if call.args else keywords.get("level")
    level = imports.level_of(first)
    if name == "logging.disable":
        # Without an argument it disables everything; disable(level) includes the level.
        return first is None or (level is not None and level >= logging.INFO)
    if name == "logging.basicConfig":
        # The engine has configured logging already: only force changes anything.
        forced = keywords.get("force")
        is_forced = isinstance(forced, ast.Constant) and bool(forced.value)
        return is_forced and (imports.level_of(keywords.get("level")) or 30) > logging.INFO
    if isinstance(call.func, ast.Attribute) and call.func.attr == "setLevel":
        is_root = imports.is_root_logger(call.func.value)
        return is_root and level is not None and level > logging.INFO
    return False


def _tree(subject: Subject) -> ast.Module | None:
    return parsed(subject.contents.text(subject.code_file))


def _calls_at_import(tree: ast.Module) -> Iterator[ast.Call]:
    for statement in statements_at_import(tree):
        if is_main(statement):
            continue
        waiting: list[ast.AST] = [statement]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.Call):
                yield node
            # Nested statements come by themselves; a lambda's body runs later, if ever.
            waiting.extend(
                child
                for child in ast.iter_child_nodes(node)
                if not isinstance(child, (ast.stmt, ast.Lambda, ast.ExceptHandler, ast.match_case))
            )
