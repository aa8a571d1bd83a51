"""What one ships: Python models as archives for DJL Serving, and their way to SageMaker.

The rooms: `mmekit.scaffold` makes a package folder of a trained model, `mmekit.archive` a checked
archive of that, `mmekit.deploy` an endpoint of archives, and `mmekit.cli` is the command `mme`.
`mmekit.testing` runs a handler without a server. What they have in common is in `mmekit.errors`,
`mmekit.settings`, `mmekit.engine` and `mmekit.uv`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmekit.signatures import signature

__version__ = "0.1.0"

__all__ = ["__version__", "signature"]


def __getattr__(name: str) -> object:
    # Imported with the first use: `mme --help` must not wait for numpy.
    if name != "signature":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmekit.signatures import signature

    return signature
