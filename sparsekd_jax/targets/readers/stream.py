"""Reading a log in bounded memory: records, targets, samples, or a report of it."""

import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sparsekd_jax._refusals import whole
from sparsekd_jax.targets.readers import forms, lines
from sparsekd_jax.targets.readers.records import LogError, Problem, Record
from sparsekd_jax.targets.readers.report import Report
from sparsekd_jax.targets.readers.rows import Rows, assemble
from sparsekd_jax.targets.readers.table import Reading
from sparsekd_jax.targets.readers.tokens import UNKNOWN, Vocabulary
from sparsekd_jax.targets.revealed import PADDING, Samples, TopK

_BUDGET = 1 << 15
"""Entries of a chunk: positions times the longest list."""

OnError = Literal["raise", "skip"]
Path_ = str | os.PathLike[str]


class Batch(NamedTuple):
    """Targets with where they come from.

    Attributes:
        targets: `TopK` of ``[n]`` positions.
        lines: ``[n]``, the line of each.
        positions: ``[n]``, its place in the record.
        chosen: ``[n]``, the id of the token sampled there, −1 where the log does not say.
    """

    targets: TopK
    lines: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]
    chosen: Int[np.ndarray, " n"]


def read(
    path: Path_, *, format: str | None = None, on_error: OnError = "raise", report: Report | None = None
) -> Iterator[Record]:
    """The records of a log, one after another, in the memory of one line.

    A log is one JSON object a line, or one JSON list of at most 64 MiB. An object is a server's response, its
    ``choices[].logprobs`` alone, or a line of a batch's output (``response.body``).

    Args:
        path: the file.
        format: a name of `FORMS`; found from the fields of every record by default.
        on_error: ``"skip"`` goes on after a record that cannot be read, and counts it in ``report``.
        report: filled on the way.

    Raises:
        LogError: the first record that cannot be read, with line, field and remedy.
    """
    _require(format, on_error, report)
    report = report if report is not None else Report()
    for record in _records(Path(path), forms.FORMS.get(format or ""), on_error, report):
        report.records += 1
        report.forms[record.form] += 1
        yield record


def _require(format: str | None, on_error: str, report: Report | None) -> None:
    if format is not None and format not in forms.FORMS:
        raise ValueError(f"format is {format!r}; the formats are {', '.join(forms.FORMS)}")
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error is {on_error!r}; it is 'raise' or 'skip'")
    if on_error == "skip" and report is None:
        raise ValueError("on_error='skip' needs a report=Report() to count what is skipped")


def _records(path: Path, form: forms.Form | None, on_error: OnError, report: Report) -> Iterator[Record]:
    def fail(line: int, problem: Problem) -> None:
        error = LogError(str(path), line, problem)
        if on_error == "raise":
            raise error from None
        report.refuse(error)

    parse = lines.parser()
    try:
        items = lines.listed(path)
    except Problem as problem:
        fail(1, problem)
        return
    if items is not None:
        if not items:
            fail(1, _nothing())
        for index, item in enumerate(items):
            try:
                record = forms.to_record(item, 1, form)
            except Problem as problem:
                problem.field = (
                    f"[{index}].{problem.field}" if problem.field != "the record" else f"[{index}]"
                )
                fail(1, problem)
            else:
                record.fields = [(start, f"[{index}].{field}") for start, field in record.fields]
                yield record
        return
    number = 0
    for number, raw in lines.lines(path):
        try:
            if isinstance(raw, Problem):
                raise raw
            with lines.collector_paused():
                parsed = parse(raw)
                record = forms.to_record(parsed, number, form)
                forms.refuse_repeated_names(parsed, record, raw, lines.strict)
                del parsed
        except Problem as problem:
            fail(number, problem)
        else:
            yield record
    if not number:
        fail(1, _nothing())


def _nothing() -> Problem:
    return Problem(
        "", "the file is empty", "check its path, and that the server's answers went there", "empty"
    )


def _chunks(records: Iterator[Record], vocabulary: Vocabulary) -> Iterator[list[Record]]:
    """Neighbours of one form with their ids, until the budget is full."""
    chunk: list[Record] = []
    rows = width = 0
    kind: Any = None
    for record in records:
        own = (record.form, record.ranks is None, record.chosen is None, _token_type(record))
        longest = max(record.lengths, default=0) + 1
        if chunk and (own != kind or (rows + len(record.lengths)) * max(width, longest) > _BUDGET):
            yield chunk
            chunk, rows, width = [], 0, 0
        record.to_ids(vocabulary)
        chunk.append(record)
        kind, rows, width = own, rows + len(record.lengths), max(width, longest)
    if chunk:
        yield chunk


def _token_type(record: Record) -> type | None:
    tokens = record.tokens or record.chosen
    return type(tokens[0]) if tokens else None


def _rows(
    path: Path, form: str | None, on_error: OnError, report: Report, reading: Reading
) -> Iterator[tuple[list[Record], Rows]]:
    records = _records(path, forms.FORMS.get(form or ""), on_error, report)
    for chunk in _chunks(records, reading.vocabulary):
        rows, problems = assemble(chunk, reading)
        for index in sorted(problems):
            error = LogError(str(path), chunk[index].line, problems[index])
            if on_error == "raise":
                raise error
            report.refuse(error)
        for index, record in enumerate(chunk):
            if index not in problems:
                report.records += 1
                report.forms[record.form] += 1
        report.add(rows)
        yield chunk, rows.take(~rows.counts["empty"])


def read_targets(
    path: Path_,
    *,
    k: int,
    vocabulary: Mapping[str, int] | Mapping[bytes, int] | int | Vocabulary,
    batch_size: int = 1024,
    format: str | None = None,
    unknown: Literal["error", "tail"] = "error",
    appended: bool | None = None,
    applied_temperature: float = 1.0,
    sum_tolerance: float = 1e-4,
    on_error: OnError = "raise",
    report: Report | None = None,
) -> Iterator[Batch]:
    """The positions of a log as `TopK` targets, ``batch_size`` at a time, in bounded memory.

    ``tail_mass = 1 − Σ exp(log_probs)``, summed in float64. A tail below the rounding of the logged numbers,
    2⁻²³ (1 − Σ p log p), is noise, and counted in ``report``. A sum above 1 by no more than ``sum_tolerance``
    is divided out (the tail is then 0), and so is one that stays below 1 with all that the unseen tokens can
    hold: as logged, such a row could not be softened. Both are counted, as above_one and below_one.
    Left to the tail, each time counted: −9999 and −∞, and what a row of k entries cannot hold. Seen but not
    ranked: the chosen token that a server appends to its k likeliest (`rows.assemble` has the rule). A
    position with nothing seen (the first of a prompt) gives no row.

    Args:
        path: the file.
        k: entries of a row; for a server's k with the chosen token appended, its k + 1.
        vocabulary: ``{text: id}``, ``{bytes: id}``, or V alone where the log holds ids or ``token_id:N``;
            a `Vocabulary` to give V apart.
        batch_size: positions a batch; the last one is smaller.
        format: a name of `FORMS`; found from the fields by default.
        unknown: ``"tail"`` leaves tokens outside the vocabulary to the tail; what follows the first of them
            is then seen but not ranked.
        appended: False where every listed token is known to be one of the k likeliest.
        applied_temperature: the softmax temperature in the logged numbers, to be undone. Exact on lists of
            all V tokens. On a top-k list the tail leaves the normaliser open; more than 1e-6 nats is refused.
        sum_tolerance: how far from 1 a sum may be by rounding, and so how far a row may be scaled. 1e-4
            covers logs in float32 and of five decimals; bfloat16 logs need 1e-2.
        on_error: ``"skip"`` leaves out records that cannot be read, and counts them in ``report``.
        report: filled on the way.

    Raises:
        LogError: the first record that cannot be read, with line, field and remedy.
        ValueError: an argument out of its range.
    """
    _require(format, on_error, report)
    for name, number in (("k", k), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is {number}; it is at least 1")
        whole(name, number)
    if unknown not in ("error", "tail"):
        raise ValueError(f"unknown is {unknown!r}; it is 'error' or 'tail'")
    if not 0 < applied_temperature < np.inf:
        raise ValueError(f"applied_temperature is {applied_temperature}; it is positive")
    if not 0 <= sum_tolerance < 1:
        raise ValueError(f"sum_tolerance is {sum_tolerance}; it is in [0, 1)")
    tokens = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(vocabulary)
    if tokens.is_open:
        raise ValueError("vocabulary is None; targets need the teacher's: {text: id}, {bytes: id} or a size")
    reading = Reading(tokens, unknown, appended, float(applied_temperature), sum_tolerance)
    report = report if report is not None else Report()
    return _batches(_rows(Path(path), format, on_error, report, reading), k, batch_size, tokens.size, report)


def _batches(
    chunks: Iterator[tuple[list[Record], Rows]], k: int, batch_size: int, size: int, report: Report
) -> Iterator[Batch]:
    held: list[tuple[np.ndarray, ...]] = []
    waiting = 0
    for records, rows in chunks:
        line_of = np.array([record.line for record in records], np.int64)
        ids, log_probs, tail, num_ranked = _to_width(rows, k, report)
        held.append((ids, log_probs, tail, num_ranked, line_of[rows.record], rows.position, rows.chosen))
        waiting += len(tail)
        if waiting >= batch_size:
            merged = [np.concatenate(parts) for parts in zip(*held, strict=True)]
            whole = waiting - waiting % batch_size
            for start in range(0, whole, batch_size):
                yield _batch([part[start : start + batch_size] for part in merged], size)
            held, waiting = [tuple(part[whole:] for part in merged)], waiting - whole
    if waiting:
        yield _batch([np.concatenate(parts) for parts in zip(*held, strict=True)], size)


def _to_width(rows: Rows, k: int, report: Report) -> tuple[np.ndarray, ...]:
    """Exactly k columns; what is cut off joins the tail."""
    seen = (rows.ids >= 0).sum(-1)
    report.counts["cut"] += int((seen > k).sum())
    report.counts["short"] += int((seen < k).sum())
    missing = max(k - rows.ids.shape[-1], 0)
    ids = np.pad(rows.ids[:, :k], ((0, 0), (0, missing)), constant_values=PADDING)
    log_probs = np.pad(rows.log_probs[:, :k], ((0, 0), (0, missing)), constant_values=-np.inf)
    left = np.maximum(1 - np.exp(log_probs).sum(-1), 0.0)
    return ids, log_probs, np.where(seen > k, left, rows.tail), np.minimum(rows.num_ranked, k)


def _batch(parts: list[np.ndarray], size: int) -> Batch:
    ids, log_probs, tail, num_ranked, line, position, chosen = parts
    # The tail was summed in float64; one number of float32 keeps it.
    targets = TopK(
        jnp.asarray(ids, jnp.int32),
        jnp.asarray(log_probs, jnp.float32),
        jnp.asarray(tail, jnp.float32),
        jnp.asarray(num_ranked, jnp.int32),
        size,
    )
    return Batch(targets, line, position, np.where(chosen < 0, PADDING, chosen))


def read_samples(
    path: Path_,
    *,
    context: Callable[[Record, int], Hashable | None],
    vocabulary: Mapping[str, int] | Mapping[bytes, int] | int | Vocabulary,
    format: str | None = None,
    on_error: OnError = "raise",
    report: Report | None = None,
) -> tuple[list[Hashable], Samples]:
    """Counts of the tokens that a teacher sampled, by context; their log-probabilities are not looked at.

    Samples of one context are draws of one distribution: only the caller can say which positions share one,
    such as ``lambda record, i: record.source["custom_id"] if i == 0 else None``, or the prompt together with
    ``tuple(record.chosen[:i])``. Memory grows with the different contexts and tokens, not with the file.

    Args:
        path: the file.
        context: the record and the position to a key; None leaves the position out.
        vocabulary: as for `read_targets`.
        format: a name of `FORMS`; found from the fields by default.
        on_error: ``"skip"`` leaves out records that cannot be read, and counts them in ``report``.
        report: filled on the way.

    Returns:
        The contexts in the order met, and `Samples` of them: ``weights = count / N``.

    Raises:
        LogError: a record without sampled tokens, or with one outside the vocabulary.
        ValueError: no sample at all.
    """
    _require(format, on_error, report)
    report = report if report is not None else Report()
    tokens = vocabulary if isinstance(vocabulary, Vocabulary) else Vocabulary(vocabulary)
    counts: dict[Hashable, dict[int, int]] = {}
    for record in _records(Path(path), forms.FORMS.get(format or ""), on_error, report):
        try:
            ids = _sampled(record, tokens)
        except Problem as problem:
            error = LogError(str(path), record.line, problem)
            if on_error == "raise":
                raise error from None
            report.refuse(error)
            continue
        report.records += 1
        report.forms[record.form] += 1
        for position, token in enumerate(ids):
            if (key := context(record, position)) is not None:
                own = counts.setdefault(key, {})
                own[token] = own.get(token, 0) + 1
                report.positions += 1
    if not counts:
        raise ValueError(f"{path} gave no sample: no record was read, or context returned None everywhere")
    width = max(map(len, counts.values()))
    ids_of = np.full((len(counts), width), PADDING, np.int32)
    times: Float[np.ndarray, "n w"] = np.zeros((len(counts), width))
    for i, own in enumerate(counts.values()):
        order = sorted(own, key=lambda token, own=own: (-own[token], token))  # type: ignore[misc]
        ids_of[i, : len(order)] = order
        times[i, : len(order)] = [own[token] for token in order]
    draws = times.sum(-1)
    samples = Samples(
        jnp.asarray(ids_of),
        jnp.asarray(times / draws[:, None], jnp.float32),
        jnp.asarray(draws, jnp.int32),
        tokens.size,
    )
    return list(counts), samples


def _sampled(record: Record, vocabulary: Vocabulary) -> list[int]:
    if record.chosen is None:
        remedy = "read it with read_targets: these are the lists of a prompt"
        raise Problem(
            "", f"the form {record.form} does not say which tokens were sampled", remedy, "no samples"
        )
    ids = vocabulary.ids(record.chosen, record.chosen_spelled).tolist()
    bad = next((i for i, token in enumerate(ids) if token < 0), None)
    if bad is not None:
        what = f"chosen token {record.chosen[bad]!r:.60} is not in the vocabulary"
        reason = "unknown token" if ids[bad] == UNKNOWN else "token out of range"
        raise Problem(record.where(bad), what, "pass the teacher's own vocabulary", reason)
    return ids


def inspect(path: Path_, *, format: str | None = None, sum_tolerance: float = 1e-4) -> Report:
    """What is in a log and what would be refused, without a vocabulary.

    Args:
        path: the file.
        format: a name of `FORMS`; found from the fields of every record by default.
        sum_tolerance: how far above 1 a sum may be.

    Returns:
        The report; print it, or see `Report.to_dict`.
    """
    _require(format, "raise", None)
    report = Report()
    reading = Reading(Vocabulary(None), "error", None, 1.0, sum_tolerance)
    for _ in _rows(Path(path), format, "skip", report, reading):
        pass
    return report
