"""What an answer to a research question consists of: statement, evidence, verdict, pictures."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["theorem", "witness", "measurement"]
"""A check of something proved; a counterexample replayed; something measured, with its interval."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One piece of evidence.

    Attributes:
        kind: "theorem", "witness" or "measurement".
        claim: what it bears on, in a sentence.
        found: what was found, with its numbers.
        stands: whether it came out as the claim says; None where it decides nothing.
    """

    kind: Kind
    claim: str
    found: str
    stands: bool | None


def contradicted(evidence: Sequence[Evidence]) -> str | None:
    """The verdict where a theorem or a witness came out against its claim; None where all stand.

    >>> contradicted([Evidence("measurement", "c.", "f.", False)]) is None
    True
    >>> contradicted([Evidence("theorem", "c.", "f.", False)])[:9]
    'No answer'
    """
    broken = [e for e in evidence if e.kind != "measurement" and e.stands is False]
    if not broken:
        return None
    against = " ".join(f"{e.claim} {e.found}" for e in broken)
    return f"No answer: a check of what is proved came out against it, so this program is wrong. {against}"


@dataclasses.dataclass(frozen=True)
class Table:
    """Numbers behind an answer.

    Attributes:
        caption: what they are, units included.
        columns: heads.
        rows: cells, numbers or text; None where there is nothing to say.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with its words.

    Attributes:
        name: of its file, without an ending.
        figure: a matplotlib figure.
        alt: what it shows, for one who does not see it.
        caption: how to read it.
    """

    name: str
    figure: "Figure"
    alt: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer to one of the paper's five questions.

    Attributes:
        number: 1 to 5.
        question: as the paper asks it.
        statement: what was tested, with its domain; see theory.md.
        evidence: in order of weight.
        verdict: the answer in plain language, whichever way it goes.
        tables: numbers.
        pictures: figures.
        settings: what was run, in JSON's types.
    """

    number: int
    question: str
    statement: str
    evidence: Sequence[Evidence]
    verdict: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The answer in JSON's types, pictures by their names.

        >>> answer = Answer(1, "q?", "s", [Evidence("theorem", "c", "f", True)], "v")
        >>> answer.describe()["evidence"][0]["kind"]
        'theorem'
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            **fields,
            "evidence": [dataclasses.asdict(e) for e in self.evidence],
            "tables": [dataclasses.asdict(t) for t in self.tables],
            "pictures": [p.name for p in self.pictures],
        }
