"""The forms a record can have, how each is recognised, and how one record becomes columns."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from sparsekd_jax.targets.readers import chat, completions, schema, served
from sparsekd_jax.targets.readers.records import Problem, Record

Nodes = Callable[[dict[str, Any]], list[tuple[str, Any, Any]]]
"""From a response ``(path, object to read, what has the text that it is of)``, one or more."""


@dataclasses.dataclass(frozen=True)
class Form:
    """How records of one form are found, read and explained.

    Attributes:
        name: what a caller calls it.
        nodes: where a response has it.
        read: appends such an object to a record's columns.
        check: finds the field that is wrong, after ``read`` failed.
        listed: the field below the path whose entries are the positions.
        remedy: what to ask the server for.
    """

    name: str
    nodes: Nodes
    read: Callable[[Any, Record], None]
    check: schema.Check
    listed: str
    remedy: str


def _below(owner: str, *inner: str) -> Nodes:
    """Nodes at ``choices[i].<owner>.<inner>``, else at ``<owner>.<inner>``, else bare at ``<inner>``."""

    def nodes(source: dict[str, Any]) -> list[tuple[str, Any, Any]]:
        choices = source.get("choices")
        if type(choices) is list and choices and not (owner in source and owner not in _keys(choices[0])):
            starts = [(f"choices[{i}].{owner}", choice) for i, choice in enumerate(choices)]
        elif owner in source:
            starts = [(owner, source)]
        else:
            return [(inner[0] if inner else "", _get(source, *inner), source)]
        return [(".".join((path, *inner)), _get(at, owner, *inner), at) for path, at in starts]

    return nodes


def _at(name: str) -> Nodes:
    return lambda source: [(name, source.get(name), source)]


_TEXTS = (
    ("message", "content"),
    ("delta", "content"),
    ("text",),
    ("response",),
    ("content",),
    ("generated_text",),
)
"""Where an answer's text stands, in one form or another."""


def _require_tokens(path: str, answer: Any, remedy: str) -> None:
    """Refuse an empty list of positions of an answer that has a text: the server gave it none."""
    for names in _TEXTS:
        text = _get(answer, *names)
        if type(text) is str and text:
            raise Problem(path, f"is empty, of the text {schema.show(text)}", remedy, "no log-probabilities")


def _keys(value: Any) -> Any:
    return value if type(value) is dict else ()


def _get(value: Any, *names: str) -> Any:
    for name in names:
        value = value.get(name) if type(value) is dict else None
    return value


def _output_texts(source: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Nodes at ``output[i].content[j].logprobs``, of the texts that a response holds; what is no
    object or list on the way there is a node too, which the reading refuses."""
    found: list[tuple[str, Any, Any]] = []
    output = source.get("output")
    for i, item in enumerate(output if type(output) is list else ()):
        content = _get(item, "content")
        if content is None:  # a tool call, or reasoning
            found += [] if type(item) is dict else [(f"output[{i}]", item, None)]
        elif type(content) is not list:
            found.append((f"output[{i}].content", content, None))
        else:
            for j, part in enumerate(content):
                path = f"output[{i}].content[{j}]"
                if type(part) is not dict:
                    found.append((path, part, None))
                elif "logprobs" in part or part.get("type") == "output_text":
                    found.append((f"{path}.logprobs", part.get("logprobs"), part))
    return found or _NO_TEXT


_NO_TEXT: list[tuple[str, Any, Any]] = [("output", None, None)]


_ASK_CHAT = "ask the server for logprobs=true and top_logprobs=k"
_LLAMA = (
    "set n_probs=k, and post_sampling_probs=false: probabilities after sampling are of another distribution"
)

FORMS = {
    form.name: form
    for form in (
        Form("chat", _below("logprobs", "content"), chat.read, chat.check, "", _ASK_CHAT),
        Form(
            "responses",
            _output_texts,
            chat.read,
            chat.check,
            "",
            'ask the server for include=["message.output_text.logprobs"] and top_logprobs=k',
        ),
        Form(
            "ollama",
            _at("logprobs"),
            chat.read,
            chat.check,
            "",
            _ASK_CHAT,
        ),
        Form(
            "completions",
            _below("logprobs"),
            completions.read,
            completions.check,
            ".top_logprobs",
            "ask the server for logprobs=k",
        ),
        Form(
            "prompt",
            _below("prompt_logprobs"),
            served.read_prompt,
            served.check_prompt,
            "",
            "ask the server for prompt_logprobs=k",
        ),
        *(
            Form(
                name,
                _at("meta_info"),
                served.read_sglang(side),
                served.check_sglang(side),
                f".{side}_top_logprobs",
                "ask the server for return_logprob=true and top_logprobs_num=k",
            )
            for name, side in (("sglang", "output"), ("sglang-prompt", "input"))
        ),
        Form(
            "llama.cpp",
            _at("completion_probabilities"),
            chat.read,
            chat.check,
            "",
            _LLAMA,
        ),
        Form(
            "tgi",
            _at("details"),
            served.read_tgi,
            served.check_tgi,
            ".top_tokens",
            "ask the server for details=true and top_n_tokens=k",
        ),
    )
}
"""By name."""


def detect(source: dict[str, Any]) -> Form:
    """The form of a response; two at once, or none, are refused."""
    if str(source.get("type")).startswith("response."):  # their last events say again what earlier ones said
        remedy = "log the response that the event response.completed holds"
        raise Problem("", "an event of a stream of OpenAI's Responses", remedy, "event of a stream")
    choices = source.get("choices")
    first = choices[0] if type(choices) is list and choices and type(choices[0]) is dict else source
    log_probs, meta = first.get("logprobs"), source.get("meta_info")
    inner = log_probs if type(log_probs) is dict else {} if type(choices) is list else source
    found = []
    if "completion_probabilities" in source:
        found.append("llama.cpp")
    elif first is source and type(log_probs) is list:
        found.append("ollama")
    elif any(node for _, node, _ in _output_texts(source)):  # the list is empty where it was not asked for
        found.append("responses")
    elif "content" in inner and (inner is log_probs or type(inner["content"]) is list):
        found.append("chat")
    elif "tokens" in inner and "token_logprobs" in inner:
        found.append("completions")
    if first.get("prompt_logprobs") is not None or source.get("prompt_logprobs") is not None:
        found.append("prompt")
    if type(meta) is dict:
        sides = (("sglang", "output"), ("sglang-prompt", "input"))
        tops = [name for name, side in sides if meta.get(f"{side}_top_logprobs")]
        found += tops or [name for name, side in sides[:1] if f"{side}_token_logprobs" in meta]
    if type(source.get("details")) is dict and "tokens" in source["details"]:
        found.append("tgi")
    if len(found) == 1:
        return FORMS[found[0]]
    if found:
        raise Problem(
            "", f"holds the forms {' and '.join(found)}", f'pass format="{found[0]}", or another', "two forms"
        )
    remedy = 'remove the line, or pass on_error="skip" and a report'
    if source.get("error") or "error" in (source.get("object"), source.get("type")):
        message = _get(source, "error", "message") or source.get("error") or source.get("message")
        raise Problem("", f"the request failed: {schema.show(message)}", remedy, "failed request")
    delta = first.get("delta")
    text = source.get("response") or _get(source, "message", "content")  # a whole answer is done too
    beside = source.keys() & {"usage", "prompt_filter_results"}  # the last chunk, and Azure's first
    ends = (source.get("done") is True and not text) or (choices == [] and bool(beside))
    ends |= first.get("text") == "" and bool(first.get("finish_reason"))  # of completions
    if ends or (type(delta) is dict and not any(delta[name] for name in delta if name != "role")):
        raise Problem("", "a chunk of a stream that holds no token", remedy, "no token")
    ask = f"{_ASK_CHAT}, or name the form: {', '.join(FORMS)}"
    if type(source.get("output")) is list:  # of OpenAI's Responses, which are asked in words of their own
        if _output_texts(source) == _NO_TEXT:  # a tool call, a refusal
            raise Problem("", "a response that holds no text", remedy, "no token")
        ask = FORMS["responses"].remedy
    raise Problem(
        "",
        f"no log-probabilities in a known form (fields: {schema.show(', '.join(map(str, source)))})",
        ask,
        "no log-probabilities",
    )


def to_record(parsed: Any, line: int, form: Form | None) -> Record:
    """Columns of one parsed response.

    Raises:
        Problem: with the field.
    """
    if type(parsed) is not dict:
        raise Problem(
            "", f"{schema.show(parsed)} is not an object", "log one response a line", "not an object"
        )
    source, prefix = parsed, ""
    body = _get(parsed, "response", "body")
    if type(body) is dict:  # a line of a batch's output
        source, prefix = body, "response.body."
    form = form or detect(source)
    record = Record(line, form.name, parsed)
    nodes = form.nodes(source)
    try:
        for path, node, answer in nodes:
            start, field = len(record.lengths), f"{prefix}{path}{form.listed}"
            record.fields.append((start, field))
            form.read(node, record)
            if len(record.lengths) == start and "prompt" not in form.name:
                _require_tokens(field, answer, form.remedy)
        _to_numbers(record)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError):
        for path, node, _ in nodes:
            if node is None:
                raise Problem(
                    f"{prefix}{path}", "is missing or null", form.remedy, "no log-probabilities"
                ) from None
            if mismatch := form.check(node, f"{prefix}{path}"):
                raise Problem(*mismatch, form.remedy, "malformed field") from None
        raise Problem(
            prefix + nodes[0][0], "mixes ids and texts as tokens", form.remedy, "malformed field"
        ) from None
    return record


_NUMBERS = frozenset((int, float))
_NULLABLE = _NUMBERS | {type(None)}


def _to_numbers(record: Record) -> None:
    """The columns' types, all at once; log-probabilities become float64."""
    if not _NUMBERS.issuperset(map(type, record.log_probs)):
        raise TypeError
    record.log_probs = np.array(record.log_probs, np.float64)
    kinds = set(map(type, record.tokens))
    fine = bool((record.log_probs < np.inf).all())
    for spelled in (record.spelled, record.chosen_spelled):
        fine &= spelled is None or {list, type(None)}.issuperset(map(type, spelled))
    if record.chosen is not None:
        if not _NULLABLE.issuperset(map(type, record.chosen_log_probs)):
            raise TypeError
        nulls = record.chosen_log_probs.count(None)
        record.chosen_log_probs = np.array(record.chosen_log_probs, np.float64)
        fine &= int((record.chosen_log_probs < np.inf).sum()) == record.chosen_log_probs.size - nulls
        kinds |= set(map(type, record.chosen))
    if record.ranks is not None:
        if not {int, type(None)}.issuperset(map(type, record.ranks)):
            raise TypeError
        ranks = np.array([rank or 0 for rank in record.ranks], np.int64)
        fine &= not (ranks < 0).any()
        record.ranks = ranks
    if not fine or len(kinds) > 1 or not kinds <= {str, int}:
        raise ValueError


def refuse_repeated_names(parsed: Any, record: Record, raw: bytes, exact: Callable[[bytes], Any]) -> None:
    """Refuse an object with one name twice: JSON readers keep the last and say nothing.

    Without white space every name ends in ``":``, and so does the opening of a text that begins with a colon:
    counting these finds a repetition without a second parse. Where a backslash leaves it open, ``exact``
    decides.
    """
    packed = raw.translate(None, b" \t\r\n")
    octets = np.frombuffer(packed, np.uint8)
    ends = np.count_nonzero((octets[1:] == ord(":")) & (octets[:-1] == ord('"')))
    surplus = ends - packed.count(b'\\":') - record.num_keys - sum(_names(parsed, record.walked))
    if (surplus and surplus != _colons(parsed)) or b'\\\\":' in packed:
        exact(raw)


def _colons(parsed: Any) -> int:
    """Texts, names included, that begin with a colon, after spaces."""
    found, stack = 0, [parsed]
    while stack:
        value = stack.pop()
        if type(value) is str:
            found += value.lstrip(" ").startswith(":")
        elif type(value) is dict:
            stack += value.values()
            if ":" in "".join(value):
                found += sum(name.lstrip(" ").startswith(":") for name in value)
        elif type(value) is list and not (value and type(value[0]) is int):  # not the bytes of a token
            stack += value
    return found


def _names(parsed: Any, walked: set[int]) -> Iterator[int]:
    stack = [parsed]
    while stack:
        value = stack.pop()
        if type(value) is dict:
            yield len(value)
            stack += value.values()
        elif type(value) is list and id(value) not in walked:
            stack += value
