"""The legacy completions form: ``logprobs: {tokens, token_logprobs, top_logprobs: [{text: logprob}]}``.

The first position of an echoed prompt is null. The sampled token may be a k+1st entry, anywhere in the
object. Two tokens of one text fall together in such an object, before any reader sees them: ask the server
for ``token_id:N`` texts.
"""

from typing import Any

from sparsekd_jax.targets.readers import schema
from sparsekd_jax.targets.readers.records import Record

_LISTS = ("tokens", "token_logprobs", "top_logprobs")

check = schema.equally_long(
    _LISTS,
    schema.fields(
        {"tokens": schema.each(schema.text), "token_logprobs": schema.each(schema.maybe(schema.log_prob))},
        {"top_logprobs": schema.each(schema.maybe(schema.mapping(schema.text, schema.log_prob)))},
    ),
)
"""The first field that is wrong."""


def read(node: Any, record: Record) -> None:
    """Append a ``logprobs`` object to the columns."""
    tokens, token_log_probs, tops = node["tokens"], node["token_logprobs"], node.get("top_logprobs")
    if tops is None:
        tops = [None] * len(tokens)
    if not (type(tokens) is type(token_log_probs) is type(tops) is list):
        raise TypeError
    if not len(tokens) == len(token_log_probs) == len(tops):
        raise ValueError
    record.walked.update(map(id, (tokens, token_log_probs, tops)))
    for top in tops:
        if top is None:
            record.lengths.append(0)
            continue
        record.tokens += top
        record.log_probs += top.values()
        record.lengths.append(len(top))
        record.num_keys += len(top)
    record.chosen = (record.chosen or []) + tokens
    record.chosen_log_probs = (record.chosen_log_probs or []) + token_log_probs
