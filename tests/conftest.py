"""Strict settings for every test: dtypes never promote in silence, ranks never broadcast in silence.

Warnings are errors (pyproject.toml). Law tests and references run in float64; what must hold in float32
says so by ``jax.enable_x64(False)``.
"""

import gc
import os
from pathlib import Path

# Before jax starts: most of the suite's time is compilation, and these compile five times as fast, to slower
# programs. `make nightly` runs everything as XLA compiles it for users.
if os.environ.get("HYPOTHESIS_PROFILE") != "nightly":
    os.environ["XLA_FLAGS"] = " ".join(
        [
            os.environ.get("XLA_FLAGS", ""),
            "--xla_cpu_use_fusion_emitters=false",
            "--xla_backend_optimization_level=0",
        ]
    )

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, database=None)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="also run the tests marked nightly")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long searches to ``make nightly``: deselected, so that a run never shows them as skipped."""
    if config.getoption("--nightly"):
        return
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]


def let_programs_go(above: int) -> None:
    """Free compiled programs: each holds memory maps, and Linux gives a process 65,530."""
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > above:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def programs_let_go():
    """After a module, so that few are compiled anew."""
    yield
    let_programs_go(above=20_000)


@pytest.fixture(autouse=True)
def programs_let_go_in_time():
    """After a test, where a module alone would reach the limit."""
    yield
    let_programs_go(above=40_000)


@pytest.fixture
def x64():
    """Run one test in float64, leaving the process as it was."""
    with jax.enable_x64(True):
        yield
