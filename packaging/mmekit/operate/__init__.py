"""What an endpoint does at the moment, and what it printed: `mme top` and `mme logs`.

`endpoints` finds the endpoint, `views` is what there is to see of it: read from the local service
(`rehearsal`), or on AWS, and wherever CloudWatch is, from metrics and log lines (`cloudwatch`).
`lines` are what its containers printed, `metered` what of it are figures of models, `causes` what
failed and why. `packed` is the name that stands before a model's lines. `screen` draws, and `live`
does it again and again.

What this exports is imported with its first use: the local service takes `causes` alone, and must
not wait for boto3.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmekit.operate.causes import FailureCause, cause_of
    from mmekit.operate.cloudwatch import cloudwatch_view
    from mmekit.operate.endpoints import OperatedEndpoint, find_endpoint
    from mmekit.operate.lines import ContainerLine, FailedLines, LineReader, model_lines
    from mmekit.operate.rehearsal import rehearsal_view
    from mmekit.operate.screen import drawn_view
    from mmekit.operate.views import EndpointView, InstanceView, ModelView

__all__ = [
    "ContainerLine",
    "EndpointView",
    "FailedLines",
    "FailureCause",
    "InstanceView",
    "LineReader",
    "ModelView",
    "OperatedEndpoint",
    "cause_of",
    "cloudwatch_view",
    "drawn_view",
    "find_endpoint",
    "model_lines",
    "rehearsal_view",
]

_MODULES = {
    "causes": ("FailureCause", "cause_of"),
    "cloudwatch": ("cloudwatch_view",),
    "endpoints": ("OperatedEndpoint", "find_endpoint"),
    "lines": ("ContainerLine", "FailedLines", "LineReader", "model_lines"),
    "rehearsal": ("rehearsal_view",),
    "screen": ("drawn_view",),
    "views": ("EndpointView", "InstanceView", "ModelView"),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"mmekit.operate.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
