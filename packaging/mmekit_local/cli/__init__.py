"""The commands that rehearse: serve, up, images, demo."""

from mmekit_local.cli import (  # noqa: I001
    servers,  # noqa: F401
    images,  # noqa: F401
    notebooks,  # noqa: F401
)
