"""CloudFormation: stacks whose resources are made by the same calls that clients make.

A stack's work is done by boto3 against this very service, so whatever a template makes is checked,
runs and is kept as if its author had made it by hand. Resources are made one after the other, in
the order of their dependencies; AWS does what it can at the same time.
"""

from mmekit_local.aws.cloudformation.service import Stacks

__all__ = ["Stacks"]
