"""What `mmekit.archive` offers is decided here."""

from __future__ import annotations

import mmekit.archive


def test_the_room_exports_exactly_these_names():
    assert mmekit.archive.__all__ == [
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
    assert all(hasattr(mmekit.archive, name) for name in mmekit.archive.__all__)
