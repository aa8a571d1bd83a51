"""Layers: folders that many archives have in common, named by the SHA-256 of their content.

`listing` is what an archive says of its layers, and `provide` has them ready for a model's worker:
from the store beside the models (`store`), from a folder of one's own image, from the archive, or
from S3. A thin archive has a copy of this room under the name mmekit_layers, and gets the rest of
mmekit_runtime as a layer: so these modules use the standard library and each other, by relative
imports, and nothing else.
"""

from .provided import SHARED_FOLDER_VARIABLE, ProvidedLayers
from .providing import provide

__all__ = ["SHARED_FOLDER_VARIABLE", "ProvidedLayers", "provide"]
