"""References are computed with 50 digits."""

import mpmath
import pytest


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield
