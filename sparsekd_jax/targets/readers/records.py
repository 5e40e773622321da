"""What every reader shares: a record of a log as columns, and the one error."""

import dataclasses
from typing import Any

import numpy as np

from sparsekd_jax.targets.readers.tokens import Vocabulary

FLOOR = -9999.0
"""A log-probability at or below this is a server's word for 'not given', never a measurement."""


class LogError(ValueError):
    """A record that cannot be read without guessing.

    Attributes:
        file: the log.
        line: counted from 1; 1 for every item of a JSON list.
        field: where in the record, such as ``choices[0].logprobs.content[3].logprob``.
        reason: a few words, the same for every error of a kind.
        remedy: what to do.
    """

    def __init__(self, file: str, line: int, problem: "Problem") -> None:
        self.file, self.line = file, line
        self.field, self.reason, self.remedy = problem.field, problem.reason, problem.remedy
        super().__init__(f"{file}, line {line}, {problem.field}: {problem.what}; {problem.remedy}")


class Problem(Exception):
    """A `LogError` before file and line are known; never leaves the readers."""

    def __init__(self, field: str, what: str, remedy: str, reason: str) -> None:
        super().__init__(field, what, remedy, reason)
        self.field, self.what, self.remedy, self.reason = field or "the record", what, remedy, reason


@dataclasses.dataclass(slots=True, eq=False)
class Record:
    """One record, as columns over its positions and over the tokens listed at them.

    Attributes:
        line: counted from 1.
        form: the name of its form, such as ``"chat"``.
        source: the parsed object.
        lengths: tokens listed at each position; 0 where the log has none.
        tokens: all of them, position after position: texts, or ids where the server gives ids.
        log_probs: theirs, in nats, float64, as logged.
        spelled: their bytes as lists of whole numbers, where the log has them.
        ranks: their ranks from 1, 0 where unknown; None for forms without.
        chosen: the token sampled (or present in the prompt) at each position; None for forms without.
        chosen_log_probs: theirs, NaN where null.
        chosen_spelled: their bytes.
        ids: ids of the tokens in a vocabulary, after `to_ids`.
        chosen_ids: ids of the chosen ones.
    """

    line: int
    form: str
    source: dict[str, Any]
    lengths: list[int] = dataclasses.field(default_factory=list)
    tokens: list[Any] = dataclasses.field(default_factory=list)
    log_probs: Any = dataclasses.field(default_factory=list)
    spelled: list[Any] | None = None
    ranks: Any = None
    chosen: list[Any] | None = None
    chosen_log_probs: Any = None
    chosen_spelled: list[Any] | None = None
    ids: Any = None
    chosen_ids: Any = None
    fields: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    num_keys: int = 0
    walked: set[int] = dataclasses.field(default_factory=set)

    @property
    def num_positions(self) -> int:
        """Positions, those without a list included."""
        return len(self.lengths)

    def at(self, position: int) -> list[tuple[str | int, float]]:
        """The tokens listed at a position with their log-probabilities, in the order of the log."""
        start = sum(self.lengths[:position])
        end = start + self.lengths[position]
        return list(zip(self.tokens[start:end], np.asarray(self.log_probs[start:end]).tolist(), strict=True))

    def to_ids(self, vocabulary: Vocabulary) -> None:
        """Look the tokens up, and let go of the parsed object: many small ones alive slow the collector."""
        self.ids = vocabulary.ids(self.tokens, self.spelled)
        if self.chosen is not None:
            self.chosen_ids = vocabulary.ids(self.chosen, self.chosen_spelled)
        self.source, self.spelled, self.chosen_spelled = {}, None, None

    def where(self, position: int) -> str:
        """The field of a position, such as ``choices[0].logprobs.content[3]``."""
        start, path = max(field for field in self.fields if field[0] <= position)
        return f"{path}[{position - start}]"
