"""The command that runs this repository's notebooks."""

from __future__ import annotations

from mmekit.cli.application import Panel, app


@app.command(rich_help_panel=Panel.REHEARSE)
def demo() -> None:
    """Run the repository's notebooks on a local endpoint.

    They train, package and serve six models. Run it in the repository's folder: it writes
    build/artifacts, build/archives and build/notebooks, and prints a table of latencies.
    """
    from mmekit_local.demo import run

    run()
