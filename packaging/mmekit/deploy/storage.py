"""What models have in common, in bytes: stored and fetched once, or once for each of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmekit.archive.files import size_text
from mmekit.deploy.layer_files import thin_layers
from mmekit.plural import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmekit.deploy.account import Site
    from mmekit.deploy.models import PackedModel

__all__ = ["Storage", "storage_of"]


@dataclass(frozen=True)
class Storage:
    """What S3 holds of a deployment's models, and instances fetch.

    Attributes
    ----------
    archives, archive_bytes
        How many there are, and what they have together.
    thin_archives, thin_archive_bytes
        Those among them that name layers and do not bring them along.
    layers, layer_bytes
        Those layers: each is stored once, and fetched once by an instance.
    copied_bytes
        What they would have together if each of these archives brought its own along.
    repeated_bytes
        What archives bring along that others bring along, too.
    network
        Where instances fetch the layers, if that is through a private network; empty otherwise.
    """

    archives: int
    archive_bytes: int
    thin_archives: int
    thin_archive_bytes: int
    layers: int
    layer_bytes: int
    copied_bytes: int
    repeated_bytes: int
    network: str

    def lines(self) -> list[str]:
        """Return it as text; nothing where the models have nothing in common."""
        lines = []
        if self.layers:
            many = "layer" if self.layers == 1 else "layers"
            mean = size_text(self.thin_archive_bytes / self.thin_archives)
            lines = [
                (
                    f"storage: {self.layers} {many} of {size_text(self.layer_bytes)}, stored once "
                    "and fetched once by an instance; in every archive: "
                    f"{size_text(self.copied_bytes)}"
                ),
                f"  an archive that only names them has {mean}",
            ]
            if self.network:
                lines.append(
                    "  the container fetches them through the private network: its endpoint for S3 "
                    f"has to let it read {self.network}, or no model with layers loads"
                )
        if self.repeated_bytes:
            lines.append(
                f"storage: of {size_text(self.archive_bytes)} in "
                f"{counted(self.archives, 'archive')}, "
                f"{size_text(self.repeated_bytes)} are layers that others bring along, too; "
                "packed with --thin (`thin: true`) they are there once"
            )
        return lines


def storage_of(site: Site, models: Sequence[PackedModel]) -> Storage:
    """Add up archives and layers."""
    thin = [model for model in models if model.thin_layers]
    layers = thin_layers((model.path, model.layers) for model in thin)
    # One that is in the bucket need not be here; then what it unpacks to has to do.
    sizes = {
        layer: layer.entry.bytes if layer.file is None else layer.file.stat().st_size
        for layer in layers
    }
    entries = [layer.entry for model in models for layer in model.layers if layer.is_inline]
    inline = [entry.sha256 for entry in entries]
    sizes_inline = {entry.sha256: entry.bytes for entry in entries}
    return Storage(
        len(models),
        sum(model.size for model in models),
        len(thin),
        sum(model.size for model in thin),
        len(layers),
        sum(sizes.values()),
        sum(size * len(layer.named) for layer, size in sizes.items()),
        sum(sizes_inline[name] * (times - 1) for name, times in Counter(inline).items()),
        site.layers_url if layers and site.deployment.network is not None else "",
    )
