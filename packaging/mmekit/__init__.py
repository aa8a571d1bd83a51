"""Package Python models for DJL Serving and rehearse SageMaker multi-model endpoints locally.

The rooms: `mmekit.archive` turns a package folder into a checked archive, `mmekit.server` serves
archives as one multi-model container, `mmekit.endpoint` is SageMaker's side of it. What they have
in common is in `mmekit.errors`, `mmekit.settings` and `mmekit.engine`.
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
