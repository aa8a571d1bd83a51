"""AWS Lambda's data plane: Invoke, which runs a function's code for real.

moto keeps the functions (CreateFunction and its like, CloudFormation's too); `invocations` answers
Invoke with what its record says, `source` unpacks the code, `runner` has a process forked for every
invocation by the `nursery`, a program of its own that is as empty as AWS's runtime: the standard
library and boto3. In that process `runtime` does what AWS's runtime interface client does. `log`
writes what CloudWatch Logs shows of it.
"""

from mmekit_local.aws.functions.invocations import Functions

__all__ = ["Functions"]
