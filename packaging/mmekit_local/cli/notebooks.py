"""The command that runs this repository's notebooks."""

from __future__ import annotations

from mmekit.cli.application import app


@app.command()
def demo() -> None:
    """Run all notebooks against one local endpoint: train, package and serve six models.

    Leaves build/artifacts, build/archives and build/notebooks, and ends with a table of
    latencies. It is run in the folder of the repository.
    """
    from mmekit_local.demo import run

    run()
