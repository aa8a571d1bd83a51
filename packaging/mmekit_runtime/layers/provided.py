"""The layers of a model, as they lie in a container."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SHARED_FOLDER_VARIABLE = "MMEKIT_SHARED_FOLDER"
"""Where a worker finds the body that its model shares with others."""


class ProvidedLayers:
    """The layers of a model, as they lie here.

    Attributes
    ----------
    runtime, libraries, body
        A folder each; None for a kind that the model has not.
    locks
        Descriptors; while they are open, nobody removes the layers. They survive an exec.
    """

    def __init__(self, folders: Mapping[str, str], locks: tuple[int, ...]) -> None:
        self.runtime = folders.get("runtime")
        self.libraries = folders.get("libraries")
        self.body = folders.get("body")
        self.locks = locks

    def close(self) -> None:
        """Let go of the layers."""
        locks, self.locks = self.locks, ()
        for lock in locks:
            os.close(lock)

    def variables(self, environ: Mapping[str, str], model_dir: str) -> dict[str, str]:
        """Return what to change in the environment of the model's worker.

        PYTHONPATH gets the runtime before the model's folder and the libraries right after it.
        """
        changed = {}
        if self.runtime or self.libraries:
            paths = environ.get("PYTHONPATH", "").split(os.pathsep)
            changed["PYTHONPATH"] = os.pathsep.join(self.paths([*filter(None, paths)], model_dir))
        if self.body:
            changed[SHARED_FOLDER_VARIABLE] = self.body
        return changed

    def paths(self, paths: list[str], model_dir: str) -> list[str]:
        """Return a search path with the layers in it, in their places."""
        ours = (self.runtime, self.libraries)
        others = [path for path in paths if path not in ours]
        own = os.path.abspath(model_dir)
        places = [place for place, path in enumerate(others) if os.path.abspath(path) == own]
        place = places[0] if places else len(others)
        before = [*others[:place], *filter(None, [self.runtime])]
        after = [*filter(None, [self.libraries]), *others[place + 1 :]]
        return [*before, others[place] if places else model_dir, *after]
