"""What serves a variant: instances, their containers, and the models that they have.

A request's way: `router` picks a variant and an instance, `instance` has its `model_cache` load the
target model when need be, and `container_client` sends the request on. `fleet` is all instances of
an endpoint, `variant` keeps them in number, `serverless` starts one when somebody asks, `shadow`
sends copies; `launcher` starts containers, `health` says when they, or their models, are unwell.
"""
