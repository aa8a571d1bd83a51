"""Models with layers, inline and thin, and a folder in which layers lie ready."""

from __future__ import annotations

import shutil
import sys

from mmekit_runtime.layers.contents import digest_of_folder
from mmekit_runtime.layers.holding import platform
from mmekit_runtime.layers.listing import FOLDER, LISTING, LayerEntry, listing_of
from mmekit_runtime.layers.store import LayerStore
from tests.server_process import RUNTIME

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


class LayeredModels:
    """Makes models with layers, and the folder where those lie that no archive brings."""

    def __init__(self, model, base):
        self._model = model
        self.ready = base / "ready"
        self.store = LayerStore(base / "models" / ".mmekit-layers")

    def layer(self, kind, files):
        """Have a layer lie ready; return what layers.json says of it."""
        made = self.ready / "made"
        for name, content in files.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        digest = digest_of_folder(made)
        if not (self.ready / digest.sha256).exists():
            made.rename(self.ready / digest.sha256)
        else:
            shutil.rmtree(made)
        compiled = (PYTHON, platform()) if kind == "libraries" else (None, None)
        return LayerEntry(
            digest.sha256, kind, digest.bytes, digest.files, f"some {kind}", *compiled
        )

    def libraries(self, value=1):
        return self.layer("libraries", {"tabular/__init__.py": b"value = %d\n" % value})

    def body(self):
        return self.layer("body", {"body.txt": b"a body"})

    def runtime(self):
        files = {
            f"mmekit_runtime/{path.relative_to(RUNTIME)}": path.read_bytes()
            for path in RUNTIME.rglob("*.py")
        }
        return self.layer("runtime", files)

    def inline(self, name, *entries, **options):
        """Return the folder of a model whose layers lie in it."""
        folder = self._model(name=name, **options)
        for entry in entries:
            shutil.copytree(self.ready / entry.sha256, folder / FOLDER / entry.sha256)
        (folder / LISTING).write_bytes(listing_of(entries))
        return folder

    def thin(self, name, *entries, **options):
        """Return the folder of a model whose layers, the runtime among them, lie elsewhere."""
        folder = self._model(name=name, runtime=False, **options)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(RUNTIME / "layers", folder / "mmekit_layers", ignore=ignored)
        shutil.copyfile(RUNTIME / "site_hook.py", folder / "sitecustomize.py")
        (folder / LISTING).write_bytes(listing_of((*entries, self.runtime())))
        return folder
