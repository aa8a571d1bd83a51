"""How hard to try: a little, and always the same; or as MMEKIT_FUZZ_EXAMPLES says, at random."""

import os

from hypothesis import HealthCheck, settings

_EXAMPLES = int(os.environ.get("MMEKIT_FUZZ_EXAMPLES", "0"))

settings.register_profile(
    "fuzz",
    max_examples=_EXAMPLES or 150,
    derandomize=not _EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
