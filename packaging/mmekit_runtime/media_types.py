"""Media types that requests and answers have, by their usual names."""

from __future__ import annotations

JSON = "application/json"
JSON_LINES = "application/jsonlines"
CSV = "text/csv"
NPY = "application/x-npy"
NPZ = "application/x-npz"
PARQUET = "application/vnd.apache.parquet"
ARROW = "application/vnd.apache.arrow.stream"
TEXT = "text/plain"
JPEG = "image/jpeg"
PNG = "image/png"
IMAGE = "application/x-image"

_ALIASES = {
    "application/x-jsonlines": JSON_LINES,
    "application/x-ndjson": JSON_LINES,
    "application/json-lines": JSON_LINES,
    "application/csv": CSV,
    "application/npy": NPY,
    "tensor/npz": NPZ,
    "application/parquet": PARQUET,
    "application/x-parquet": PARQUET,
    "application/vnd.apache.arrow.file": ARROW,
    "application/x-arrow": ARROW,
    "image/jpg": JPEG,
}


def media_type(header: str) -> tuple[str, str]:
    """Split a Content-Type into its media type, in lower case and by its usual name, and the rest.

    >>> media_type("Text/CSV; header=present")
    ('text/csv', 'header=present')
    """
    name, _, rest = header.partition(";")
    name = name.strip().lower()
    return _ALIASES.get(name, name), rest.strip().lower()
