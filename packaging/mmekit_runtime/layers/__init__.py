"""Layers: folders that many archives have in common, named by the SHA-256 of their content.

`listing` is what an archive says of its layers. A thin archive has a copy of this room under the
name mmekit_layers, and gets the rest of mmekit_runtime as a layer: so these modules use the
standard library and each other, by relative imports, and nothing else.
"""

SHARED_FOLDER_VARIABLE = "MMEKIT_SHARED_FOLDER"
"""Where a worker finds the body that its model shares with others."""
