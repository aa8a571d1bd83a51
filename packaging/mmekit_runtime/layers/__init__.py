"""Layers: folders that many archives have in common, named by the SHA-256 of their content.

`listing` is what an archive says of its layers, and `provide` has them ready for a model's worker:
from the store beside the models (`store`), from a folder of one's own image, from the archive, or
from S3. A thin archive has a copy of this room under the name mmekit_layers, and gets the rest of
mmekit_runtime as a layer: so these modules use the standard library and each other, by relative
imports, and nothing else. An archive without layers has this module and `provided`, which handlers
need, and no other of them.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .provided import SHARED_FOLDER_VARIABLE, ProvidedLayers
    from .providing import provide

_PLACES = {"SHARED_FOLDER_VARIABLE": "provided", "ProvidedLayers": "provided"}
__all__ = ["SHARED_FOLDER_VARIABLE", "ProvidedLayers", "provide"]


def __getattr__(name: str) -> object:
    """Import what is asked for: a worker's stub uses modules of this room alone."""
    if name not in __all__:
        raise AttributeError(f"{__name__} has no {name}")
    from importlib import import_module

    module = import_module(f".{_PLACES.get(name, 'providing')}", __name__)
    return getattr(module, name)
