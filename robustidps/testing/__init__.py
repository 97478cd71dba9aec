"""What anyone who writes a model family tests it with; nothing here depends on pytest.

`check_family(family)` runs the whole conformance suite against the `ModelFamily` protocol alone, as the library will
use it, and raises `AssertionError` with a sentence on the first thing that doesn't hold. `linear.Linear` is the
smallest family that passes; `traffic.toy_traffic` is traffic with every kind of feature.
"""

from robustidps.testing.conformance import CHECKS, Trial, check_family

__all__ = ["CHECKS", "Trial", "check_family"]
