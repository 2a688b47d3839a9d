"""What each fuzz target is given: in a run of the tests a few examples, always the same; by `scripts/fuzz` what is asked for."""

import os

from hypothesis import HealthCheck, settings

EXAMPLES = 100
IS_FUZZING = "FUZZING" in os.environ

BUDGET = settings(
    deadline=None,  # a busy machine fails no test
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture],
    **({} if IS_FUZZING else {"derandomize": True, "max_examples": EXAMPLES}),
)
