"""What benchmarks/soak.py is made of.

`models` are what the server has loaded, `traffic` the clients that ask them all the while, `faults`
what is done to both, and which errors that explains.
"""
