"""Worker slots: one forked model process behind all the workers of a model.

The process that DJL Serving starts for a worker becomes a stub (`stub`) that asks a fork server
(`forkserver`) for a slot. The fork server forks one model process (`process`) per model from a
parent that has imported the model's libraries already (`nursery`), and gives it the connection of
every worker. docs/worker-slots.md has the whole picture.

Linux only: elsewhere, and whenever anything on this path fails, the plain engine runs.
"""
