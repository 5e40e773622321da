"""Checking an operator: a stratified sweep, a Hypothesis search, and a shrunk witness for each failure."""

import dataclasses
import inspect
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hypothesis
import numpy as np
from hypothesis import Phase

from sparsekd_jax._refusals import whole
from sparsekd_jax.axioms import cases as case_makers
from sparsekd_jax.axioms.cases import Cases
from sparsekd_jax.axioms.evaluate import Evaluator
from sparsekd_jax.axioms.laws import LAWS
from sparsekd_jax.axioms.observation import SINGLE_PRECISION_TOLERANCE, Law, Margins, Observation
from sparsekd_jax.axioms.report import LawResult, Report, Verdict
from sparsekd_jax.axioms.witness import Witness
from sparsekd_jax.operators import Claim, Claims, TemperatureRange
from sparsekd_jax.operators.base import operator_name, require_operator

NUM_CLASSES = (2, 3, 5, 8, 64)
"""The default K's: small ones where witnesses are simple, odd and even ones, and a large one."""

Softener = Callable[[Any, Any], Any]
Bounds = TemperatureRange | tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is tried.

    Attributes:
        sweep: cases in the sweep for each number of classes K, a fifth of them where a function is no jax.
        limits: the same of a limit law.
        search: Hypothesis examples a law, fewer where a law takes more evaluations; 0 searches nothing.
        shrink: Hypothesis examples in making a witness small, likewise.
    """

    sweep: int = 3000
    limits: int = 200
    search: int = 25
    shrink: int = 250

    @classmethod
    def deep(cls) -> "Budget":
        """For a nightly run: ten times the cases, twenty times the search, four times the shrinking."""
        return cls(sweep=30_000, limits=2_000, search=500, shrink=1_000)


def plain_claims(temperatures: TemperatureRange) -> Claims:
    """What a function with no claims of its own is taken to claim, on a range that its user gives.

    Closure on the whole simplex (so no NaN at zeros), permutation equivariance and A1 to A4 on the interior;
    A5h where the range is unbounded above, A5c where it reaches 0.
    """
    interior = Claim("interior", temperatures, "sampled")
    laws = {"closure": Claim("simplex", temperatures, "sampled")}
    laws |= dict.fromkeys(("equivariance", "A1", "A2", "A3", "A4"), interior)
    if 1.0 not in temperatures:
        del laws["A4"]
    if np.isinf(temperatures.high):
        laws["A5h"] = interior
    if temperatures.low == 0:
        laws["A5c"] = interior
    return Claims(temperatures, laws)


def check(
    operator: Softener,
    *,
    laws: Iterable[str] | None = None,
    num_classes: Sequence[int] = NUM_CLASSES,
    temperature_range: Bounds | None = None,
    name: str | None = None,
    budget: Budget | None = None,
    corpus: bool = True,
    seed: int = 0,
) -> Report:
    """Check an operator, or any function ``(p, temperature) -> q``, against the laws.

    A law is judged on the domain and the temperatures that the operator claims for it (a law it does not
    claim: on its whole range), and on the boundary of the simplex too, so that an over-cautious claim shows.
    "Holds" means: no violation among the recorded cases. In float64, whatever the process uses; what answers
    in less all the same, or casts to it inside, is judged to 2e-5 (float32), and of its gradients nothing is
    said.

    Args:
      operator: a `SofteningOperator`, or a function of one distribution p ``[K]`` and a scalar temperature. A
        function that jax can trace is vmapped and jitted; any other is called row by row, on fewer cases.
      laws: ids from `LAWS`; all by default.
      num_classes: the K's to try.
      temperature_range: temperatures to judge at, ``(low, high)``; the operator's own range by default,
        [1, ∞) for a function.
      name: printed in the report.
      budget: how much to try.
      corpus: whether the known witnesses join the sweep, which are those of theory.md and one more.
      seed: of the sweep; the same seed gives the same report.

    Returns:
      A `Report`: ``report.ok``, ``report["A3"].verdict``, ``.margin``, ``.witness``, ``.cases``.

    Raises:
      ValueError: no law or an unknown one, K < 2, a range that the operator does not cover, or a function
        that answers the same arguments in two ways (one that draws random numbers or remembers).
      TypeError: the operator is not callable, takes other arguments or in another order, or returns another
        shape than it was given.

    >>> from sparsekd_jax import operators
    >>> report = check(operators.PowerTransform(), laws=("A1", "A4"), num_classes=(3,))
    >>> report.ok, report["A1"].verdict
    (True, 'holds')
    >>> broken = check(lambda p, temperature: p[::-1], laws=("A4",), num_classes=(2, 3))
    >>> broken.ok, broken["A4"].verdict, broken["A4"].witness.margin < 0
    (False, 'fails', True)
    """
    require_operator(operator)
    _require_signature(operator)
    chosen = _chosen_laws(laws)
    if not isinstance(num_classes, Iterable):
        raise TypeError(f"num_classes is {num_classes!r}; it lists numbers of classes: ({num_classes!r},)")
    if not isinstance(budget, Budget | None):
        raise TypeError(f"budget is {budget!r}; pass axioms.Budget(sweep=...)")
    ks = tuple(sorted({whole("num_classes", k, -math.inf) for k in num_classes}))
    if not ks or ks[0] < 2:
        raise ValueError(f"num_classes is {tuple(num_classes)}; it lists numbers of classes, each ≥ 2")
    given = None if temperature_range is None else TemperatureRange.of(temperature_range)
    claims = getattr(operator, "claims", None)
    claimed = claims is not None
    if claims is None:
        claims = plain_claims(given or TemperatureRange(1.0))
    asked = claims.temperatures if given is None else claims.temperatures.intersect(given)
    if asked is None:
        raise ValueError(f"temperature_range {given} has nothing in common with {claims.temperatures}")

    evaluator = Evaluator(operator)
    probe = case_makers.sweep(ks[0], asked, 8, seed)
    evaluator.prepare(ks, float(probe.high[0]))
    # A hot temperature evens out what float32 just tells apart.
    evaluator.see_precision(probe.p, np.full(len(probe), 2.0) if 2.0 in asked else probe.high)
    budget = budget or Budget()
    _require_one_answer(evaluator, probe)
    if not evaluator.traceable:  # row by row: a tenth as fast, so fewer cases, still dense in T
        budget = dataclasses.replace(budget, sweep=max(budget.sweep // 5, 1), limits=budget.limits // 5)
    run = _Run(evaluator, claims, asked, ks, budget, corpus, seed)
    with np.errstate(invalid="ignore"):  # an operator may answer NaN or inf, which laws judge
        results = [run.judge(law) for law in chosen]
    return Report(
        name or operator_name(operator),
        asked,
        {r.law.id: r for r in results},
        claimed,
        evaluator.rows_evaluated,
    )


def _require_signature(operator: Softener) -> None:
    """Refuse a function that cannot be called as ``(p, temperature)``, or that names them the other way."""
    try:
        signature = inspect.signature(operator)
    except (TypeError, ValueError):  # some built-ins have none
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"operator takes {signature} ({error}); it is called as operator(p, temperature): wrap it in a "
            "function of these two"
        ) from None
    if next(iter(signature.parameters)) in ("temperature", "T"):
        raise TypeError(
            f"operator takes {signature}; the order is (p, temperature): swap them, such as "
            "lambda p, temperature: operator(temperature, p)"
        )


def _require_one_answer(evaluator: Evaluator, probe: Cases) -> None:
    """Refuse a function that draws random numbers or remembers: rows asked in another order show it."""
    if evaluator.has_log:
        return
    if evaluator.traceable:
        row = np.arange(1.0, probe.num_classes + 1)
        if not evaluator.answers_alike(row / row.sum(), float(probe.high[0])):
            raise evaluator.two_answers()
        return
    p, t = np.repeat(probe.p, 2, axis=0), np.stack([probe.low, probe.high], -1).ravel()
    there, back = evaluator.soften(p, t), evaluator.soften(p[::-1], t[::-1])[::-1]
    if not np.array_equal(there, back, equal_nan=True):
        raise evaluator.two_answers()


def _chosen_laws(laws: Iterable[str] | None) -> list[Law]:
    if laws is None:
        return list(LAWS.values())
    wanted = [laws] if isinstance(laws, str) else list(laws)
    unknown = [law for law in wanted if law not in LAWS]
    if unknown:
        raise ValueError(
            f"unknown law {unknown[0]!r}; the laws are {', '.join(LAWS)}, given as laws=('A1', 'A3')"
        )
    if not wanted:
        raise ValueError("laws is empty, so nothing would be checked; name some, or leave it out for all")
    return [LAWS[law] for law in wanted]


@dataclasses.dataclass
class _Run:
    """One check under way: the observations, shared by all laws judged at the same temperatures."""

    evaluator: Evaluator
    claims: Claims
    asked: TemperatureRange
    num_classes: tuple[int, ...]
    budget: Budget
    corpus: bool
    seed: int

    def __post_init__(self) -> None:
        self._seen: dict[tuple[TemperatureRange, bool], list[Observation]] = {}

    def judge(self, law: Law) -> LawResult:
        if self.evaluator.single_precision:
            law = dataclasses.replace(law, tolerance=max(law.tolerance, SINGLE_PRECISION_TOLERANCE))
        claim = self.claims.laws.get(law.id)
        where = self._where(law, claim)
        if where is None:
            return LawResult(law, "not applicable", None, 0)
        if claim is not None and not law.limit and claim.temperatures.intersect(self.asked) is None:
            claim = None  # claimed, but not at these temperatures
        tally = _Tally(law, where)
        for seen in self._observations(where, law.limit):
            tally.add(seen.cases, law.margins(seen))
        if not tally.fails:
            self._search(law, where, tally)
        verdict = tally.verdict()
        witness = tally.witness(verdict)
        if witness is not None:
            witness = self._shrunk(law, where, witness, interior=verdict == "fails")
        return LawResult(
            law, verdict, claim, tally.count, tally.margin(), witness, tally.always_equal, tally.undecided
        )

    def _where(self, law: Law, claim: Claim | None) -> TemperatureRange | None:
        """The temperatures a law is judged at, or None where it says nothing."""
        if law.id in ("A5h", "A5f"):
            return self.asked if np.isinf(self.asked.high) else None
        if law.id == "A5c":  # a limit T → 0: the operator's own range decides, whatever was asked
            return self.claims.temperatures if self.claims.temperatures.low == 0 else None
        if law.id == "A4" and 1.0 not in self.asked:
            return None
        return (claim.temperatures.intersect(self.asked) if claim else None) or self.asked

    def _observations(self, where: TemperatureRange, limit: bool) -> list[Observation]:
        key = (where, limit)
        if key not in self._seen:
            self._seen[key] = []
            for k in self.num_classes:
                size = self.budget.limits if limit else self.budget.sweep
                batch = case_makers.sweep(k, where, size, self.seed)
                known = case_makers.corpus(k, where) if self.corpus else None
                if known is not None:
                    # First, since the laws that follow a case at length examine only the first ones.
                    batch = Cases.concatenate([known, batch])
                self._seen[key].append(Observation(self.evaluator, batch, where))
        return self._seen[key]

    def _margins(self, law: Law, where: TemperatureRange, case: Cases) -> Margins:
        return law.margins(Observation(self.evaluator, case, where))

    def _find(self, strategy: Any, broken: Callable[[Cases], bool], examples: int) -> Cases | None:
        settings = hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        try:
            return hypothesis.find(strategy, broken, settings=settings, random=random.Random(self.seed))
        except hypothesis.errors.NoSuchExample:
            return None
        except hypothesis.errors.Flaky:  # it tries what it found once more
            raise self.evaluator.two_answers() from None

    def _search(self, law: Law, where: TemperatureRange, tally: "_Tally") -> None:
        """Let Hypothesis look where the sweep found nothing."""

        def broken(case: Cases) -> bool:
            margins = self._margins(law, where, case)
            tally.add(case, margins)
            return tally.violates(case, margins, interior=False)

        if not self.budget.search:
            return
        small = [k for k in self.num_classes if k <= 8] or list(self.num_classes[:1])
        self._find(case_makers.cases(small, where), broken, -(-self.budget.search // law.effort))

    def _shrunk(self, law: Law, where: TemperatureRange, witness: Witness, interior: bool) -> Witness:
        tally = _Tally(law, where)

        def broken(case: Cases) -> bool:
            inside = where.inside(case.low).all() and where.inside(case.high).all()
            if not (inside and (case.low <= case.high).all()):
                return False
            return tally.violates(case, self._margins(law, where, case), interior)

        strategy = case_makers.simpler(witness.case, self.num_classes)
        found = self._find(strategy, broken, -(-self.budget.shrink // law.effort))
        if found is None:
            return witness
        margins = self._margins(law, where, found)
        return Witness.of(law, found, margins.left[0], margins.right[0], margins.margin[0], where)


class _Tally:
    """What has been seen of one law: how many cases it speaks of, the worst margins, and where."""

    def __init__(self, law: Law, where: TemperatureRange) -> None:
        self.law, self.where = law, where
        self.count = 0
        self.undecided = 0
        self.always_equal = True
        self._worst = {"interior": np.inf, "boundary": np.inf}
        self._where: dict[str, Witness] = {}

    def _broken(self, margins: Margins) -> np.ndarray:
        decided = np.ones(len(margins.margin), bool) if margins.decided is None else margins.decided
        return decided & (margins.margin < -self.law.tolerance)

    def violates(self, case: Cases, margins: Margins, interior: bool) -> bool:
        """Whether a batch of one breaks the law (in the interior)."""
        return bool(self._broken(margins)[0]) and (not interior or bool(case.interior[0]))

    def add(self, batch: Cases, margins: Margins) -> None:
        broken, interior = self._broken(margins), batch.interior
        self.count += int((~np.isposinf(margins.margin)).sum())
        if margins.decided is not None:
            self.undecided += int((interior & ~margins.decided).sum())
        self.always_equal &= margins.equal is not None and bool(margins.equal.all())
        for region, inside in (("interior", interior), ("boundary", ~interior)):
            seen = margins.margin[inside & ~np.isposinf(margins.margin)]
            if len(seen):
                self._worst[region] = min(self._worst[region], float(seen.min()))
            bad = np.flatnonzero(inside & broken)
            if (
                len(bad) and region not in self._where
            ):  # the smallest K that breaks it has the simplest witness
                i = int(bad[np.argmax(self._plainness(batch, margins)[bad])])
                self._where[region] = Witness.of(
                    self.law,
                    batch.take(slice(i, i + 1)),
                    margins.left[i],
                    margins.right[i],
                    margins.margin[i],
                    self.where,
                )

    @staticmethod
    def _plainness(batch: Cases, margins: Margins) -> np.ndarray:
        """Which violation to show: one that is plain to see, of moderate numbers, not the most extreme."""
        least = np.minimum(*(np.where(x > 0, x, 1).min(-1) for x in (batch.p, batch.r))) * batch.num_classes
        mild = 1 / (1 + np.abs(np.log(batch.high)) + np.abs(np.log(batch.low)))
        worst = margins.margin.min()
        plain = -1e-3 if worst < -1e-3 else 0.1 * worst  # of a defect that is small everywhere, too
        gaps = np.diff(np.sort(batch.p, axis=-1), axis=-1)
        near = 3e-3 * batch.p.max(-1, keepdims=True)  # in two digits a tie, which is a case of its own
        near_tie = ((gaps > 0) & (gaps < near)).any(-1)
        return least * mild * np.where(near_tie, 0.01, 1) + (margins.margin <= plain)

    @property
    def fails(self) -> bool:
        return bool(self._where)

    def margin(self) -> float:
        """The worst margin seen, of any case."""
        return min(self._worst.values())

    def verdict(self) -> Verdict:
        if "interior" in self._where:
            return "fails"
        if self.law.limit and self.undecided:
            return "undecided"
        if "boundary" in self._where:
            return "holds on the interior"
        return "holds" if np.isfinite(self.margin()) else "undecided"

    def witness(self, verdict: Verdict) -> Witness | None:
        if verdict == "fails":
            return self._where["interior"]
        return self._where.get("boundary") if verdict == "holds on the interior" else None


def check_table(
    rows: Iterable[Any] | None = None, *, progress: Callable[[str], None] | None = None, **options: Any
) -> list[Report]:
    """Check every row of the verdict table, `operators.table_rows` by default: the table is computed.

    Args:
      rows: `operators.TableRow`s.
      progress: called with each row's label before it is checked.
      **options: passed on to `check`.
    """
    from sparsekd_jax.operators import table_rows

    reports = []
    for row in table_rows() if rows is None else rows:
        if progress is not None:
            progress(row.label)
        reports.append(check(row.operator, temperature_range=row.temperatures, name=row.label, **options))
    return reports
