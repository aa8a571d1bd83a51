"""One deployment that proves an account, or a rehearsal, from the archive to the metrics.

`models` are three small models, made on the spot, whose answers are known to the last bit; a
`course` deploys them, asks them, looks at what CloudWatch has of it, and takes everything down,
however it ends; a `report` says what was seen, and nothing that tells whose account it was.
"""

from mmekit.smoke.course import SmokeCourse, SmokeOptions
from mmekit.smoke.models import SmokeModel, write_models
from mmekit.smoke.report import SmokeCheck, SmokeReport

__all__ = [
    "SmokeCheck",
    "SmokeCourse",
    "SmokeModel",
    "SmokeOptions",
    "SmokeReport",
    "write_models",
]
