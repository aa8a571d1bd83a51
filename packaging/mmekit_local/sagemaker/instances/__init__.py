"""What serves a variant: instances, their containers, and the models that they have.

A request's way: `router` picks a variant and an instance, `instance` has its `model_cache` load the
target model when need be and evict others for it (`model_disk`: their files), and
`container_client` sends the request on. `fleet` is all instances of an endpoint, `variant` keeps
them in number, `serverless` starts one when somebody asks, `shadow` sends copies. `launcher` is how
the container of the embedded server, or any command, is started (other images:
`mmekit_local.containers`); `health` says when a container, or one of its models, is unwell.
"""
