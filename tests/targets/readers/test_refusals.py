"""What no reader takes: lines that are none, forms that are not clear, answers without what was asked for."""

import json

import numpy as np
import pytest

from sparsekd_jax.targets import readers
from tests.targets.readers import logs
from tests.targets.readers.logs import the_rows
from tests.targets.readers.small import CHAT, entries, log_of, refusal


def test_forms_are_named_or_found(tmp_path):
    both = json.loads(CHAT) | {"prompt_logprobs": [None, {"0": {"logprob": -0.1, "rank": 1}}]}
    error = refusal(log_of(tmp_path, both))
    assert (error.reason, error.remedy) == ("two forms", 'pass format="chat", or another')
    assert len(the_rows(log_of(tmp_path, both), k=2, format="chat")["ids"]) == 1
    assert the_rows(log_of(tmp_path, both), k=2, format="prompt")["positions"].tolist() == [1]
    after = {"completion_probabilities": [{"id": 1, "token": "a", "prob": 0.5, "top_probs": []}]}
    assert "post_sampling_probs=false" in refusal(log_of(tmp_path, after)).remedy
    with pytest.raises(ValueError, match="format is 'csv'; the formats are chat, "):
        the_rows(log_of(tmp_path, CHAT), k=2, format="csv")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"choices": [', "not JSON"),
        (b'{"choices": "\xff"}', "not UTF-8"),
        (b"[1, 2]", "not an object"),
        (b"3", "not an object"),
        (b"{}", "no log-probabilities"),
        (b"[" * 100_000, "not JSON"),
        (b'{"choices": []}', "no log-probabilities"),
        (CHAT.encode().replace(b"-0.5", b"NaN"), "malformed field"),
        (CHAT.encode().replace(b"-0.5", b"-" + b"9" * 5000), "not JSON"),
        (CHAT.encode().replace(b"-0.5", b"Infinity"), "malformed field"),
        (CHAT.encode().replace(b"-0.5", b"true"), "malformed field"),
        (CHAT.encode().replace(b"-0.5", b'"-0.5"'), "malformed field"),
        (CHAT.encode().replace(b"[98]", b"[998]"), "malformed bytes"),
        (CHAT.encode().replace(b'"token": "b",', b'"token": "b", "token": "a",'), "repeated name"),
    ],
)
def test_malformed_lines_have_their_line_and_are_skipped_by_count(tmp_path, line, reason):
    path = tmp_path / "log.jsonl"
    good = CHAT.replace("\n", "").encode()
    path.write_bytes(b"\n".join([good, b"", line.replace(b"\n", b""), good]) + b"\n")
    error = refusal(path)
    assert (error.line, error.reason) == (3, reason)
    assert str(error).startswith(f"{path}, line 3, ")
    report = readers.Report()
    got = the_rows(path, k=2, on_error="skip", report=report)
    assert got["lines"].tolist() == [1, 4]
    assert {name: entry[:2] for name, entry in report.refused.items()} == {reason: [1, 3]}


def responses(text, *tokens):
    return {"type": "output_text", "text": text, "logprobs": [{**t, "top_logprobs": [t]} for t in tokens]}


EMPTY = {  # by form an answer to a text, without one of its positions, and the field that is empty
    "chat": (
        lambda text: {"choices": [{"message": {"content": text}, "logprobs": {"content": []}}]},
        "choices[0].logprobs.content",
    ),
    "a chunk": (
        lambda text: {"choices": [{"delta": {"content": text}, "logprobs": {"content": []}}]},
        "choices[0].logprobs.content",
    ),
    "one of two texts": (
        lambda text: {"output": [{"content": [responses("a", *entries(("a", -0.1))), responses(text)]}]},
        "output[0].content[1].logprobs",
    ),
    "ollama": (lambda text: {"response": text, "done": True, "logprobs": []}, "logprobs"),
    "completions": (
        lambda text: {"choices": [{"text": text, "logprobs": {"tokens": [], "token_logprobs": []}}]},
        "choices[0].logprobs.top_logprobs",
    ),
    "sglang": (
        lambda text: {"text": text, "meta_info": {"output_token_logprobs": []}},
        "meta_info.output_top_logprobs",
    ),
    "llama.cpp": (lambda text: {"content": text, "completion_probabilities": []}, "completion_probabilities"),
    "tgi": (lambda text: {"generated_text": text, "details": {"tokens": []}}, "details.top_tokens"),
}


@pytest.mark.parametrize("form", EMPTY)
def test_a_text_without_positions_is_no_empty_answer(tmp_path, form):
    """Servers answer an empty list where they were not asked; an answer without a text has none to give."""
    answer, field = EMPTY[form]
    error = refusal(log_of(tmp_path, answer("hi")))
    assert (error.field, error.reason) == (field, "no log-probabilities")
    assert "is empty, of the text 'hi'; " in str(error)
    records = list(readers.read(log_of(tmp_path, answer(""))))
    assert [record.num_positions for record in records] == [form == "one of two texts"]


def test_an_empty_list_of_a_prompt_is_one(tmp_path):
    """The text is that of the answer, and a server may be asked for the last tokens of a prompt only."""
    meta = {"input_token_logprobs": [], "input_top_logprobs": []}
    path = log_of(tmp_path, {"text": "hi", "meta_info": meta})
    assert [record.num_positions for record in readers.read(path, format="sglang-prompt")] == [0]


def test_arguments_are_checked(tmp_path):
    path = log_of(tmp_path, CHAT)
    for options, words in (
        ({"k": 0}, "k is 0"),
        ({"applied_temperature": 0}, "applied_temperature is 0"),
        ({"unknown": "drop"}, "unknown is 'drop'"),
        ({"on_error": "skip"}, "needs a report"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"sum_tolerance": 1.0}, "sum_tolerance is 1"),
        ({"vocabulary": {"a": 1, "b": 1}}, "one id to two tokens"),
        ({"vocabulary": {"a": -1, "b": 1}}, "ids are whole numbers"),
        ({"vocabulary": None}, "targets need the teacher's"),
    ):
        with pytest.raises(ValueError, match=words):
            the_rows(path, **{"k": 2, **options})
    with pytest.raises(TypeError, match="vocabulary is list"):
        the_rows(path, k=2, vocabulary=["a"])


def test_samples_by_context(tmp_path):
    def answer(name, *texts):
        return {
            "custom_id": name,
            "choices": [{"logprobs": {"content": entries(*((t, -1.0) for t in texts))}}],
        }

    path = log_of(tmp_path, answer("p", "a", "b"), answer("q", "ß"), answer("p", "a", "0"), answer("p", "b"))
    keys, samples = readers.read_samples(
        path, vocabulary=logs.TEXT_IDS, context=lambda r, i: r.source["custom_id"] if i == 0 else None
    )
    assert keys == ["p", "q"]
    assert samples.ids.tolist() == [[0, 1], [3, -1]]
    np.testing.assert_allclose(samples.weights, [[2 / 3, 1 / 3], [1, 0]], rtol=1e-6)
    assert samples.num_draws.tolist() == [3, 1]
    keys, samples = readers.read_samples(
        path, vocabulary=logs.TEXT_IDS, context=lambda r, i: (r.source["custom_id"], *r.chosen[:i])
    )
    assert keys == [("p",), ("p", "a"), ("q",)]
    assert samples.num_draws.tolist() == [3, 2, 1]
    with pytest.raises(readers.LogError, match=r"line 2, choices.*content.0.*'ß' is not in the vocabulary"):
        readers.read_samples(path, vocabulary={"a": 0, "b": 1, "0": 2}, context=lambda r, i: i)
    with pytest.raises(ValueError, match="gave no sample"):
        readers.read_samples(path, vocabulary=logs.TEXT_IDS, context=lambda r, i: None)


def test_records_and_samples_are_skipped_and_counted_as_targets_are(tmp_path):
    good = [json.dumps({"choices": [{"logprobs": {"content": entries((t, -1.0))}}]}) for t in "ab0"]
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join([good[0], "{cut", *good[1:]]) + "\n")
    report = readers.Report()
    given = {"on_error": "skip", "report": report, "format": "chat"}
    assert [record.num_positions for record in readers.read(path, **given)] == [1, 1, 1]
    assert (report.records, report.num_refused, dict(report.forms)) == (3, 1, {"chat": 3})
    given["report"] = report = readers.Report()
    _, samples = readers.read_samples(path, vocabulary={"a": 0, "b": 1}, context=lambda r, i: 0, **given)
    assert samples.num_draws.tolist() == [2]
    assert (report.records, report.positions) == (2, 2)
    assert {reason: entry[1] for reason, entry in report.refused.items()} == {
        "not JSON": 2,
        "unknown token": 4,
    }
    # No tail was looked at: none is NaN, which JSON does not have.
    assert report.to_dict()["tail_mass"] == {}
    assert "tail mass" not in str(report)
