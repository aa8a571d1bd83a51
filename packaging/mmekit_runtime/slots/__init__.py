"""Worker slots: one forked model process behind all the workers of a model.

The process that DJL Serving starts for a worker becomes a stub (`stub`) that asks a fork server
(`forkserver`) for a slot. The fork server has one model process (`model_process`) per model
(`hosted_model`) forked from a template process that has imported the model's libraries already
(`template_process`), and gives it the connection of every worker, which it serves in one loop
(`request_loop`). docs/worker-slots.md has the whole picture.

Linux only: elsewhere, and whenever anything on this path fails, the plain engine runs.
"""
