"""The event loop that both servers run in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["run_in_loop"]


def run_in_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run a program: on uvloop, and where that is not built on asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)
