"""SageMaker's control plane: what is refused, what is recorded, and endpoints that follow.

A request's way: `control_plane` has it checked by the tables (`operations`, `members`), against
botocore's model (`validation`) and against what exists (`rules`, `config_rules`, `records`); then
`endpoint_controller` brings what runs in line with what is recorded, through `lifecycle` and, for
an update, `deployments`.
"""
