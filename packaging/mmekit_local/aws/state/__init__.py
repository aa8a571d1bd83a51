"""What a service with a folder remembers: every request that changed something, to be replayed.

`recorder` writes a request down before it is carried out, as an `entry` of the `log`, its body
beside it (`bodies`); `replay` plays the log back at the start; `rollback` puts back what a refused
request has left.
"""
