"""What was in a log, and what was refused."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from sparsekd_jax.targets.readers.records import LogError
from sparsekd_jax.targets.readers.rows import Rows

_DECADES, _PER_DECADE = 12, 100
_MEANING = {
    "censored": "tokens at the server's floor (−9999), left to the tail",
    "minus_infinity": "tokens at −∞, left to the tail: the log was made after top-k, top-p or a mask",
    "appended": "positions whose chosen token is outside their list: seen, not ranked",
    "above_one": "positions that sum above 1 by rounding: scaled to sum to 1, tail 0",
    "below_one": "positions that sum below 1 by rounding, with all that their unseen can hold: scaled to 1",
    "tail_below_rounding": "positions whose tail is below the rounding of their own numbers",
    "unknown": "tokens outside the vocabulary, left to the tail",
    "empty": "positions with nothing seen, left out",
    "cut": "positions of more than k seen tokens: the least likely left to the tail",
    "short": "positions of fewer than k seen tokens: padded",
}


@dataclasses.dataclass(eq=False)
class Report:
    """Counts over a log; pass one to `read_targets` to have it filled.

    Attributes:
        records: read, without the refused.
        positions: with something seen.
        forms: records by form.
        listed: positions by the number of tokens listed there.
        counts: what was met on the way, by name.
        refused: by reason, ``[how many, first line, first message]``.
    """

    records: int = 0
    positions: int = 0
    forms: Counter[str] = dataclasses.field(default_factory=Counter)
    listed: Counter[int] = dataclasses.field(default_factory=Counter)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    refused: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    _tails: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(_DECADES * _PER_DECADE + 1, np.int64), repr=False
    )

    @property
    def num_refused(self) -> int:
        """Records refused."""
        return sum(count for count, _, _ in self.refused.values())

    def refuse(self, error: LogError) -> None:
        """Count a refused record."""
        entry = self.refused.setdefault(error.reason, [0, error.line, str(error)])
        entry[0] += 1

    def add(self, rows: Rows) -> None:
        """Count rows."""
        here = ~rows.counts["empty"]
        self.positions += int(here.sum())
        sizes, times = np.unique(rows.listed, return_counts=True)
        self.listed.update(dict(zip(sizes.tolist(), times.tolist(), strict=True)))
        for name, count in rows.counts.items():
            if total := int(count.sum()):
                self.counts[name] += total
        tails = rows.tail[here]
        bins = np.zeros(tails.shape, np.int64)
        some = tails > 10.0**-_DECADES
        bins[some] = np.ceil((np.log10(tails[some]) + _DECADES) * _PER_DECADE).astype(np.int64)
        self._tails += np.bincount(np.clip(bins, 0, self._tails.size - 1), minlength=self._tails.size)

    def tail_quantile(self, fraction: float) -> float:
        """A quantile of the tail mass, from above and within 2.4 %; 0 below 1e-12; NaN without a position."""
        total = int(self._tails.sum())
        if total == 0:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self._tails), max(fraction * total, 1)))
        return float(10.0 ** (place / _PER_DECADE - _DECADES)) if place else 0.0

    def _quantiles(self) -> dict[float, float]:
        """Of the tails that were looked at: `read_samples` counts positions and looks at none."""
        return {q: self.tail_quantile(q) for q in (0.05, 0.5, 0.95)} if self._tails.any() else {}

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "records": self.records,
            "positions": self.positions,
            "forms": dict(self.forms),
            "listed": {str(k): n for k, n in sorted(self.listed.items())},
            **{name: self.counts[name] for name in _MEANING},
            "tail_mass": {str(q): tail for q, tail in self._quantiles().items()},
            "refused": {
                reason: {"records": count, "first_line": line, "message": message}
                for reason, (count, line, message) in self.refused.items()
            },
        }

    def __str__(self) -> str:
        forms = ", ".join(f"{name} ({count})" for name, count in self.forms.items()) or "none"
        out = [f"{self.records} records, {self.positions} positions; form: {forms}"]
        if self.listed:
            common = ", ".join(f"{k} ({n})" for k, n in sorted(self.listed.items())[:12])
            out.append(f"tokens listed at a position: {common}{', …' if len(self.listed) > 12 else ''}")
        if tails := self._quantiles():
            low, middle, high = tails.values()
            out.append(f"tail mass: 5 % {low:.3g}, median {middle:.3g}, 95 % {high:.3g}")
        out += [f"{self.counts[name]} {meaning}" for name, meaning in _MEANING.items() if self.counts[name]]
        for reason, (count, line, message) in self.refused.items():
            out.append(f"refused {count}, first at line {line}: {reason}\n  {message}")
        return "\n".join(out)
