"""The chat form: ``choices[].logprobs.content[].{token, logprob, bytes, top_logprobs[]}``.

``bytes`` and ``top_logprobs`` may be null or absent. A server that puts its own ``id`` beside every token is
taken at its id. The same list at another place are llama.cpp's ``completion_probabilities``, Ollama's own
``logprobs``, and ``output[].content[].logprobs`` of OpenAI's Responses.
"""

from typing import Any

from sparsekd_jax.targets.readers import schema
from sparsekd_jax.targets.readers.records import Record

_named = schema.either(
    schema.fields({"token": schema.text}, {"bytes": schema.octets}), schema.fields({"id": schema.whole})
)


def _entry(value: Any, path: str) -> tuple[str, str] | None:
    return _named(value, path) or schema.fields({"logprob": schema.log_prob})(value, path)


def _position(value: Any, path: str) -> tuple[str, str] | None:
    if mismatch := _named(value, path):
        return mismatch
    return schema.fields({}, {"logprob": schema.log_prob, "top_logprobs": schema.each(_entry)})(
        value, path
    ) or (None if "logprob" in value else (f"{path}.logprob", "is missing"))


def check(content: Any, path: str) -> tuple[str, str] | None:
    """The first field of a content list that is wrong."""
    if mismatch := schema.each(_position)(content, path):
        return mismatch
    entries = [
        (e, f"{path}[{i}]")
        for i, position in enumerate(content)
        for e in (position, *(position.get("top_logprobs") or ()))
    ]
    if entries and "id" in entries[0][0]:
        mixed = (where for e, where in entries if schema.whole(e.get("id"), ""))
        return next(((where, "has no id where the first entry has one") for where in mixed), None)
    mixed = (where for e, where in entries if "token" not in e)
    return next(((where, "has no token where the first entry has one") for where in mixed), None)


def read(content: Any, record: Record) -> None:
    """Append a content list to the columns."""
    if type(content) is not list:
        raise TypeError
    record.walked.add(id(content))
    name = "id" if content and "id" in content[0] else "token"
    listed = []
    for entry in content:
        top = entry.get("top_logprobs")
        if top is None:
            top = ()
        elif type(top) is not list:
            raise TypeError
        record.lengths.append(len(top))
        record.num_keys += len(entry)
        listed += top
    record.num_keys += sum(map(len, listed))
    record.tokens += [entry[name] for entry in listed]
    record.log_probs += [entry["logprob"] for entry in listed]
    record.chosen = (record.chosen or []) + [entry[name] for entry in content]
    record.chosen_log_probs = (record.chosen_log_probs or []) + [entry["logprob"] for entry in content]
    if name == "token":
        record.spelled = (record.spelled or []) + [entry.get("bytes") for entry in listed]
        record.chosen_spelled = (record.chosen_spelled or []) + [entry.get("bytes") for entry in content]
