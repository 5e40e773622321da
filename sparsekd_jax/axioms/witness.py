"""A violation in numbers that a reader can retype, and that can be replayed."""

import dataclasses
import math
from typing import Any

import numpy as np

from sparsekd_jax.axioms.cases import Cases
from sparsekd_jax.axioms.evaluate import Evaluator
from sparsekd_jax.axioms.laws import LAWS
from sparsekd_jax.axioms.observation import Law, Observation
from sparsekd_jax.operators import TemperatureRange


@dataclasses.dataclass(frozen=True)
class Witness:
    """A case that breaks a law: its inputs, both sides of the law, and the margin.

    `str` prints what to retype; `replay` judges the case again; `to_dict` and `from_dict` go through JSON
    without losing a digit.
    """

    law: str
    p: tuple[float, ...]
    low: float
    high: float
    r: tuple[float, ...]
    weight: float
    permutation: tuple[int, ...]
    left: float
    right: float
    margin: float
    lowest: float = 0.0  # the temperatures that the law was judged at: some choose their T among them
    highest: float = math.inf

    @classmethod
    def of(
        cls, law: Law, case: Cases, left: float, right: float, margin: float, where: TemperatureRange
    ) -> "Witness":
        """From a batch of one, judged at temperatures in a range."""
        return cls(
            law.id,
            tuple(case.p[0].tolist()),
            float(case.low[0]),
            float(case.high[0]),
            tuple(case.r[0].tolist()),
            float(case.weight[0]),
            tuple(case.permutation[0].tolist()),
            float(left),
            float(right),
            float(margin),
            where.low,
            where.high,
        )

    @property
    def case(self) -> Cases:
        """The inputs as a batch of one."""
        return Cases(
            np.array([self.p]),
            np.array([self.r]),
            np.array([self.weight]),
            np.array([self.permutation]),
            np.array([self.low]),
            np.array([self.high]),
        )

    def replay(self, operator: Any) -> float:
        """The margin of this case now, negative beyond the law's tolerance while the law is still broken."""
        where = TemperatureRange(self.lowest, self.highest)
        with np.errstate(invalid="ignore"):
            margins = LAWS[self.law].margins(Observation(Evaluator(operator), self.case, where))
        return float(margins.margin[0])

    def to_dict(self) -> dict[str, Any]:
        """Plain data; infinite margins (outputs that are NaN) as strings."""
        plain = dataclasses.asdict(self)
        return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Witness":
        """The inverse of `to_dict`."""
        fields = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        for name in ("p", "r", "permutation"):
            fields[name] = tuple(fields[name])
        for name in {"left", "right", "margin", "lowest", "highest"} & fields.keys():
            fields[name] = float(fields[name])
        return cls(**fields)

    def __str__(self) -> str:
        law = LAWS[self.law]
        inputs = {
            "p": f"p = {_retypable(self.p)}",
            "r": f"r = {_retypable(self.r)}",
            "w": f"w = {self.weight!r}",
            "permutation": f"π = {list(self.permutation)}",
            "S": f"S = {self.low!r}",
            "T": f"T = {self.high!r}",
        }
        given = ", ".join(inputs[name] for name in law.uses)
        left, right = (f"{side:.9g}" for side in (self.left, self.right))
        if left == right:  # nine digits hide a small violation
            left, right = repr(self.left), repr(self.right)
        return f"{given}: {law.sides[0]} = {left}, {law.sides[1]} = {right} (margin {self.margin:.3g})"


def _retypable(p: tuple[float, ...]) -> str:
    """``[3, 1]/4`` where p is that ratio of small whole numbers to rounding, else the floats in full."""
    row = np.asarray(p)
    for digits in range(1, 7):
        weights = np.round(row / row.max() * 10**digits).astype(int)
        weights = weights // max(int(np.gcd.reduce(weights)), 1)
        total = int(weights.sum())
        # A class of 1e-30 is no zero: the law may hold on the face and break next to it.
        if np.abs(weights / total - row).max() <= 2e-16 and ((weights > 0) == (row > 0)).all():
            return f"{weights.tolist()}/{total}"
    return "[" + ", ".join(repr(x) for x in p) + "]"
