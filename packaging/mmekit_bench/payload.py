"""What every request carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ConfigDict

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Payload"]


@dataclass(frozen=True)
class Payload:
    """A request's body and the content type that it is sent with."""

    __pydantic_config__ = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    body: bytes
    content_type: str = "application/json"

    @classmethod
    def of_file(cls, path: Path) -> Payload:
        """Read a file, whose suffix says the content type; JSON when it says nothing.

        Raises
        ------
        OSError
            It cannot be read.
        """
        from mmekit.archive.package import CONTENT_TYPES  # the generator starts without it

        return cls(path.read_bytes(), CONTENT_TYPES.get(path.suffix, cls.content_type))

    @classmethod
    def of_package(cls, folder: Path) -> Payload:
        """Read a package folder's sample request.

        Raises
        ------
        PackageError
            There is no such package, or it has no sample request.
        """
        from mmekit.testing import read_sample

        sample = read_sample(folder)
        return cls(sample.body, sample.content_type)
