"""CloudFormation: stacks whose resources are made by the same calls that clients make.

A stack's work is done by boto3 against this very service, so whatever a template makes is checked,
runs and is kept as if its author had made it by hand. Resources are made one after the other, in
the order of their dependencies; AWS does what it can at the same time.

`service` answers requests, `stack_operations` begins the work that they ask for and `provisioning`
does it, a resource by what `resource_types` knows of its type. `template`, `parameters` and
`intrinsic_functions` are what is to be made, `stack` and `stack_table` what there is,
`descriptions` what is told of it. A change set is begun in `change_sets`.
"""

from mmekit_local.aws.cloudformation.service import Stacks

__all__ = ["Stacks"]
