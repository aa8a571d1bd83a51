"""The four verbs: load, decode, predict, encode."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmekit_runtime.batching import alike, joined, kind_of, row_count
from mmekit_runtime.decoding import decode_numbers, decode_texts
from mmekit_runtime.encoding import encode
from mmekit_runtime.estimators import names_of, takes_missing
from mmekit_runtime.layers import SHARED_FOLDER_VARIABLE
from mmekit_runtime.messages import (
    Parameters,
    Prediction,
    Reply,
    Request,
    RequestError,
    is_out_of_memory,
)
from mmekit_runtime.metering.current import CURRENT
from mmekit_runtime.metering.loading import metered_load
from mmekit_runtime.predictions import prediction_of
from mmekit_runtime.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from mmekit_runtime.metering.meter import Gaps

_logger = logging.getLogger("mmekit_runtime")


class Handler:
    """A model with rows of numbers behind DJL Serving's ``handle(inputs)``.

    A subclass says how its model is loaded and how it predicts; an instance named ``handle`` in
    model.py is what DJL Serving calls. Importing it costs nothing: the model is loaded by the
    empty request that DJL Serving sends first, once, however often model.py is run.

    Attributes
    ----------
    features
        The number of columns of a row; None takes the model's ``n_features_in_`` when it has one
        and any width otherwise.
    columns
        What they are called, in the order of training; None takes signature.json, or else the
        model's ``feature_names_in_``. A body that names its columns is put into that order.
    missing
        Whether ``predict`` takes missing values, as NaN; None for models that are known to take
        them, such as HistGradientBoosting, XGBoost, LightGBM, CatBoost, and pipelines that fill
        gaps.
    largest
        The largest absolute value that the model can take, such as float32's for scikit-learn's
        trees; None for any finite number.
    max_rows
        The largest number of rows that one call of ``predict`` gets when several requests are
        answered together. A single request is never split.
    reads
        Names of the parameters beside ``probabilities`` that ``predict`` reads. Requests that
        differ in others are answered by one call, and others in a body's ``parameters`` are 400.
        None: it may read any, and requests that differ in one are kept apart.
    tolerance
        By how much an answer in a batch may differ from that to a single request, relative to
        numbers above 1 and absolute below: libraries may add up in another order.
    """

    features: ClassVar[int | None] = None
    largest: float | None = None
    max_rows: ClassVar[int] = 4096
    columns: tuple[str, ...] | None = None
    missing: bool | None = None
    reads: ClassVar[tuple[str, ...] | None] = None
    tolerance: ClassVar[float] = 1e-6

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None
        self._received: tuple[Any] | None = None

    # By Python's typing rules, `load(self, folder)` and `load(self, folder, shared)` both override
    # this.
    def load(self, folder: Path, *_shared: Any, **_named: Any) -> Any:
        """Return the model whose artefacts are in ``folder``.

        A handler with a `load_shared` of its own gets what that has returned as a second argument.
        """
        raise NotImplementedError

    def load_shared(self, folder: Path) -> Any:
        """Return what many models have in common: what is made of the shared files in ``folder``.

        Which files these are ``option.shared`` in serving.properties says; they keep their names.
        With worker slots it is called once for all models that have these files and this code,
        in a process from which theirs are forked: it must not change what it returns later, nor
        start threads, leave files open, or use a GPU. (It is loaded in each process then.)
        """
        raise NotImplementedError

    def predict(self, model: Any, rows: Any, parameters: Parameters) -> Any:
        """Answer n rows, which may come from several requests with equal parameters.

        n predictions: an array, a list of what JSON can say, a pandas or polars frame, a series; a
        tuple or dict of outputs with n rows each; or a `Prediction` of length n.
        """
        raise NotImplementedError

    def decode(self, body: bytes, content_type: str) -> tuple[Any, Parameters]:
        """Read a request's rows (float64 of shape (n, features)) and its parameters.

        Rows of several requests are joined if they are arrays, lists (a row after the other),
        pandas or polars frames, scipy's sparse matrices, or a tuple or dict of these with as many
        rows each, and of equal types and columns. Anything else is answered alone.
        """
        return decode_numbers(
            body,
            content_type,
            self._width(),
            self.largest,
            names=self._names(),
            missing=self._takes_missing(),
        )

    def encode(self, prediction: Prediction, accept: str) -> tuple[bytes, str]:
        """Write an answer; return its body and content type."""
        return encode(prediction, accept)

    def prepare(self, folder: Path) -> Any:
        """Load the model unless it is loaded, and return it."""
        if self._loaded is None:
            model = self._load(folder)
            signature = Signature.read(folder)
            self._loaded = _Loaded(
                model,
                signature,
                names=(signature and signature.names) or names_of(model),
                takes_missing=bool(takes_missing(model)),
            )
        return self._loaded.model

    def shares(self) -> bool:
        """Whether the model is loaded in two parts, `load_shared` and ``load(folder, shared)``.

        A handler with a `load_shared` of its own does. One that can do without asks here whether
        the package has shared files, and is loaded by ``load(folder)`` where it has none.
        """
        return type(self).load_shared is not Handler.load_shared

    def receive_shared(self, shared: Any) -> None:
        """Take what `load_shared` has returned in the process that this one was forked from."""
        self._received = (shared,)

    def _load(self, folder: Path) -> Any:
        if not self.shares():
            return self.load(folder)
        if self._received is None:
            self._received = (self.load_shared(shared_folder()),)
        return self.load(folder, *self._received)

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer each request with a status of its own, with as few calls of predict as possible.

        A call that fails is repeated request by request, so that one bad request fails alone.
        """
        replies: list[Reply | None] = [None] * len(requests)
        decoded = []
        for index, request in enumerate(requests):
            try:
                decoded.append(self._decoded(index, request))
            except RequestError as error:
                replies[index] = Reply.of_request_error(error)
            except Exception as error:  # noqa: BLE001  a subclass's decode may raise anything
                replies[index] = _failed(error)
        for group in self._groups(decoded):
            for item, reply in zip(group, self._answer_group(group), strict=True):
                replies[item.index] = reply
                if item.gaps and CURRENT.meter is not None:
                    CURRENT.meter.taken(item.gaps, reply.status)
        return [reply for reply in replies if reply is not None]

    def __call__(self, inputs: Any) -> Any:
        """Answer a djl_python Input with a djl_python Output; load when the Input is empty."""
        from djl_python import Output  # only a worker has it

        folder = Path(inputs.get_property("model_dir") or os.getcwd())  # noqa: PTH109
        if inputs.is_empty():
            return self._initialise(folder, inputs.get_properties(), Output)
        self.prepare(folder)
        if not inputs.is_batch():
            reply = self._metered([_request(inputs)])[0]
            output = Output(code=reply.status, message=reply.message)
            output.add_property("Content-Type", reply.content_type)
            return output.add(reply.body)
        # A batch of DJL Serving has one status; each request's own is in its body.
        replies = self._metered([_request(single) for single in inputs.get_batches()])
        output = Output()
        output.add_property("Content-Type", replies[0].content_type)
        for index, reply in enumerate(replies):
            output.add(reply.body, batch_index=index)
        return output

    def _metered(self, requests: list[Request]) -> list[Reply]:
        meter = CURRENT.meter
        if meter is None:
            return self.answer(requests)
        began = time.monotonic_ns()
        replies = self.answer(requests)
        meter.answered([reply.status for reply in replies], time.monotonic_ns() - began)
        return replies

    def _initialise(self, folder: Path, properties: Mapping[str, Any], output_class: Any) -> Any:
        try:
            with metered_load(properties, folder):
                self.prepare(folder)
        except Exception as error:
            _logger.exception("the model could not be loaded from %s", folder)
            # DJL Serving shows the message and drops the body; it must be a single line.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if is_out_of_memory(error):
                return output_class(code=507, message=reason)
            return output_class().error(reason, message=reason)
        return output_class(message="loaded")

    def _width(self) -> int | None:
        if self.features is None and self._loaded is not None:
            width = getattr(self._loaded.model, "n_features_in_", None)
            names = self._names()
            return len(names) if width is None and names is not None else width
        return self.features

    def _written_signature(self) -> Signature | None:
        """Return what signature.json said when the model was loaded."""
        return None if self._loaded is None else self._loaded.signature

    def _names(self) -> tuple[str, ...] | None:
        if self.columns is None and self._loaded is not None:
            return self._loaded.names
        return self.columns or None

    def _takes_missing(self) -> bool:
        if self.missing is None and self._loaded is not None:
            return self._loaded.takes_missing
        return bool(self.missing)

    def _decoded(self, index: int, request: Request) -> _Decoded:
        meter = CURRENT.meter
        if meter is not None:
            meter.take_aside()  # of one that was refused
        rows, parameters = self.decode(request.body, request.content_type)
        gaps = () if meter is None else meter.take_aside()
        if self.reads is not None:
            unknown = [name for name in parameters.others if name not in self.reads]
            if unknown:
                known = ", ".join(("probabilities", *self.reads))
                raise RequestError(400, f"parameters among {known}", ", ".join(unknown))
        if request.attributes:
            asked = Parameters.read(request.attributes)
            others = {**asked.others, **parameters.others}
            if self.reads is not None:
                others = {name: value for name, value in others.items() if name in self.reads}
            parameters = Parameters(parameters.probabilities or asked.probabilities, others)
        count, kind = row_count(rows), kind_of(rows)
        return _Decoded(index, rows, parameters, request.accept, count, kind, gaps)

    def _groups(self, decoded: list[_Decoded]) -> Iterator[list[_Decoded]]:
        """Put together what one call may answer."""
        open_groups: dict[Hashable, list[_Group]] = {}
        for item in decoded:
            if item.kind is None or item.count is None:
                yield [item]
                continue
            of_kind = open_groups.setdefault(item.kind, [])
            for group in of_kind:
                if group.rows + item.count <= self.max_rows and group.parameters_are(item):
                    group.add(item)
                    break
            else:
                of_kind.append(_Group([item], item.count))
        for of_kind in open_groups.values():
            for group in of_kind:
                yield group.items

    def _answer_group(self, group: list[_Decoded]) -> list[Reply]:
        try:
            return self._vectorised(group)
        except Exception as error:  # noqa: BLE001  predict and encode may raise anything
            if len(group) == 1:
                if isinstance(error, RequestError):
                    return [Reply.of_request_error(error)]
                return [_failed(error)]
        return [reply for item in group for reply in self._answer_group([item])]

    def _vectorised(self, group: list[_Decoded]) -> list[Reply]:
        if self._loaded is None:
            raise RuntimeError("the model is not loaded")
        rows = self._for_predict(joined([item.rows for item in group]))
        count = sum(item.count for item in group) if group[0].count is not None else None  # type: ignore[misc]
        with _without_false_alarm(self._loaded, rows):
            answer = self.predict(self._loaded.model, rows, group[0].parameters)
        prediction = prediction_of(answer, count)
        replies = []
        start = 0
        for item in group:
            stop = start + (item.count or 0)
            own = prediction if len(group) == 1 else prediction.slice(start, stop)
            body, content_type = self.encode(own, item.accept)
            replies.append(Reply(200, "OK", body, content_type))
            start = stop
        return replies

    def _for_predict(self, rows: Any) -> Any:
        """Return rows in the form that ``predict`` gets."""
        return rows


def shared_folder() -> Path:
    """Return the folder with the files that the model shares with others.

    Raises
    ------
    RuntimeError
        Whoever has started this process has not said where it is.
    """
    folder = os.environ.get(SHARED_FOLDER_VARIABLE)
    if not folder:
        raise RuntimeError(
            f"{SHARED_FOLDER_VARIABLE} is not set, so load_shared has no files: option.shared in "
            "serving.properties has to name some that are among the artefacts"
        )
    return Path(folder)


class TextHandler(Handler):
    """A model whose rows are texts: ``predict`` gets a list of str."""

    def decode(self, body: bytes, content_type: str) -> tuple[list[str], Parameters]:
        """Read a request's texts and its parameters."""
        return decode_texts(body, content_type)


@dataclass(frozen=True)
class _Loaded:
    model: Any
    signature: Signature | None
    names: tuple[str, ...] | None
    takes_missing: bool


@dataclass(frozen=True)
class _Decoded:
    index: int
    rows: Any
    parameters: Parameters
    accept: str
    count: int | None
    kind: Hashable | None
    gaps: Sequence[Gaps] = ()


@dataclass
class _Group:
    """Requests that one call answers, and how many rows they have together."""

    items: list[_Decoded]
    rows: int

    def parameters_are(self, item: _Decoded) -> bool:
        """Whether an item asks for the same beside its rows."""
        ours, theirs = self.items[0].parameters, item.parameters
        if ours.probabilities is not theirs.probabilities:
            return False
        return (not ours.others and not theirs.others) or alike(ours.others, theirs.others)

    def add(self, item: _Decoded) -> None:
        """Answer one more."""
        self.items.append(item)
        self.rows += item.count or 0


@contextlib.contextmanager
def _without_false_alarm(loaded: _Loaded, rows: Any) -> Iterator[None]:
    """Predict without a warning of scikit-learn's that an array has no names: they were checked."""
    if loaded.names is None or not hasattr(rows, "dtype"):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        yield


def _failed(error: Exception) -> Reply:
    _logger.error("the request failed", exc_info=error)
    return Reply.of_exception(error)


def _request(inputs: Any) -> Request:
    body = inputs.get_as_bytes()
    return Request.read(inputs.get_properties(), bytes(body) if body is not None else b"")
