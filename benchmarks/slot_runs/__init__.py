"""What benchmarks/worker_slots.py and benchmarks/at_scale.py are made of.

`subjects` are the models, `servers` what serves them and what that costs in memory, `runs` one
model on one server in one mode; `answers` compares what two modes answered, `targets` the figures
with what is to be reached; `report` writes it down. `waiting`, `parked`, `crowd` and `container`
are runs of their own, which `scale` gathers: a handler that waits, parked models, very many at
once, and many in a container with little memory.
"""
