"""The forms of open-source servers, all with token ids.

vLLM: ``prompt_logprobs``, a list whose first entry is null, then objects ``{id: {logprob, rank,
decoded_token}}``; the prompt's own token is among them, with its rank, also when it is none of the k
likeliest. SGLang: ``meta_info.{output,input}_top_logprobs``, lists of ``[logprob, id, text or null]``, beside
``…_token_logprobs``. TGI: ``details.{tokens, top_tokens}``, objects ``{id, text, logprob}``.
"""

from collections.abc import Callable
from typing import Any

from sparsekd_jax.targets.readers import schema
from sparsekd_jax.targets.readers.records import Record
from sparsekd_jax.targets.readers.tokens import to_id


def _id_text(value: Any, path: str) -> tuple[str, str] | None:
    return None if to_id(value) is not None else (path, f"{schema.show(value)} is not a token id")


class _Ids(dict[str, int | None]):
    """`to_id`, remembered: the texts of a log's ids are few."""

    def __missing__(self, digits: str) -> int | None:
        if len(self) >= 1 << 18:
            self.clear()
        self[digits] = found = to_id(digits)
        return found


_ids = _Ids()

check_prompt = schema.each(
    schema.maybe(
        schema.mapping(_id_text, schema.fields({"logprob": schema.log_prob}, {"rank": schema.whole}))
    )
)
"""The first field of ``prompt_logprobs`` that is wrong."""


def read_prompt(node: Any, record: Record) -> None:
    """Append vLLM's ``prompt_logprobs`` to the columns."""
    if type(node) is not list:
        raise TypeError
    record.walked.add(id(node))
    record.ranks = record.ranks or []
    for top in node:
        if top is None:
            record.lengths.append(0)
            continue
        entries = top.values()
        record.tokens += map(_ids.__getitem__, top)
        record.log_probs += [entry["logprob"] for entry in entries]
        record.ranks += [entry.get("rank") for entry in entries]
        record.lengths.append(len(top))
        record.num_keys += len(top) + sum(map(len, entries))


_triple = schema.row(schema.log_prob, schema.whole)
_maybe_triple = schema.row(schema.maybe(schema.log_prob), schema.whole)


def check_sglang(side: str) -> schema.Check:
    """The first field of ``meta_info`` that is wrong; ``side`` is output or input."""
    chosen, listed = f"{side}_token_logprobs", f"{side}_top_logprobs"
    return schema.equally_long(
        (chosen, listed),
        schema.fields(
            {chosen: schema.each(_maybe_triple)}, {listed: schema.each(schema.maybe(schema.each(_triple)))}
        ),
    )


def read_sglang(side: str) -> Callable[[Any, Record], None]:
    """Append SGLang's lists of one side to the columns."""

    def read(node: Any, record: Record) -> None:
        chosen, tops = node[f"{side}_token_logprobs"], node.get(f"{side}_top_logprobs")
        tops = [None] * len(chosen) if tops is None else tops
        if not type(chosen) is type(tops) is list:
            raise TypeError
        if len(chosen) != len(tops):
            raise ValueError
        record.walked.update((id(chosen), id(tops)))
        listed: list[Any] = []
        for top in tops:
            if top is not None and type(top) is not list:
                raise TypeError
            listed += top or ()
            record.lengths.append(len(top or ()))
        if any(type(entry) is not list for entry in [*listed, *chosen]):
            raise TypeError
        record.tokens += [entry[1] for entry in listed]
        record.log_probs += [entry[0] for entry in listed]
        record.chosen = (record.chosen or []) + [entry[1] for entry in chosen]
        record.chosen_log_probs = (record.chosen_log_probs or []) + [entry[0] for entry in chosen]

    return read


_token = schema.fields({"id": schema.whole, "logprob": schema.log_prob})
check_tgi = schema.equally_long(
    ("tokens", "top_tokens"),
    schema.fields(
        {
            "tokens": schema.each(
                schema.fields({"id": schema.whole, "logprob": schema.maybe(schema.log_prob)})
            )
        },
        {"top_tokens": schema.each(schema.each(_token))},
    ),
)
"""The first field of TGI's ``details`` that is wrong."""


def read_tgi(node: Any, record: Record) -> None:
    """Append TGI's ``details`` to the columns."""
    chosen, tops = node["tokens"], node.get("top_tokens")
    tops = [[]] * len(chosen) if tops is None else tops
    if not type(chosen) is type(tops) is list or any(type(top) is not list for top in tops):
        raise TypeError
    if len(chosen) != len(tops):
        raise ValueError
    record.walked.update((id(chosen), id(tops)))
    listed = [entry for top in tops for entry in top]
    record.lengths += map(len, tops)
    record.num_keys += sum(map(len, listed)) + sum(map(len, chosen))
    record.tokens += [entry["id"] for entry in listed]
    record.log_probs += [entry["logprob"] for entry in listed]
    record.chosen = (record.chosen or []) + [entry["id"] for entry in chosen]
    record.chosen_log_probs = (record.chosen_log_probs or []) + [entry["logprob"] for entry in chosen]
