"""How long the texts of a model may be that are read whole, wherever one is read.

What a model's files say must not be more work than to load them.
"""

from __future__ import annotations

PROPERTIES_BYTES = 64 << 10
"""serving.properties: a thousand keys with long values."""

REQUIREMENTS_BYTES = 256 << 10
"""requirements.txt: hundreds of distributions, each with the hashes of all its files."""

SIGNATURE_BYTES = 4 << 20
"""signature.json: tens of thousands of columns, or of values that an encoder knows."""

MANIFEST_BYTES = 32 << 20
"""manifest.json: as many files as an archive may hold, and the signature."""


def read_text(path: str, most: int) -> bytes:
    """Return the bytes of a text file.

    Raises
    ------
    ValueError
        It has more than ``most`` bytes; no more than one of these more was read.
    OSError
        It cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123  a worker's stub has no pathlib
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is longer than {most} bytes")
    return data
