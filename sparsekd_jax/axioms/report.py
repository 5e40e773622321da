"""What a check found, as an object, a table in a terminal, JSON, and one self-contained HTML page."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sparsekd_jax.axioms.laws import AXIOMS, LAWS
from sparsekd_jax.axioms.observation import Law
from sparsekd_jax.axioms.witness import Witness
from sparsekd_jax.operators import Claim, TemperatureRange

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Verdict = Literal["holds", "holds on the interior", "fails", "undecided", "not applicable"]

CELLS: dict[Verdict, str] = {
    "holds": "H",
    "holds on the interior": "I",
    "fails": "F",
    "undecided": "?",
    "not applicable": "–",
}
LEGEND = (
    "H holds on the simplex · I on its interior only · F fails, with a witness · = nothing changes with T · "
    "? undecided · – not applicable"
)


@dataclasses.dataclass(frozen=True)
class LawResult:
    """One law's verdict on one operator.

    Attributes:
      law: the law.
      verdict: "holds" (no violation in the recorded cases), "holds on the interior" (violated only where some
        class has no mass), "fails" (violated in the interior), "undecided" or "not applicable".
      claim: what the operator claims of this law, or None.
      cases: of how many cases the law speaks: tried, less those it does not apply to or did not examine.
      margin: the worst margin; violated below −tolerance.
      witness: the shrunk violation, where there is one.
      always_equal: the outputs never changed with T, so that the law holds only as an equality.
      undecided: interior cases that floating point could not judge.
    """

    law: Law
    verdict: Verdict
    claim: Claim | None
    cases: int
    margin: float = math.nan
    witness: Witness | None = None
    always_equal: bool = False
    undecided: int = 0

    @property
    def ok(self) -> bool:
        """Whether the claim, if there is one, stands (an undecided law breaks no claim)."""
        if self.claim is None or self.verdict in ("holds", "undecided", "not applicable"):
            return True
        return self.verdict == "holds on the interior" and self.claim.domain == "interior"

    @property
    def cell(self) -> str:
        """The verdict as one letter of the table."""
        if self.verdict == "holds" and self.always_equal:
            return "="
        return CELLS[self.verdict]

    @property
    def standing(self) -> str:
        """What is claimed, and whether it stands, in few words."""
        if self.claim is None:
            return "not claimed"
        if not self.ok:
            return f"{self.claim.domain}: BROKEN"
        if self.verdict == "holds" and self.claim.domain == "interior":
            return "interior (or wider)"
        return self.claim.domain

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "law": self.law.id,
            "formula": self.law.formula,
            "verdict": self.verdict,
            "cell": self.cell,
            "ok": self.ok,
            "claim": None if self.claim is None else self.claim.domain,
            "claim_status": None if self.claim is None else self.claim.status,
            "cases": self.cases,
            "undecided": self.undecided,
            "margin": self.margin if math.isfinite(self.margin) else str(self.margin),
            "tolerance": self.law.tolerance,
            "witness": None if self.witness is None else self.witness.to_dict(),
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """Every law's verdict on one operator.

    ``report["A3"]`` is a `LawResult`; ``report.ok`` says whether every claim stands; ``print(report)`` shows
    the table.
    """

    operator: str
    temperatures: TemperatureRange
    results: dict[str, LawResult]
    declares_claims: bool
    evaluations: int

    def __getitem__(self, law: str) -> LawResult:
        if law not in self.results:
            raise KeyError(f"law {law!r} was not checked; checked: {', '.join(self.results)}")
        return self.results[law]

    def __iter__(self) -> Iterator[LawResult]:
        return iter(self.results.values())

    @property
    def ok(self) -> bool:
        """Whether every claim stands."""
        return all(result.ok for result in self)

    @property
    def failures(self) -> list[LawResult]:
        """The claims that do not stand."""
        return [result for result in self if not result.ok]

    def table(self) -> "Table":
        """A rich table, a row a law: verdict, claim, number of cases, worst margin."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        # Text, as a name such as mixture[cosine] would lose its bracket to rich's markup.
        title = Text(f"{self.operator}, T in {self.temperatures}", style="table.title")
        # The narrowest spacing: 80 columns hold a law in one line. Where there are fewer, words wrap.
        table = Table(
            title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
        )
        table.add_column("law", no_wrap=True)
        table.add_column("verdict")
        table.add_column("claimed on")
        for column in ("cases", "worst margin"):
            table.add_column(column, justify="right", no_wrap=True)
        for result in self:
            style = "red" if not result.ok else ("green" if result.claim else "dim")
            table.add_row(
                result.law.id,
                Text(result.verdict + (" (=)" if result.cell == "=" else ""), style=style),
                Text(result.standing, style=style),
                f"{result.cases:,}",
                _margin_words(result),
            )
        return table

    def witnesses(self) -> str:
        """A line for each violated law, claimed or not: its shrunk witness."""
        return "\n".join(f"{r.law.id:13} {r.cell}  {r.witness}" for r in self if r.witness is not None)

    def summary(self) -> str:
        """One line: does every claim stand, and on what evidence."""
        claims = sum(result.claim is not None for result in self)
        broken = [result.law.id for result in self.failures]
        if broken:
            return f"{self.operator}: {len(broken)} of {claims} claims broken: {', '.join(broken)}"
        ground = "" if self.declares_claims else " (those every softener is taken to make)"
        hold = {0: "claims none of these laws", 1: "its claim holds"}.get(claims, f"all {claims} claims hold")
        return f"{self.operator}: {hold}{ground}, {self.evaluations:,} evaluations"

    def explain(self) -> str:
        """The broken claims: each law's formula, and the witness with both sides and the margin."""
        return "\n".join(
            f"{result.law.id} {result.law.title}: {result.law.formula}\n  broken at {result.witness}"
            for result in self.failures
        )

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "operator": self.operator,
            "temperatures": str(self.temperatures),
            "ok": self.ok,
            "evaluations": self.evaluations,
            "laws": [result.to_dict() for result in self],
        }

    def to_html(self) -> str:
        """One self-contained HTML page."""
        return page([self])

    def __repr__(self) -> str:
        """The summary: a notebook's last line, where the fields would be pages.

        >>> from sparsekd_jax import axioms, operators
        >>> axioms.check(operators.get("mixture"), laws=("A4",), num_classes=(2,))
        Report(mixture: its claim holds, ... evaluations)
        """
        return f"Report({self.summary()})"

    def __str__(self) -> str:
        return _plain(self.table()) + self.witnesses() + "\n" + self.summary()


def _margin_words(result: LawResult) -> str:
    if result.verdict == "not applicable":
        return ""
    if not math.isfinite(result.margin) and result.margin != -math.inf:  # −inf: an output that is NaN
        return "no case could be decided"
    return f"{result.margin:.2g}" if abs(result.margin) >= 1e-300 else "0"


def _plain(renderable: "RenderableType") -> str:
    import io

    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=100, no_color=True).print(renderable)
    return out.getvalue()


# -- many operators --------------------------------------------------------------------------------------


TABLE_WIDTH = 104
"""The columns that `verdict_table` needs; a narrower console would cut its heads off."""


def cells(reports: Sequence[Report]) -> list[dict[str, str]]:
    """The verdict table as plain data: a dict a report, from "operator" and law ids to letters."""
    return [{"operator": r.operator} | {result.law.id: result.cell for result in r} for r in reports]


def verdict_table(reports: Sequence[Report]) -> "Table":
    """The verdict table of several operators, a letter a law."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    laws = [law for law in LAWS if any(law in report.results for report in reports)]
    table = Table(caption=LEGEND, caption_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("operator", no_wrap=True)
    for law in laws:
        table.add_column(_short(law), justify="center", no_wrap=True)
    colours = {"H": "green", "I": "cyan", "F": "red", "=": "yellow"}
    for report in reports:
        row = [Text(report.operator)]
        letters = [report.results[law].cell if law in report.results else "" for law in laws]
        table.add_row(*row, *(Text(letter, style=colours.get(letter, "dim")) for letter in letters))
    return table


def _short(law: str) -> str:
    """A column head of at most four letters, so that the table stays within `TABLE_WIDTH`."""
    return {
        "closure": "clos",
        "equivariance": "equi",
        "majorization": "maj",
        "semigroup": "semi",
        "affine": "aff",
        "support": "supp",
        "gradients": "grad",
    }.get(law, law)


def markdown_table(reports: Sequence[Report]) -> str:
    """The verdict table as Markdown, for READMEs and docs."""
    laws = [law for law in LAWS if any(law in report.results for report in reports)]
    lines = ["|operator|" + "|".join(laws) + "|", "|-|" + "-|" * len(laws)]
    for report in reports:
        letters = [report.results[law].cell if law in report.results else "" for law in laws]
        lines.append(f"|{report.operator}|" + "|".join(letters) + "|")
    return "\n".join(lines) + "\n"


def page(reports: Sequence[Report]) -> str:
    """One self-contained HTML page for several reports: the table, then each operator with its witnesses."""
    from sparsekd_jax._page import render

    laws = [law for law in LAWS.values() if any(law.id in report.results for report in reports)]
    return render(
        "axioms.html",
        title="Verified axioms",
        subtitle=f"{len(reports)} operator{'s' * (len(reports) != 1)}, {len(laws)} laws",
        reports=reports,
        laws=laws,
        axioms=AXIOMS,
        legend=LEGEND,
        short=_short,
        margin_words=_margin_words,
    )
