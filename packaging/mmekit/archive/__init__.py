"""A package folder and its artefacts become a checked, reproducible model.tar.gz.

`package` is what a person wrote, `properties` its serving.properties. `measure` loads the model
once, `check` has the `rules` look at what would be packed, `pack` makes the archive, with a
`manifest` in it, and `tarball` its bytes; `series` does so for many models of one package, which
`trial` loads and `likeness` compares. `unpack` reads one that nobody vouches for, within a
`budget`. `layers` are what archives have in common.
`stock_images` and `images` are what container images hold, `describe` and `openapi` what
a model takes and gives.

>>> from mmekit.archive import parse_properties
>>> parse_properties("engine=Python").max_idle_time_s
60
"""

from mmekit.archive.budget import Limits
from mmekit.archive.check import check
from mmekit.archive.describe import Description, describe
from mmekit.archive.layers import ArchiveLayer, LayerSource, layer_file
from mmekit.archive.manifest import Digest, Manifest, read_manifest, verify
from mmekit.archive.measure import measure
from mmekit.archive.measured import Measured, MeasuredMemory, read_measured
from mmekit.archive.openapi import openapi
from mmekit.archive.pack import Packed, pack
from mmekit.archive.package import Example, Package, SampleRequest, read_package
from mmekit.archive.packed_series import PackedSeries, SeriesProgress
from mmekit.archive.properties import Properties, parse_properties, read_properties
from mmekit.archive.requirements import parse_requirements, remaining
from mmekit.archive.series import pack_all
from mmekit.archive.stock_images import (
    STOCK_IMAGE,
    Image,
    container_environment,
    declared_image,
    find_image,
)
from mmekit.archive.unpack import unpack
from mmekit.findings import Finding, Severity

__all__ = [
    "STOCK_IMAGE",
    "ArchiveLayer",
    "Description",
    "Digest",
    "Example",
    "Finding",
    "Image",
    "LayerSource",
    "Limits",
    "Manifest",
    "Measured",
    "MeasuredMemory",
    "Package",
    "Packed",
    "PackedSeries",
    "Properties",
    "SampleRequest",
    "SeriesProgress",
    "Severity",
    "check",
    "container_environment",
    "declared_image",
    "describe",
    "find_image",
    "layer_file",
    "measure",
    "openapi",
    "pack",
    "pack_all",
    "parse_properties",
    "parse_requirements",
    "read_manifest",
    "read_measured",
    "read_package",
    "read_properties",
    "remaining",
    "unpack",
    "verify",
]
