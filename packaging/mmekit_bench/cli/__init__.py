"""The commands that measure: bench, clients."""

from mmekit_bench.cli import (
    bench,  # noqa: F401
    clients,  # noqa: F401
)
