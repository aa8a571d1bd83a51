"""The commands that rehearse: serve, up, demo, images."""

from mmekit_local.cli import (  # noqa: I001
    servers,  # noqa: F401
    images,  # noqa: F401
)
