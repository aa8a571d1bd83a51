"""What benchmarks/peers.py is made of.

`subjects` are the models, `peer` is what a server under test has to offer, `peers` are all of them,
and `containers` those among them that speak SageMaker's contract; `environments` makes what they
run in, `processes` starts, measures and ends them. `measurement` measures one model on one of them
and `cells` keeps what was found; `targets` compares it with what is to be reached; `report` and
`plot` write it down. The files in `handlers` run inside the peers' environments.
"""
