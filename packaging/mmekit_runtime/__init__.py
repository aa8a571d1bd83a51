"""The part of mmekit that travels inside an archive: four verbs make a DJL Serving handler.

It needs the standard library and numpy (and Pillow, for an `ImageHandler`), and knows nothing of
the tool that packed it. A model.py says how a model is loaded and how it predicts; reading
requests, writing answers, errors and batches are done here::

    import joblib
    from mmekit_runtime import Handler

    class Ridge(Handler):
        def load(self, folder):
            return joblib.load(folder / "model.joblib")

        def predict(self, model, rows, parameters):
            return model.predict(rows)

    handle = Ridge()
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmekit_runtime.handler import Handler, ImageHandler, TextHandler
    from mmekit_runtime.messages import Parameters, Prediction, Reply, Request, RequestError
    from mmekit_runtime.signature import Column, Signature
    from mmekit_runtime.table_handler import TableHandler

__all__ = [
    "Column",
    "Handler",
    "ImageHandler",
    "Parameters",
    "Prediction",
    "Reply",
    "Request",
    "RequestError",
    "Signature",
    "TableHandler",
    "TextHandler",
]

_ROOMS = {
    "Column": "signature",
    "Handler": "handler",
    "ImageHandler": "handler",
    "Signature": "signature",
    "TableHandler": "table_handler",
    "TextHandler": "handler",
}


def __getattr__(name: str) -> object:
    # Worker slots import a part of this package in processes that must not pay for numpy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    room = _ROOMS.get(name, "messages")
    value = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value
