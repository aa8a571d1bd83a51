"""What endpoints do: metrics for CloudWatch and Prometheus, logs, captured data.

`metrics` is what the hot path records, `observations` how it is summed up; `monitor` looks once a
second and has everything published.
"""
