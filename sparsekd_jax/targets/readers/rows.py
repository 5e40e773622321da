"""Many positions at once as arrays: what is seen, what of it is ranked, and what is left for the others."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from sparsekd_jax.targets.readers import tokens
from sparsekd_jax.targets.readers.records import Problem, Record
from sparsekd_jax.targets.readers.table import Reading, Table
from sparsekd_jax.targets.readers.temperature import TOLERANCE, undo
from sparsekd_jax.targets.revealed import PADDING


@dataclasses.dataclass(eq=False)
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


def assemble(records: list[Record], reading: Reading) -> tuple[Rows, dict[int, Problem]]:
    """Rows of all positions of records of one form, and what is wrong with some records.

    A listed token is ranked where no unseen one can have more. Servers append the sampled token to the k
    likeliest, first or last, and some cut the list to k again; so the chosen token, where it is the least
    likely of its list, is counted as ranked only if its rank says so, or its probability is at least the
    whole tail, or ``reading.appended`` is False. Everything listed is ranked where all V tokens are.

    A row that sums above 1, or that sums below 1 with the most that m unseen tokens of p_k can hold, is no
    row of a distribution; where that is within ``reading.sum_tolerance`` it is scaled to the nearest sum that
    is one, ``log p_i − log clip(1, Σp, Σp + m p_k)``, and counted as above_one or below_one.

    Returns:
        Rows of the records without a problem, and ``{index of the record: its problem}``.
    """
    t = Table(records, reading)
    size = reading.vocabulary.size
    joined = t.join_chosen()
    t.refuse_repeated()
    censored, minus_infinity = t.leave_floor()
    above_zero = (t.log_probs > 0).any(-1)
    t.log_probs = np.minimum(t.log_probs, 0.0)
    t.sort()

    seen = t.ids != PADDING
    p = np.exp(t.log_probs)
    total = p.sum(-1)
    full = (t.ids >= 0).sum(-1) == size
    _refuse_sums(t, total, full, reading)
    tail = np.where(full, 0.0, np.maximum(1 - total, 0.0))
    rounding = 2.0**-23 * (1 - (p * np.where(seen, t.log_probs, 0.0)).sum(-1))
    counts = {
        "censored": censored,
        "minus_infinity": minus_infinity,
        "appended": joined & (t.lengths > 0),
        "above_one": above_zero | (total > 1),
        "tail_below_rounding": ~full & seen.any(-1) & (tail < rounding),
        # the chosen one is among the listed where any is
        "unknown": np.maximum((t.ids == tokens.UNKNOWN).sum(-1), t.chosen == tokens.UNKNOWN),
    }
    if t.ranks is None:
        t.refuse_likelier(joined & (censored + minus_infinity == 0))
    num_ranked = _num_ranked(t, joined, tail + rounding, full, reading.appended)
    if reading.applied_temperature != 1:
        _undo_temperature(t, num_ranked, np.where(full, 0.0, np.maximum(tail, rounding)), reading)

    # Unknown tokens join the unseen; nothing after the first of them is ranked above all unseen.
    unknown = t.ids == tokens.UNKNOWN
    lost = unknown.any(-1)
    if lost.any():
        num_ranked = np.where(lost, np.minimum(num_ranked, unknown.argmax(-1)), num_ranked)
        t.ids[unknown], t.log_probs[unknown] = PADDING, -np.inf
        t.reorder(np.argsort(t.ids == PADDING, axis=-1, kind="stable"))
    total = np.exp(t.log_probs).sum(-1)
    tail = np.where(full & ~lost, 0.0, np.maximum(1 - total, 0.0))
    num_unseen = np.maximum(size - (t.ids != PADDING).sum(-1), 0)
    last = t.log_probs[np.arange(len(tail)), np.maximum(num_ranked - 1, 0)]
    # More unknown tokens than ids are left: no distribution over V tokens has this tail and this rank.
    num_ranked = np.where(lost & (tail > num_unseen * np.exp(last)), 0, num_ranked)
    cap = np.where(num_ranked > 0, np.exp(last), 1.0)
    t.refuse(
        tail > num_unseen * cap * (1 + 1e-6) + reading.sum_tolerance,
        "tail too heavy",
        "the list is not the k likeliest, or the vocabulary's size is not the teacher's",
        lambda row: f"{num_unseen[row]} unseen tokens of at most {cap[row]:.3g} cannot hold {tail[row]:.3g}",
    )
    # `require_consistent` allows a row the rounding of float32; a log's own tolerance may be far wider.
    most = total + num_unseen * cap
    scale = np.maximum(np.clip(1.0, total, most), 1 - reading.sum_tolerance)  # the maximum: of rows refused
    t.log_probs -= np.log(scale)[:, None]
    counts["below_one"] = scale < 1 - rounding
    counts["empty"] = (t.ids == PADDING).all(-1)
    found = Rows(
        record=t.record,
        position=t.position,
        ids=t.ids,
        log_probs=t.log_probs,
        num_ranked=num_ranked,
        tail=np.maximum(1 - total / scale, 0.0),
        chosen=t.chosen,
        listed=t.lengths,
        counts=counts,
    )
    return found.take(~np.isin(t.record, list(t.problems))), t.problems


def _refuse_sums(
    t: Table, total: Float[np.ndarray, " n"], full: Bool[np.ndarray, " n"], reading: Reading
) -> None:
    """Sums too far above 1, and sums below 1 where nothing is left to be seen."""
    tolerance = reading.sum_tolerance
    t.refuse(
        total > 1 + tolerance,
        "sum above one",
        "these are not log-probabilities of one distribution; for coarser rounding pass sum_tolerance",
        lambda row: f"probabilities sum to {total[row]:.7g}, above 1 by more than {tolerance:g}",
    )
    t.refuse(
        full & (total < 1 - tolerance),
        "sum below one",
        "the vocabulary's size is not the teacher's",
        lambda row: f"all {reading.vocabulary.size} tokens are listed and sum to {total[row]:.7g}",
    )


def _num_ranked(
    t: Table,
    joined: Bool[np.ndarray, " n"],
    most: Float[np.ndarray, " n"],
    full: Bool[np.ndarray, " n"],
    appended: bool | None,
) -> Int[np.ndarray, " n"]:
    """How many of a row's first entries no unseen token can exceed; ``most`` is what one unseen may have."""
    seen = t.ids != PADDING
    n = seen.sum(-1)
    last = np.arange(len(n)), np.maximum(n - 1, 0)
    certain = full | ((n > 0) & (np.exp(t.log_probs[last]) >= most))
    if t.ranks is None:
        is_chosen = (t.ids[last] == t.chosen) & (t.chosen >= 0)
        doubtful = is_chosen & (joined | (appended is not False))
        return n - (doubtful & ~certain)
    place = np.arange(1, t.ids.shape[-1] + 1)
    leading = np.logical_and.accumulate(seen & (t.ranks <= place), axis=-1).sum(-1)
    known = (~seen | (t.ranks > 0)).all(-1)
    without = n - ((n > 0) & (appended is not False))
    return np.where(certain, n, np.where(known, leading, without))


def _undo_temperature(
    t: Table, num_ranked: Int[np.ndarray, " n"], tail: Float[np.ndarray, " n"], reading: Reading
) -> None:
    """Replace log-probabilities at the applied temperature by those at 1, where the tail allows it."""
    seen = t.ids != PADDING
    n = seen.sum(-1)
    lowest = np.exp(t.log_probs[np.arange(len(n)), np.maximum(num_ranked - 1, 0)])
    cap = np.where(num_ranked > 0, lowest, 1.0)
    num_unseen = np.maximum(reading.vocabulary.size - n, 0)
    undone, width, within = undo(t.log_probs, cap, tail, num_unseen, reading.applied_temperature)
    t.refuse(
        (n > 0) & ~within,
        "temperature cannot be undone",
        "log at temperature 1 (vLLM: logprobs_mode=raw_logprobs), or take the log as a teacher that is "
        "already softened and leave applied_temperature out",
        lambda row: (
            f"a tail of at most {tail[row]:.3g} leaves the normaliser at T = 1 open by {width[row]:.3g} nats "
            f"(at most {TOLERANCE:g})"
        ),
    )
    t.log_probs = np.where(t.ids != PADDING, np.minimum(undone, 0.0), -np.inf)
