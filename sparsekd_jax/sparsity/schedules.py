"""How sparse each stage is: the target sparsity s_1 ≤ … ≤ s_n = s of every stage, as plain numbers."""

import difflib
from collections.abc import Callable

Schedule = Callable[[float], float]
"""Maps the share of the stages begun, k/n in (0, 1], to the share of the final sparsity reached."""


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


SCHEDULES: dict[str, Schedule] = {"one-shot": one_shot, "linear": linear, "cubic": cubic}


def sparsities(schedule: str | Schedule, final: float, num_stages: int) -> tuple[float, ...]:
    """The sparsity after each prune: ``s_k = s · g(k/n)``, k = 1 … n, ending exactly at s.

    Args:
        schedule: "one-shot", "linear", "cubic", or a function g of k/n.
        final: final sparsity s, a share in [0, 1).
        num_stages: n ≥ 1.

    Returns:
        n non-decreasing shares, the last equal to ``final``.

    Raises:
        ValueError: a share outside [0, 1), no stage, an unknown name, or a g that decreases, leaves [0, 1] or
            does not end at 1.

    >>> [round(s, 4) for s in sparsities("cubic", 0.95, 5)]
    [0.4636, 0.7448, 0.8892, 0.9424, 0.95]
    """
    if isinstance(schedule, str) and schedule not in SCHEDULES:
        close = difflib.get_close_matches(schedule, SCHEDULES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"schedule {schedule!r} is unknown{hint} (known: {', '.join(SCHEDULES)})")
    if num_stages < 1:
        raise ValueError(f"num_stages must be at least 1, got {num_stages}")
    if not 0.0 <= final < 1.0:
        hint = f"; did you mean {final / 100:g}?" if 1.0 < final < 100.0 else ""
        raise ValueError(f"sparsity must be a share in [0, 1), got {final:g}{hint}")
    reach = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    shares = [float(reach(k / num_stages)) for k in range(1, num_stages + 1)]
    if abs(shares[-1] - 1.0) > 1e-9:
        raise ValueError(f"schedule must reach 1 at the last stage, it reaches {shares[-1]:.6g}")
    for k, (before, after) in enumerate(zip([0.0, *shares], shares, strict=False), start=1):
        if not before <= after <= 1.0 + 1e-9:
            raise ValueError(
                f"schedule must not decrease, nor leave [0, 1]: stage {k} goes {before:.6g} -> {after:.6g}"
            )
    return (*(final * share for share in shares[:-1]), float(final))
