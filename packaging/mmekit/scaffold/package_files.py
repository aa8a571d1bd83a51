"""The texts of a new package's files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PROPERTIES = """\
# Written out: left to guess, DJL Serving takes the engine from file names.
engine=Python
# Worker slots: all workers share one process, so that one more costs milliseconds and 0.1 MiB. The
# server adds workers when requests queue up, and ends them after ten minutes without work.
minWorkers=1
maxWorkers=16
max_idle_time=600
# Without it, one time-out marks the model as failed, and SageMaker may replace the instance.
retry_threshold=10
# The name under which the model appears in the server's log.
option.modelName={name}
"""

_TEST = '''\
"""{name} answers its sample request as it did when the package was made."""

from pathlib import Path

from mmekit.testing import agree, read_sample

PACKAGE = Path(__file__).resolve().parent
ARTIFACTS = {artifacts}


def test_the_sample_request_gets_the_sample_answer(mme_model):
    sample = read_sample(PACKAGE)
    model = mme_model(PACKAGE, ARTIFACTS)
    answer = model.invoke(sample.body, content_type=sample.content_type)
    assert answer.status == 200, answer.text
    assert agree(answer.json(), sample.answer, tolerance={tolerance:g})
'''


def model_text(handler: str, file: str, options: Mapping[str, Any] | None) -> str:
    """Return model.py: three lines."""
    further = "".join(f", {name}={_literal(value)}" for name, value in (options or {}).items())
    return (
        f"from mmekit_runtime import {handler}\n\nhandle = {handler}({_literal(file)}{further})\n"
    )


def properties_text(name: str, environment: Mapping[str, str] | None) -> str:
    """Return serving.properties."""
    text = _PROPERTIES.format(name=name)
    if not environment:
        return text
    pairs = ",".join(f"{variable}={value}" for variable, value in environment.items())
    return f"{text}# What the libraries read when they are imported.\noption.env={pairs}\n"


def requirements_text(lines: Sequence[str]) -> str:
    """Return requirements.txt."""
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def testing_text(name: str, artifacts: str, tolerance: float) -> str:
    """Return the test, which says where the artefacts are as ``artifacts``, an expression."""
    return _TEST.format(name=name, artifacts=artifacts, tolerance=tolerance)


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, (tuple, list)):
        inside = ", ".join(map(_literal, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)
