"""The parts of benchmarks/endpoint.py.

`models` makes archives, `service` runs the local endpoint; what is measured are `overhead` (the
endpoint against its container), `crowd` (a thousand models, by `arrivals` in a process of its own)
and `events` (first calls together, a killed instance, serverless); `report` writes it down.
"""
