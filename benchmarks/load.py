"""The load generators of all benchmarks: wrk where it is installed, and otherwise `mme bench`."""

from mmekit.bench import Load, Target, Tool, measure

__all__ = ["Load", "Target", "Tool", "measure"]
