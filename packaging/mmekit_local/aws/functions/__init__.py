"""AWS Lambda's data plane: Invoke, which runs a function's code for real.

moto keeps the functions (CreateFunction and its like); `service` answers Invoke with what its
record says, `function` unpacks the code, `runner` has a process forked for every invocation by the
`template_process`, a program of its own that is as empty as AWS's runtime: the standard library and
boto3. In that process `runtime` does what AWS's runtime interface client does. `log` writes what
CloudWatch Logs shows of it.
"""

from mmekit_local.aws.functions.service import Functions

__all__ = ["Functions"]
