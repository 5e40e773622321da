"""Many positions at once as arrays: what is seen, what of it is ranked, and what is left for the others."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int

from sparsekd_jax.targets.readers import tokens
from sparsekd_jax.targets.readers.records import FLOOR, Problem, Record
from sparsekd_jax.targets.readers.schema import show
from sparsekd_jax.targets.readers.temperature import TOLERANCE, undo
from sparsekd_jax.targets.revealed import PADDING

_AGREE = 1e-4
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


@dataclasses.dataclass
class Rows:
    """Positions with something seen, each a row: ids and log-probabilities in falling order, then padding.

    ``counts`` holds one number a row for each thing worth telling.
    """

    record: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]
    ids: Int[np.ndarray, "n k"]
    log_probs: Float[np.ndarray, "n k"]
    num_ranked: Int[np.ndarray, " n"]
    tail: Float[np.ndarray, " n"]
    chosen: Int[np.ndarray, " n"]
    listed: Int[np.ndarray, " n"]
    counts: dict[str, np.ndarray]

    def take(self, rows: np.ndarray) -> "Rows":
        """Some of the rows."""
        arrays = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if field.name != "counts"
        }
        return Rows(**arrays, counts={name: count[rows] for name, count in self.counts.items()})


class _Table:
    """The working arrays of `assemble`, and the first problem of each record."""

    def __init__(self, records: list[Record], reading: Reading) -> None:
        self.records, self.reading = records, reading
        self.problems: dict[int, Problem] = {}
        self.lengths = np.array([n for r in records for n in r.lengths], np.int64)
        sizes = [len(r.lengths) for r in records]
        self.record = np.repeat(np.arange(len(records)), sizes)
        self.position = np.concatenate([np.arange(n) for n in sizes])
        self.tokens = [token for r in records for token in r.tokens]
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
        self.chosen_tokens: list[object] | None = None
        self.chosen = np.full(rows, PADDING)
        self.chosen_log_probs = np.full(rows, np.nan)
        if records[0].chosen is not None:
            self.chosen_tokens = [token for r in records for token in r.chosen or ()]
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

            def say(row: int, code: int = code, what: str = what, listed: np.ndarray = listed) -> str:
                if not listed[row] and self.chosen_tokens is not None:
                    return f"chosen token {show(self.chosen_tokens[row])} {what}"
                start = int(self.lengths[:row].sum())
                here = np.flatnonzero(flat_ids[start : start + self.lengths[row]] == code)[0]
                return f"token {show(self.tokens[start + int(here)])} {what}"

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


def _sort(key: np.ndarray, *tables: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows of the tables in rising order of ``key``, stable."""
    if (key[:, 1:] >= key[:, :-1]).all():
        return tables
    order = np.argsort(key, axis=-1, kind="stable")
    return tuple(np.take_along_axis(table, order, -1) for table in tables)


def assemble(records: list[Record], reading: Reading) -> tuple[Rows, dict[int, Problem]]:
    """Rows of all positions of records of one form, and what is wrong with some records.

    A listed token is ranked where no unseen one can have more. Servers append the sampled token to the k
    likeliest, first or last, and some cut the list to k again; so the chosen token, where it is the least
    likely of its list, is counted as ranked only if its rank says so, or its probability is at least the
    whole tail, or ``reading.appended`` is False. Everything listed is ranked where all V tokens are.

    Returns:
        Rows of the records without a problem, and ``{index of the record: its problem}``.
    """
    t = _Table(records, reading)
    size, tolerance = reading.vocabulary.size, reading.sum_tolerance
    rows = np.arange(len(t.lengths))

    # The chosen token joins its list, unless it is there.
    in_list = (t.ids == t.chosen[:, None]) & (t.chosen >= 0)[:, None]
    has = in_list.any(-1)
    listed_value = np.where(in_list, t.log_probs, -np.inf).max(-1)
    both = has & (t.chosen_log_probs > FLOOR)
    own = np.where(both, t.chosen_log_probs, 0.0)
    apart = np.abs(np.where(both, np.maximum(listed_value, 2 * FLOOR), 0.0) - own)
    t.refuse(
        apart > _AGREE * np.maximum(1, np.abs(own)),
        "two values for one token",
        "two tokens share a text, or the lists are of two runs: log token ids (return_tokens_as_token_ids)",
        lambda row: (
            f"the chosen token has {t.chosen_log_probs[row]:.6g} and {listed_value[row]:.6g} in the list"
        ),
    )
    joins = (t.chosen >= 0) & ~has & (t.chosen_log_probs > FLOOR)
    t.ids[rows[joins], t.lengths[joins]] = t.chosen[joins]
    t.log_probs[rows[joins], t.lengths[joins]] = t.chosen_log_probs[joins]

    # What a server's floor or a mask stands for is not seen.
    there = t.ids != PADDING
    minus_infinity = there & np.isneginf(t.log_probs)
    censored = there & (t.log_probs <= FLOOR) & ~minus_infinity
    gone = minus_infinity | censored
    t.ids[gone], t.log_probs[gone] = PADDING, -np.inf
    counts = {"minus_infinity": minus_infinity.sum(-1), "censored": censored.sum(-1)}
    counts["appended"] = joins & (t.lengths > 0)
    above_zero = (t.log_probs > 0).any(-1)
    t.log_probs = np.minimum(t.log_probs, 0.0)

    seen = t.ids != PADDING
    if t.ranks is None:
        t.log_probs, t.ids = _sort(np.where(seen, -t.log_probs, np.inf), t.log_probs, t.ids)
    else:
        t.log_probs, t.ids, t.ranks = _sort(np.where(seen, -t.log_probs, np.inf), t.log_probs, t.ids, t.ranks)
    ordered = np.sort(t.ids, axis=-1)
    t.refuse(
        ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(-1),
        "repeated token",
        "several tokens share a text: pass vocabulary={bytes: id}, or ask the server for token ids",
        lambda row: "one token is listed twice",
    )
    seen = t.ids != PADDING
    n = seen.sum(-1)
    last = np.maximum(n - 1, 0)
    p = np.exp(t.log_probs)
    total = p.sum(-1)
    counts["above_one"] = above_zero | (total > 1)
    t.refuse(
        total > 1 + tolerance,
        "sum above one",
        "these are not log-probabilities of one distribution; for coarser rounding pass sum_tolerance",
        lambda row: f"probabilities sum to {total[row]:.7g}, above 1 by more than {tolerance:g}",
    )
    full = n == size
    tail = np.where(full, 0.0, np.maximum(1 - total, 0.0))
    finite = np.where(seen, t.log_probs, 0.0)
    rounding = 2.0**-23 * (1 - (p * finite).sum(-1))
    counts["tail_below_rounding"] = ~full & (n > 0) & (tail < rounding)
    t.refuse(
        full & (total < 1 - tolerance),
        "sum below one",
        "the vocabulary's size is not the teacher's",
        lambda row: f"all {size} tokens are listed and sum to {total[row]:.7g}",
    )

    p_last = p[rows, last]
    certain = full | ((n > 0) & (p_last >= tail + rounding))
    chosen_last = (t.ids[rows, last] == t.chosen) & (t.chosen >= 0)
    if t.ranks is None:
        doubtful = chosen_last & (joins | (reading.appended is not False))
        num_ranked = np.maximum(n - (doubtful & ~certain), 0)
        least = np.where(seen, t.log_probs, np.inf)
        least = np.where(seen & (t.ids != t.chosen[:, None]), least, np.inf).min(-1)
        odd = joins & ~gone.any(-1) & (least < np.inf) & (n > 1)
        high = odd & (
            t.chosen_log_probs
            > np.where(odd, least + _AGREE * np.maximum(1, np.abs(np.where(odd, least, 0))), 0)
        )
        t.refuse(
            high,
            "unlisted but likelier",
            "log the server's list of the k likeliest, unfiltered",
            lambda row: (
                f"the chosen token has {t.chosen_log_probs[row]:.6g}, above a listed token, and is not listed"
            ),
        )
    else:
        known = np.where(seen, t.ranks > 0, True).all(-1)
        leading = np.logical_and.accumulate(seen & (t.ranks <= np.arange(t.ids.shape[-1]) + 1), axis=-1).sum(
            -1
        )
        num_ranked = np.where(
            certain, n, np.where(known, leading, np.maximum(n - (reading.appended is not False), 0))
        )

    if reading.applied_temperature != 1:
        cap = np.where(num_ranked > 0, p[rows, np.maximum(num_ranked - 1, 0)], 1.0)
        most = np.where(full, 0.0, np.maximum(tail, rounding))
        undone, width, within = undo(
            t.log_probs, cap, most, np.maximum(size - n, 0), reading.applied_temperature
        )
        t.refuse(
            (n > 0) & ~within,
            "temperature cannot be undone",
            "log at temperature 1 (vLLM: logprobs_mode=raw_logprobs), or take the log as a teacher that is "
            "already softened and leave applied_temperature out",
            lambda row: (
                f"a tail of {tail[row]:.3g} leaves the normaliser at T = 1 open by {width[row]:.3g} nats "
                f"(at most {TOLERANCE:g})"
            ),
        )
        t.log_probs = np.where(seen, np.minimum(undone, 0.0), -np.inf)
        total = np.exp(t.log_probs).sum(-1)

    # Unknown tokens join the unseen; nothing after the first of them is ranked above all unseen.
    unknown = t.ids == tokens.UNKNOWN
    counts["unknown"] = unknown.sum(-1) + (t.chosen == tokens.UNKNOWN)
    lost = unknown.any(-1)
    if lost.any():
        num_ranked = np.where(lost, np.minimum(num_ranked, unknown.argmax(-1)), num_ranked)
        t.ids[unknown], t.log_probs[unknown] = PADDING, -np.inf
        t.log_probs, t.ids = _sort(np.where(t.ids == PADDING, 1.0, 0.0), t.log_probs, t.ids)
        n = (t.ids != PADDING).sum(-1)
        total = np.exp(t.log_probs).sum(-1)
    tail = np.where((n == size) & ~lost, 0.0, np.maximum(1 - total, 0.0))
    cap = np.exp(t.log_probs[rows, np.maximum(num_ranked - 1, 0)])
    short = (num_ranked > 0) & ~lost & (tail > np.maximum(size - n, 0) * cap * (1 + 1e-6) + tolerance)
    t.refuse(
        short,
        "tail too heavy",
        "the list is not the k likeliest, or the vocabulary's size is not the teacher's",
        lambda row: f"{size - n[row]} unseen tokens of at most {cap[row]:.3g} cannot hold {tail[row]:.3g}",
    )
    counts["empty"] = n == 0
    found = Rows(
        record=t.record,
        position=t.position,
        ids=t.ids,
        log_probs=t.log_probs,
        num_ranked=num_ranked,
        tail=tail,
        chosen=t.chosen,
        listed=t.lengths,
        counts=counts,
    )
    return found.take(~np.isin(t.record, list(t.problems))), t.problems
