"""How everything here is timed: compiled apart, warmed up, interleaved, medians of ratios within a round."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Call = Callable[[], Any]


class Compiled(NamedTuple):
    """A program with what its compilation cost and what it says of its own memory."""

    run: Callable[..., Any]
    seconds: float
    temporaries_mb: float

    def call(self, *arguments: Any) -> Call:
        """One call on these arguments that ends when the result is there."""
        return lambda: jax.block_until_ready(self.run(*arguments))


def compiled(function: Callable[..., Any], *arguments: Any) -> Compiled:
    """Compile for these arguments."""
    began = time.perf_counter()
    # A function of its own: jit would find one it has seen, and the seconds would be another's.
    program = jax.jit(lambda *args: function(*args)).lower(*arguments).compile()
    seconds = time.perf_counter() - began
    memory: Any = program.memory_analysis()
    return Compiled(program, round(seconds, 3), round(memory.temp_size_in_bytes / 1e6, 4))


def interleave(
    calls: Sequence[Call], rounds: int, on_round: Callable[[int], None] = lambda i: None
) -> list[list[float]]:
    """Seconds of each call in each round, every call once a round: ``[call][round]``."""
    times: list[list[float]] = [[] for _ in calls]
    for i in range(rounds):
        on_round(i)
        for call, own in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            own.append(time.perf_counter() - began)
    return times


def ratio(own: Sequence[float], base: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(mine / other for mine, other in zip(own, base, strict=True))


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost against log size, by least squares.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
