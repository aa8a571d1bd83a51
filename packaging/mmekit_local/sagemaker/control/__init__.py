"""SageMaker's control plane: what is refused, what is recorded, and endpoints that follow.

A request's way: `control_plane` has it checked by the tables (`operations`, `members`), against
botocore's model (`validation`) and against what exists (`rules`, `config_rules`, `records`); then
`endpoint_controller` brings what runs in line with what is recorded: `lifecycle` creates, updates
and deletes, by the steps that `deployments` knows. `autoscaling` changes numbers of instances,
`alarms` end a deployment.
"""
