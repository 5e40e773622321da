"""How sparse each stage is: the target sparsity s_1 ≤ … ≤ s_n = s of every stage, as plain numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from sparsekd_jax._refusals import percent_hint, whole
from sparsekd_jax.sparsity._arguments import call_with, named

Schedule = Callable[..., float]
"""Maps the share of the stages begun, k/n in (0, 1], to the share of the final sparsity reached.

A function that names a second argument ``final`` is given the final sparsity."""


def one_shot(progress: float) -> float:
    """Everything at the first stage: ``g(x) = 1``.

    Args:
        progress: k/n, in (0, 1].

    Returns:
        Share of the final sparsity, in [0, 1].

    >>> one_shot(0.2)
    1.0
    """
    del progress
    return 1.0


def linear(progress: float) -> float:
    """Equal increments: ``g(x) = x``.

    Args:
        progress: k/n, in (0, 1].

    Returns:
        Share of the final sparsity, in [0, 1].

    >>> linear(0.2)
    0.2
    """
    return progress


def cubic(progress: float) -> float:
    """Fast while much is redundant, slow near the end: ``g(x) = 1 − (1 − x)³``.

    Args:
        progress: k/n, in (0, 1].

    Returns:
        Share of the final sparsity, in [0, 1].

    Reference:
        Zhu and Gupta, "To prune, or not to prune", arXiv 1710.01878, equation 1, from initial sparsity 0.

    >>> cubic(0.2)
    0.488
    """
    return 1.0 - (1.0 - progress) ** 3


def geometric(progress: float, *, final: float) -> float:
    """Every stage keeps the same share of what is left: ``g(x) = (1 − (1 − s)^x)/s``.

    So ``1 − s_k = (1 − s)^(k/n)``: each stage multiplies the remaining weights by ``(1 − s)^(1/n)``.

    Args:
        progress: k/n, in (0, 1].
        final: final sparsity s, a share in [0, 1).

    Returns:
        Share of the final sparsity, in [0, 1]; at s = 0 its limit x.

    Reference:
        Frankle and Carbin, "The lottery ticket hypothesis", arXiv 1803.03635: iterative pruning.

    >>> [round(0.75 * geometric(k / 2, final=0.75), 4) for k in (1, 2)]
    [0.5, 0.75]
    """
    if final == 0.0:
        return progress
    return math.expm1(progress * math.log1p(-final)) / -final


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "one-shot": one_shot,
        "linear": linear,
        "cubic": cubic,
        "geometric": geometric,
    }
)


def sparsities(schedule: str | Schedule, final: float, num_stages: int) -> tuple[float, ...]:
    """The sparsity after each prune: ``s_k = s · g(k/n)``, k = 1 … n, ending exactly at s.

    Args:
        schedule: "one-shot", "linear", "cubic", "geometric", or a function g of k/n; one that names an
            argument ``final`` is given s too.
        final: final sparsity s, a share in [0, 1).
        num_stages: n ≥ 1.

    Returns:
        n non-decreasing shares, the last equal to ``final``.

    Raises:
        ValueError: a share outside [0, 1), no stage, an unknown name, or a g that decreases, leaves [0, 1] or
            does not end at 1.

    >>> [round(s, 4) for s in sparsities("cubic", 0.95, 5)]
    [0.4636, 0.7448, 0.8892, 0.9424, 0.95]
    >>> [round(s, 4) for s in sparsities("geometric", 0.9375, 4)]
    [0.5, 0.75, 0.875, 0.9375]
    """
    reach = named("schedule", schedule, SCHEDULES)
    num_stages = whole("num_stages", num_stages)
    if isinstance(final, Sequence):
        raise TypeError(f"sparsity is {final!r}; give the final share alone, the schedule makes the others")
    if not 0.0 <= final < 1.0:
        raise ValueError(f"sparsity must be a share in [0, 1), got {final:g}{percent_hint(final)}")
    shares = [float(call_with(reach, k / num_stages, {}, final=final)) for k in range(1, num_stages + 1)]
    if abs(shares[-1] - 1.0) > 1e-9:
        raise ValueError(f"schedule must reach 1 at the last stage, it reaches {shares[-1]:.6g}")
    for k, (before, after) in enumerate(zip([0.0, *shares], shares, strict=False), start=1):
        if not before <= after <= 1.0 + 1e-9:
            raise ValueError(
                f"schedule must not decrease, nor leave [0, 1]: stage {k} goes {before:.6g} -> {after:.6g}"
            )
    return (*(final * share for share in shares[:-1]), float(final))
