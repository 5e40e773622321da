"""The working arrays of many positions, checked and brought into order."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int

from sparsekd_jax.targets.readers import tokens
from sparsekd_jax.targets.readers.records import FLOOR, Problem, Record
from sparsekd_jax.targets.readers.schema import show
from sparsekd_jax.targets.revealed import PADDING

AGREE = 1e-4
"""How far two logged values of one quantity may differ, relative to max(1, |log p|)."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How to take what a log leaves open.

    Attributes:
        vocabulary: tokens to ids.
        unknown: ``"error"``, or ``"tail"``: tokens outside the vocabulary join the unseen.
        appended: False where the caller knows that every listed token is among the k likeliest.
        applied_temperature: T that the server applied, to be undone.
        sum_tolerance: how far above 1 a sum may be by rounding.
    """

    vocabulary: tokens.Vocabulary
    unknown: str = "error"
    appended: bool | None = None
    applied_temperature: float = 1.0
    sum_tolerance: float = 1e-4


class Table:
    """The working arrays of `rows.assemble`, and the first problem of each record."""

    def __init__(self, records: list[Record], reading: Reading) -> None:
        self.records, self.reading = records, reading
        self.problems: dict[int, Problem] = {}
        self.lengths = np.array([n for r in records for n in r.lengths], np.int64)
        sizes = [len(r.lengths) for r in records]
        self.record = np.repeat(np.arange(len(records)), sizes)
        self.position = np.concatenate([np.arange(n) for n in sizes])
        flat = np.concatenate([r.log_probs for r in records])
        flat_ids = np.concatenate([r.ids for r in records])
        rows, width = len(self.lengths), int(self.lengths.max(initial=0)) + 1
        self.flat_row = np.repeat(np.arange(rows), self.lengths)
        inside = np.arange(width) < self.lengths[:, None]
        self.log_probs = np.full((rows, width), -np.inf)
        self.log_probs[inside] = flat
        self.ids = np.full((rows, width), PADDING)
        self.ids[inside] = flat_ids
        self.ranks: np.ndarray | None = None
        if records[0].ranks is not None:
            self.ranks = np.zeros((rows, width), np.int64)
            self.ranks[inside] = np.concatenate([r.ranks for r in records])
        self.chosen = np.full(rows, PADDING)
        self.chosen_log_probs = np.full(rows, np.nan)
        if records[0].chosen is not None:
            self.chosen = np.concatenate([r.chosen_ids for r in records])
            self.chosen_log_probs = np.concatenate([r.chosen_log_probs for r in records])
        self.check_tokens(flat_ids, flat)

    def refuse(
        self, bad: Bool[np.ndarray, " n"], reason: str, remedy: str, say: Callable[[int], str]
    ) -> None:
        """Note the first bad row of every record, and empty its rows."""
        if not bad.any():
            return
        for row in np.flatnonzero(bad).tolist():
            index = int(self.record[row])
            if index not in self.problems:
                field = self.records[index].where(int(self.position[row]))
                self.problems[index] = Problem(field, say(row), remedy, reason)
        emptied = np.isin(self.record, list(self.problems))
        self.ids[emptied], self.log_probs[emptied] = PADDING, -np.inf
        self.chosen[emptied], self.chosen_log_probs[emptied] = PADDING, np.nan

    def check_tokens(self, flat_ids: np.ndarray, flat: np.ndarray) -> None:
        """Refuse tokens that are none of the vocabulary's, and log-probabilities above 0."""
        rows = len(self.lengths)
        ask = "pass the teacher's own vocabulary"
        kinds = [
            (tokens.OUTSIDE, "token out of range", f"is not in [0, {self.reading.vocabulary.size})", ask),
            (
                tokens.MISSPELLED,
                "malformed bytes",
                "has bytes that are not whole numbers in [0, 256)",
                "repair the log",
            ),
        ]
        if self.reading.unknown == "error":
            remedy = (
                f'{ask} (or ask the server for token ids); or unknown="tail" leaves such tokens to the tail'
            )
            kinds.append((tokens.UNKNOWN, "unknown token", "is not in the vocabulary", remedy))
        limit = np.log1p(self.reading.sum_tolerance)
        for code, reason, what, remedy in kinds:
            listed = np.bincount(self.flat_row[flat_ids == code], minlength=rows) > 0

            def say(row: int, code: int = code, what: str = what) -> str:
                record, position = self.records[self.record[row]], int(self.position[row])
                start = sum(record.lengths[:position])
                here = np.flatnonzero(record.ids[start : start + record.lengths[position]] == code)
                if here.size == 0:
                    return f"chosen token {show(record.chosen[position])} {what}"
                return f"token {show(record.tokens[start + int(here[0])])} {what}"

            self.refuse(listed | (self.chosen == code), reason, remedy, say)
        over = np.bincount(self.flat_row[flat > limit], minlength=rows) > 0
        over |= self.chosen_log_probs > limit
        self.refuse(
            over,
            "log-probability above 0",
            "log log-probabilities in nats, not probabilities or logits",
            lambda row: (
                f"a log-probability is {np.nanmax([*self.log_probs[row], self.chosen_log_probs[row]]):.6g}"
            ),
        )

    def join_chosen(self) -> Bool[np.ndarray, " n"]:
        """Put the chosen token into its list, unless it is there; where that added something seen."""
        in_list = (self.ids == self.chosen[:, None]) & (self.chosen >= 0)[:, None]
        has = in_list.any(-1)
        listed = np.where(in_list, self.log_probs, -np.inf).max(-1)
        both = has & (self.chosen_log_probs > FLOOR)
        own = np.where(both, self.chosen_log_probs, 0.0)
        apart = np.abs(np.where(both, np.maximum(listed, 2 * FLOOR), 0.0) - own)
        self.refuse(
            apart > AGREE * np.maximum(1, np.abs(own)),
            "two values for one token",
            "two tokens share a text, or the lists are of two runs: log token ids "
            "(return_tokens_as_token_ids)",
            lambda row: f"the chosen token has {own[row]:.6g} and {listed[row]:.6g} in the list",
        )
        joins = (self.chosen >= 0) & ~has & ~np.isnan(self.chosen_log_probs)
        rows = np.flatnonzero(joins)
        self.ids[rows, self.lengths[rows]] = self.chosen[rows]
        self.log_probs[rows, self.lengths[rows]] = self.chosen_log_probs[rows]
        return joins & (self.chosen_log_probs > FLOOR)

    def refuse_repeated(self) -> None:
        """Refuse a list with one token twice."""
        ordered = np.sort(self.ids, axis=-1)
        self.refuse(
            ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(-1),
            "repeated token",
            "several tokens share a text: pass vocabulary={bytes: id}, or ask the server for token ids",
            lambda row: "one token is listed twice",
        )

    def leave_floor(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Empty what stands at a server's floor, and at −∞; how many of each."""
        there = self.ids != PADDING
        minus_infinity = there & np.isneginf(self.log_probs)
        censored = there & (self.log_probs <= FLOOR) & ~minus_infinity
        gone = minus_infinity | censored
        self.ids[gone], self.log_probs[gone] = PADDING, -np.inf
        return censored.sum(-1), minus_infinity.sum(-1)

    def sort(self) -> None:
        """Falling log-probabilities, padding last."""
        key = np.where(self.ids != PADDING, -self.log_probs, np.inf)
        if not (key[:, 1:] >= key[:, :-1]).all():
            self.reorder(np.argsort(key, axis=-1, kind="stable"))

    def reorder(self, order: Int[np.ndarray, "n k"]) -> None:
        """Permute every row."""
        self.ids, self.log_probs = (np.take_along_axis(own, order, -1) for own in (self.ids, self.log_probs))
        if self.ranks is not None:
            self.ranks = np.take_along_axis(self.ranks, order, -1)

    def refuse_likelier(self, joined: Bool[np.ndarray, " n"]) -> None:
        """Refuse lists that leave out a chosen token likelier than one of theirs."""
        others = (self.ids != PADDING) & (self.ids != self.chosen[:, None]) & joined[:, None]
        least = np.where(others, self.log_probs, 0.0).min(-1)
        own = np.where(joined & others.any(-1), self.chosen_log_probs, -np.inf)
        self.refuse(
            own > least + AGREE * np.maximum(1, np.abs(least)),
            "unlisted but likelier",
            "log the server's list of the k likeliest, unfiltered",
            lambda row: f"the chosen token has {own[row]:.6g}, above a listed token, and is not listed",
        )
