"""Layers, and archives that have or name them, put together by hand."""

import dataclasses
import hashlib
import io

from mmekit.archive.runtime import layers_room, packed_runtime
from mmekit.archive.tarball import GzipWriter, TarWriter
from mmekit_runtime.layers.listing import LayerEntry, listing_of


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer of {name: bytes}, none of them executable."""

    files: dict
    kind: str = "body"
    says: str = "a table"
    python: str | None = None
    platform: str | None = None

    @property
    def sha256(self):
        lines = (
            f"644 {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n"
            for name, content in sorted(self.files.items())
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size(self):
        return sum(map(len, self.files.values()))

    @property
    def entry(self):
        return LayerEntry(
            self.sha256,
            self.kind,
            self.size,
            len(self.files),
            self.says,
            self.python,
            self.platform,
        )

    def members(self):
        return {f"layers/{self.sha256}/{name}": content for name, content in self.files.items()}


def listing(*layers):
    return {"layers.json": listing_of(tuple(layer.entry for layer in layers))}


def tarball(files, folders=()):
    """Return a .tar.gz of {name: bytes}, in this order."""
    buffer = io.BytesIO()
    gzip = GzipWriter(buffer)
    tar = TarWriter(gzip)
    for folder in folders:
        tar.add_folder(folder)
    for name, content in files.items():
        tar.add_file(name, len(content), io.BytesIO(content))
    tar.close()
    gzip.close()
    return buffer.getvalue()


def layered_archive(files, *layers, inline=True):
    """Return an archive as packing writes one: folders first, and all in the order of names."""
    everything = {**files, **listing(*layers)}
    for layer in layers if inline else ():
        everything.update(layer.members())
    parents = {name.rpartition("/")[0] for name in everything}
    folders = {
        "/".join(parent.split("/")[:depth])
        for parent in parents
        for depth in range(1, parent.count("/") + 2)
    }
    return tarball(dict(sorted(everything.items())), sorted(folders - {""}))


def put_into_store(layer, store):
    """Put a layer into a store, as it is there when it is whole."""
    folder = store / layer.sha256
    for name, content in layer.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (store / f"{layer.sha256}.lock").write_text(f"{layer.size}\n")
    for made in (store, folder):
        made.chmod(0o755)
    return folder


def runtime_layer():
    """Return mmekit_runtime as a layer, and what an archive keeps of it that only names that."""
    members = {one.name: one.read() for one in packed_runtime(worker_slots=True, layers=True)}
    kept = {one.name: one.read() for one in layers_room()}
    kept["sitecustomize.py"] = members.pop("sitecustomize.py")
    # Another layer than packing makes, of which there may be copies for other archives.
    members["mmekit_runtime/of_tests.py"] = b""
    return Layer(members, "runtime", "mmekit"), kept
