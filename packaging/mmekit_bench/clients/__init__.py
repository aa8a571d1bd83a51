"""Many clients at once, each with one call: what a limit on concurrency does to them.

`call_together` starts clients behind a barrier, so that they call at one moment, and yields an
`Execution` for each as it comes back. A `LambdaCall` asks a Lambda function, an `EndpointCall` an
endpoint; both through boto3, and every client has one of its own, as if it were a machine of its
own. `ExecutionTable` writes the executions down as they come, `summary_of` counts them, and
`mmekit_bench.plot.draw_executions` draws them.
"""

from mmekit_bench.clients.calls import Call, CallRequest, CallResult, EndpointCall, LambdaCall
from mmekit_bench.clients.executions import (
    PERCENTILES,
    Execution,
    ExecutionSummary,
    ExecutionTable,
    call_together,
    summary_of,
)

__all__ = [
    "PERCENTILES",
    "Call",
    "CallRequest",
    "CallResult",
    "EndpointCall",
    "Execution",
    "ExecutionSummary",
    "ExecutionTable",
    "LambdaCall",
    "call_together",
    "summary_of",
]
