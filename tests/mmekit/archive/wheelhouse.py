"""Wheels that a test makes by itself, in a folder that uv finds them in without a network."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

ANY = "py3-none-any"
SCRIPTS = "[console_scripts]\nmain = main:main\n"


def add_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str | bytes] | None = None,
    requires: Iterable[str] = (),
    tag: str = ANY,
    said: str = "License-Expression: MIT\n",
) -> str:
    """Write a wheel; return its SHA-256. A file in a folder called bin may be executed."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{said}"
    metadata += "".join(f"Requires-Dist: {one}\n" for one in requires)
    first, _, rest = tag.rpartition("-")
    tags = "".join(f"Tag: {first}-{platform}\n" for platform in rest.split("."))
    contents = {
        **(files if files is not None else {f"{name.replace('-', '_')}.py": f"v = {version!r}\n"}),
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(tag == ANY).lower()}\n{tags}",
        f"{info}/entry_points.txt": SCRIPTS,
    }
    data = {it: one.encode() if isinstance(one, str) else one for it, one in contents.items()}
    record = "".join(
        f"{it},sha256={base64.urlsafe_b64encode(hashlib.sha256(one).digest()).decode()[:-1]},"
        f"{len(one)}\n"
        for it, one in data.items()
    )
    file = folder / f"{stem}-{tag}.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        for it, one in {**data, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            member = zipfile.ZipInfo(it)
            member.external_attr = (0o100755 if "/bin/" in it else 0o100644) << 16
            wheel.writestr(member, one)
    return hashlib.sha256(file.read_bytes()).hexdigest()
