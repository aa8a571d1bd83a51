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

For many libraries even that is written already: ``handle = SklearnHandler("model.joblib")``.

A request's way: `wire` is its bytes, `handler` calls the verbs. A body is decoded to rows or texts
by `decoding`, to a table of the training's types by `tables` and `cells`, to arrays by `tensors`;
`bodies` reads its format. `batching` joins requests into one call, `predictions` and `encoding`
make the answer of what came back. The rooms: `libraries` has the handlers that need no code,
`conventions` other entry points than the verbs, `slots` one process behind all workers of a model.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mmekit_runtime.handler import Handler, TextHandler
    from mmekit_runtime.images import ImageHandler
    from mmekit_runtime.libraries.boosting import CatBoostHandler, LightGBMHandler, XGBoostHandler
    from mmekit_runtime.libraries.mlflow_models import MLflowHandler
    from mmekit_runtime.libraries.networks import OnnxHandler, TorchScriptHandler
    from mmekit_runtime.libraries.scikit_learn import SklearnHandler
    from mmekit_runtime.libraries.sentences import SentenceTransformersHandler, SetFitHandler
    from mmekit_runtime.messages import Parameters, Prediction, Reply, Request, RequestError
    from mmekit_runtime.signature import Column, Signature
    from mmekit_runtime.tables import TableHandler

__all__ = [
    "CatBoostHandler",
    "Column",
    "Handler",
    "ImageHandler",
    "LightGBMHandler",
    "MLflowHandler",
    "OnnxHandler",
    "Parameters",
    "Prediction",
    "Reply",
    "Request",
    "RequestError",
    "SentenceTransformersHandler",
    "SetFitHandler",
    "Signature",
    "SklearnHandler",
    "TableHandler",
    "TextHandler",
    "TorchScriptHandler",
    "XGBoostHandler",
]

_MODULES = {
    "CatBoostHandler": "libraries.boosting",
    "Column": "signature",
    "Handler": "handler",
    "ImageHandler": "images",
    "LightGBMHandler": "libraries.boosting",
    "MLflowHandler": "libraries.mlflow_models",
    "OnnxHandler": "libraries.networks",
    "SentenceTransformersHandler": "libraries.sentences",
    "SetFitHandler": "libraries.sentences",
    "Signature": "signature",
    "SklearnHandler": "libraries.scikit_learn",
    "TableHandler": "tables",
    "TextHandler": "handler",
    "TorchScriptHandler": "libraries.networks",
    "XGBoostHandler": "libraries.boosting",
}


def __getattr__(name: str) -> object:
    # Worker slots import a part of this package in processes that must not pay for numpy.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = _MODULES.get(name, "messages")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
