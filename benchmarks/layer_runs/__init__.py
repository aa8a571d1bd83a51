"""What benchmarks/layers.py is made of.

`former` packs with the code of the commit before layers, by `pack_jobs`. `customers` are many
customers of one SetFit model, `expected` computes what each must answer. `one_more` is what one
more of them costs, `many` are hundreds and thousands at once, `first_call` is their first call on
the local endpoint. `stock` stands in for the stock image, `libraries` loads CatBoost in it.
`unchanged` compares models that have no layer with what they were; `report` writes it all down.
"""
