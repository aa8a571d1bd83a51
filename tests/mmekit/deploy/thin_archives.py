"""Thin archives and their layers, made by hand: what packing writes, without a model to measure."""

import dataclasses
import hashlib
import io
import json
import tarfile

from mmekit.archive.tarball import GzipWriter, TarWriter
from mmekit_runtime.layers.contents import LayerFile, digest_of
from mmekit_runtime.layers.listing import LayerEntry, listing_of


@dataclasses.dataclass(frozen=True)
class MadeLayer:
    """A layer: what archives say of it, and its files."""

    entry: LayerEntry
    files: dict

    @property
    def name(self):
        return f"{self.entry.sha256}.tar.gz"

    def packed(self):
        return tarball(self.files)


def layer(kind="body", says="body.bin", **files):
    """A layer of files: {name without its ending: content}."""
    contents = {f"{name}.bin": content for name, content in files.items()}
    digest = digest_of(
        LayerFile(name, False, hashlib.sha256(content).hexdigest(), len(content))
        for name, content in contents.items()
    )
    return MadeLayer(LayerEntry(digest.sha256, kind, digest.bytes, digest.files, says), contents)


def archive(*layers, inline=False, **description):
    """A model of the small container that has layers, or only names them."""
    files = {
        "layers.json": listing_of(tuple(one.entry for one in layers)),
        "model.json": json.dumps(description).encode(),
    }
    for one in layers if inline else ():
        for name, content in one.files.items():
            files[f"layers/{one.entry.sha256}/{name}"] = content
    return tarball(files)


def tarball(files):
    buffer = io.BytesIO()
    stream = GzipWriter(buffer)
    tar = TarWriter(stream)
    for name, content in sorted(files.items()):
        tar.add_file(name, len(content), io.BytesIO(content))
    tar.close()
    stream.close()
    return buffer.getvalue()


def put(desk, name, /, *layers, **description):
    """Put a thin archive and what packing leaves beside it into a desk's folder."""
    desk.put(name, archive(*layers, **description))
    for one in layers:
        desk.put(f"{name.rpartition('/')[0] or '.'}/layers/{one.name}", one.packed())


def names_in(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()
