"""Many clients at once, each with one call: what a limit on concurrency does to them.

`crowd` starts clients behind a barrier, so that they call together, and yields an `Execution` for
each as it comes back. A `LambdaCall` asks a Lambda function, an `EndpointCall` an endpoint; both
through boto3, and every client has one of its own, as if it were a machine of its own. `Table`
writes the executions down as they come, `summary_of` counts them and `draw` draws them.
"""

from mmekit_bench.clients.calls import Call, EndpointCall, LambdaCall, Question, Reply
from mmekit_bench.clients.crowd import Execution, crowd
from mmekit_bench.clients.plot import draw
from mmekit_bench.clients.summary import Summary, summary_of
from mmekit_bench.clients.table import Table

__all__ = [
    "Call",
    "EndpointCall",
    "Execution",
    "LambdaCall",
    "Question",
    "Reply",
    "Summary",
    "Table",
    "crowd",
    "draw",
    "summary_of",
]
