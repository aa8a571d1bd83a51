"""What benchmarks/worker_slots.py is made of.

`subjects` are the models, `servers` what serves them, `processes` what they cost in memory, `runs`
one model on one server in one mode; `answers` compares what two modes answered, `targets` the
figures with what is to be reached; `report` and `plot` write it down. `thousand` is a run of its
own: very many models at once.
"""
