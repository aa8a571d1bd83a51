"""What a model's worker does first: it finds the layers that the model names, and holds them.

Where they are there already that takes a millisecond: nothing is hashed, and none of the modules
is imported that get a layer from elsewhere.
"""

from __future__ import annotations

import os
import sys

from .holding import LISTING, LISTING_BYTES, SHA256_DIGITS, find, platform, trusted_stores
from .provided import ProvidedLayers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FOLDER = "layers"


def provide(
    model_dir: str | os.PathLike[str],
    environ: Mapping[str, str],
    python: str | None = None,
) -> ProvidedLayers | None:
    """Return the layers of a model; get those that are not here yet.

    Parameters
    ----------
    environ
        The worker's: ``MMEKIT_LAYERS`` and ``MMEKIT_LAYERS_STORE``, and AWS's credentials.
    python
        The version of the Python that the worker runs on (``3.11``); this one's by default.

    Returns
    -------
    ProvidedLayers or None
        None for a model that names no layers.

    Raises
    ------
    LayerError
        A layer is not to be had, or not for this Python.
    """
    model_dir = os.path.abspath(model_dir)
    try:
        with open(os.path.join(model_dir, LISTING), "rb") as file:
            data = file.read(LISTING_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError:
        data = b""
    python = python or "{}.{}".format(*sys.version_info)
    named = _names(data, python)
    provided = _at_hand(named, model_dir, environ) if named else None
    if provided is None:
        from .acquiring import acquire

        provided = acquire(model_dir, environ, python)
    # Where a platform unpacks layers, this model's copy of them takes room beside the store's.
    if os.path.isdir(os.path.join(model_dir, _FOLDER)):
        from .linking import link_later

        link_later(model_dir, provided)
    return provided


def _names(data: bytes, python: str) -> dict[str, str] | None:
    """Return the names of the layers by their kinds, as packing writes layers.json.

    None for what is to be read in earnest: another order, or layers that are not for this Python.
    json, and what a data class needs, would cost a stub as much as everything else here.
    """
    fitting = {"python": (b"null", b'"%s"' % python.encode()), "platform": ()}
    fitting["platform"] = (b"null", b'"%s"' % platform().encode())
    named = {}
    pieces = data.split(b'"sha256": "')
    for head, following in zip(pieces, pieces[1:]):  # noqa: B905, RUF007  no import for a pair
        for key, values in fitting.items():
            given = head.rpartition(b'"%s": ' % key.encode())[2]
            if not given.startswith(values):
                return None
        kind = head.rpartition(b'"kind": "')[2].partition(b'"')[0].decode("ascii", "replace")
        sha256 = following[:SHA256_DIGITS].decode("ascii", "replace")
        if not sha256.isalnum() or kind in named or following[SHA256_DIGITS:][:1] != b'"':
            return None
        named[kind] = sha256
    return named if set(named) <= {"runtime", "libraries", "body"} else None


def _at_hand(
    named: dict[str, str], model_dir: str, environ: Mapping[str, str]
) -> ProvidedLayers | None:
    """Return the layers if all of them are here."""
    stores = trusted_stores(model_dir, environ)
    provided = ProvidedLayers({}, ())
    for kind, sha256 in named.items():
        found = find(sha256, stores, model_dir, environ)
        if found is None:
            provided.close()
            return None
        folder, locks = found
        setattr(provided, kind, folder)
        provided.locks += locks
    return provided
