"""What a model does in production, counted in its process; off unless a setting asks for it.

`meter` counts, `emf` writes lines in CloudWatch's embedded metric format, `output` gets them into
the container's log, `telemetry` hands the same to OpenTelemetry. `start` says which of it runs, and
`loading` when, on the plain engine. `current` is what code on the way of a request looks at:
nothing is there while it is off.
"""
