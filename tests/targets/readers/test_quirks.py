"""Each thing that served log-probabilities are known for: read right, or refused with its place."""

import json
import math

import numpy as np
import pytest

from sparsekd_jax import operators, targets
from sparsekd_jax.targets import readers
from sparsekd_jax.targets.readers.temperature import undo
from tests.targets.readers import logs
from tests.targets.readers.logs import the_rows
from tests.targets.readers.small import CHAT, content, log_of, refusal

LOG = math.log


def test_the_literal_chat_record(tmp_path):
    got = the_rows(log_of(tmp_path, CHAT), k=3)
    assert got["ids"].tolist() == [[0, 1, -1]]
    assert got["num_ranked"].tolist() == [2]
    np.testing.assert_allclose(got["tail_mass"], [1 - math.exp(-0.5) - math.exp(-1.5)], rtol=1e-6)


def test_the_floor_is_censored_and_counted(tmp_path):
    top = [("a", -0.2), ("b", -3.0), ("ß", -9999.0), ("0", -3.4e38)]
    report = readers.Report()
    got = the_rows(log_of(tmp_path, content((top, ("yes", -9999.0)))), k=4, report=report)
    assert got["ids"].tolist() == [[0, 1, -1, -1]]
    assert got["num_ranked"].tolist() == [2]
    assert report.counts["censored"] == 3  # two listed, and the chosen one
    assert report.counts["appended"] == 0
    np.testing.assert_allclose(got["tail_mass"], [1 - math.exp(-0.2) - math.exp(-3.0)], rtol=1e-6)


def test_minus_infinity_after_processing(tmp_path):
    report = readers.Report()
    top = [("a", LOG(0.6)), ("b", LOG(0.4)), ("ß", -math.inf)]
    got = the_rows(log_of(tmp_path, content((top, top[0]))), k=3, report=report)
    assert got["ids"].tolist() == [[0, 1, -1]]
    assert report.counts["minus_infinity"] == 1
    assert report.counts["tail_below_rounding"] == 1  # 1 − 0.6 − 0.4 is noise


def test_nulls(tmp_path):
    record = json.loads(CHAT)
    own = record["choices"][0]["logprobs"]["content"][0]
    own["logprob"] = own["bytes"] = own["top_logprobs"][0]["bytes"] = None
    assert the_rows(log_of(tmp_path, record), k=2)["ids"].tolist() == [[0, 1]]
    own["top_logprobs"][1]["logprob"] = None
    error = refusal(log_of(tmp_path, CHAT, record))
    assert error.line == 2
    assert error.field == "choices[0].logprobs.content[0].top_logprobs[1].logprob"
    assert "None is not a log-probability; ask the server" in str(error)


def test_null_lists(tmp_path):
    echoed = {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -0.1],
        "top_logprobs": [None, {"b": -0.1, "a": -4.0}],
        "text_offset": [0, 1],
    }
    report = readers.Report()
    got = the_rows(log_of(tmp_path, {"choices": [{"logprobs": echoed}]}), k=2, report=report)
    assert (got["positions"].tolist(), got["ids"].tolist()) == ([1], [[1, 0]])
    assert report.counts["empty"] == 1
    error = refusal(log_of(tmp_path, {"choices": [{"logprobs": {"content": None}}]}))
    assert "choices[0].logprobs.content: is missing or null; ask the server for logprobs=true" in str(error)
    error = refusal(log_of(tmp_path, {"choices": [{"logprobs": None, "text": ""}]}))
    assert error.reason == "no log-probabilities"


def test_fewer_and_more_than_k(tmp_path):
    short = [("a", -0.1)]
    long = [("a", LOG(0.5)), ("b", LOG(0.2)), (" the", LOG(0.1)), ("ß", LOG(0.05))]
    report = readers.Report()
    got = the_rows(log_of(tmp_path, content((short, short[0]), (long, long[1]))), k=3, report=report)
    assert got["ids"].tolist() == [[0, -1, -1], [0, 1, 2]]
    assert got["num_ranked"].tolist() == [1, 3]
    np.testing.assert_allclose(got["tail_mass"][1], 0.2, atol=1e-7)  # what is cut joins the tail
    assert (report.counts["short"], report.counts["cut"]) == (1, 1)


def test_the_appended_token_is_seen_and_not_ranked(tmp_path):
    """Theory section 6: top-2 of (.4, .2, .15, .12, .1, .03) with the sampled .03 appended."""
    top = [("a", LOG(0.4)), ("b", LOG(0.2))]
    report = readers.Report()
    for rows in (top, [*top, ("ß", LOG(0.03))], [("ß", LOG(0.03)), *top]):
        got = the_rows(log_of(tmp_path, content((rows, ("ß", LOG(0.03))))), k=3, report=report)
        assert got["ids"].tolist() == [[0, 1, 3]]
        assert got["num_ranked"].tolist() == [2]
        assert got["chosen"].tolist() == [3]
    assert report.counts["appended"] == 1
    listed = content(([*top, ("ß", LOG(0.03))], ("ß", LOG(0.03))))
    wide = {**logs.BYTE_IDS, b"more": 40}
    known = the_rows(log_of(tmp_path, listed), k=3, appended=False, vocabulary=wide)
    assert known["num_ranked"].tolist() == [3]


def test_ranks_decide_in_prompt_lists(tmp_path):
    def prompt(*entries):
        return {"prompt_logprobs": [None, {str(i): {"logprob": LOG(p), "rank": r} for i, p, r in entries}]}

    path = log_of(tmp_path, prompt((7, 0.03, 6), (0, 0.4, 1), (1, 0.2, 2)), prompt((0, 0.4, 1), (7, 0.15, 2)),
                  prompt((0, 0.4, None), (7, 0.05, None)))  # fmt: skip
    got = the_rows(path, k=3, vocabulary=100)
    assert got["ids"].tolist() == [[0, 1, 7], [0, 7, -1], [0, 7, -1]]
    assert got["num_ranked"].tolist() == [2, 2, 1]


def test_sums_above_one(tmp_path):
    def record(excess):
        return content(([("a", LOG(0.7)), ("b", LOG(0.3 + excess))], ("a", LOG(0.7))))

    report = readers.Report()
    got = the_rows(log_of(tmp_path, record(5e-5)), k=2, report=report)
    assert got["tail_mass"].tolist() == [0.0]
    assert report.counts["above_one"] == 1
    np.testing.assert_allclose(np.exp(got["log_probs"][0]), np.array([0.7, 0.30005]) / 1.00005, rtol=1e-6)
    error = refusal(log_of(tmp_path, record(0), record(2e-3)))
    assert (error.line, error.reason) == (2, "sum above one")
    assert error.field == "choices[0].logprobs.content[0]"
    assert the_rows(log_of(tmp_path, record(2e-3)), k=2, sum_tolerance=1e-2)["tail_mass"].tolist() == [0.0]
    error = refusal(log_of(tmp_path, content(([("a", 0.7)], ("a", 0.7)))))
    assert error.reason == "log-probability above 0"


def pairs(probs):
    return [(logs.TEXTS[i], LOG(p)) for i, p in enumerate(probs)]


@pytest.mark.parametrize(
    ("probs", "tolerance", "count"),
    [
        ([0.7, 0.30005], 1e-4, "above_one"),
        ([0.7, 0.302], 1e-2, "above_one"),
        ([(1 - 8e-5) / logs.V] * logs.V, 1e-4, "below_one"),
        # One token is unseen, and has at most as much as the last: the row lacks 8e-5.
        ([(1 - 8e-5) / logs.V] * (logs.V - 1), 1e-4, "below_one"),
    ],
)
def test_what_is_read_can_be_softened(tmp_path, probs, tolerance, count):
    top = pairs(probs)
    report = readers.Report()
    (batch,) = readers.read_targets(
        log_of(tmp_path, content((top, top[0]))),
        k=len(probs),
        vocabulary=logs.BYTE_IDS,
        sum_tolerance=tolerance,
        report=report,
    )
    assert (report.counts["above_one"], report.counts["below_one"]) == (
        count == "above_one",
        count == "below_one",
    )
    log_probs = np.asarray(batch.targets.log_probs[0], np.float64)
    np.testing.assert_allclose(log_probs - log_probs[0], np.log(probs) - LOG(probs[0]), atol=1e-6)
    assert float(np.exp(log_probs).sum() + batch.targets.tail_mass[0]) == pytest.approx(1, abs=1e-6)
    softened = targets.soften(operators.PowerTransform(), batch.targets, 2.0)
    assert float(np.exp(softened.log_probs).sum() + softened.tail_mass[0]) == pytest.approx(1, abs=1e-5)


def test_an_exact_row_is_left_as_it_is(tmp_path):
    report = readers.Report()
    top = pairs([0.5, 0.25])
    got = the_rows(log_of(tmp_path, content((top, top[0]))), k=2, report=report)
    assert got["log_probs"].tolist() == [np.log(np.float32([0.5, 0.25])).tolist()]
    assert got["tail_mass"].tolist() == [0.25]
    assert report.counts["above_one"] == report.counts["below_one"] == 0


def test_equal_texts_with_different_bytes(tmp_path):
    vocabulary = {b"\xe6\xb0": 0, b"\xb4": 1, "\ufffd".encode(): 2, b"a": 3}
    tops = [{"token": "\ufffd", "logprob": LOG(p), "bytes": list(b)} for p, b in
            ((0.5, b"\xe6\xb0"), (0.3, b"\xb4"), (0.1, "\ufffd".encode()))]  # fmt: skip
    record = {"choices": [{"logprobs": {"content": [{**tops[0], "top_logprobs": tops}]}}]}
    path = log_of(tmp_path, record)
    assert the_rows(path, k=3, vocabulary=vocabulary)["ids"].tolist() == [[0, 1, 2]]
    # A vocabulary of texts cannot tell them apart, and says so.
    error = refusal(path, vocabulary={"\ufffd": 2, "a": 3})
    assert error.reason == "unknown token"
    for top in tops:
        top["bytes"] = list("\ufffd".encode())
    record["choices"][0]["logprobs"]["content"][0]["bytes"] = tops[0]["bytes"]
    error = refusal(log_of(tmp_path, record), vocabulary=vocabulary)
    assert error.reason in ("two values for one token", "repeated token")


def test_two_tokens_of_one_text_in_a_completion(tmp_path):
    """The server's own dictionary kept the other one: the chosen token's two values differ."""
    log_probs = {
        "tokens": ["a"],
        "token_logprobs": [LOG(0.5)],
        "top_logprobs": [{"a": LOG(0.1), "b": LOG(0.2)}],
    }
    error = refusal(log_of(tmp_path, {"choices": [{"logprobs": log_probs}]}))
    assert error.reason == "two values for one token"
    assert error.field == "choices[0].logprobs.top_logprobs[0]"
    raw = '{"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{"a": -0.5, "b": -2, "b": -3}]}'
    assert refusal(log_of(tmp_path, raw)).reason == "repeated name"


@pytest.mark.parametrize("space", ["", " ", "\t", " \t "])
def test_a_name_twice_is_seen_whatever_the_white_space(tmp_path, space):
    """One name with white space before its colon would hide a second one from a count of ``":``."""
    twice = CHAT.replace('"bytes":', f'"bytes"{space}: null, "bytes":', 1)
    assert refusal(log_of(tmp_path, twice)).reason == "repeated name"


def test_texts_that_look_like_the_end_of_a_name_are_none(tmp_path):
    record = content(([(":", -0.5), (" :", -1.5), ('" :', -2.5)], (" :", -1.5)))
    vocabulary = {":": 0, " :": 1, '" :': 2, "x": 3, "y": 4}
    got = the_rows(log_of(tmp_path, record), k=3, vocabulary=vocabulary)
    assert got["ids"].tolist() == [[0, 1, 2]]


def test_unknown_tokens(tmp_path):
    top = [("a", LOG(0.4)), ("never seen", LOG(0.3)), ("b", LOG(0.2))]
    path = log_of(tmp_path, content((top, top[0])))
    error = refusal(path)
    assert error.reason == "unknown token"
    assert "'never seen' is not in the vocabulary" in str(error)
    assert 'unknown="tail"' in error.remedy
    report = readers.Report()
    got = the_rows(path, k=3, unknown="tail", report=report)
    assert got["ids"].tolist() == [[0, 1, -1]]
    assert got["num_ranked"].tolist() == [1]  # an unseen token has more than b
    np.testing.assert_allclose(got["tail_mass"], [0.4], rtol=1e-6)
    assert report.counts["unknown"] == 1
    report = readers.Report()
    the_rows(log_of(tmp_path, content((top, top[1]))), k=3, unknown="tail", report=report)
    assert report.counts["unknown"] == 1  # the chosen one is the listed one


def test_unknown_tokens_never_leave_a_rank_that_is_not_so(tmp_path):
    """Half of the vocabulary is missing: tails are exact, and no token left unseen exceeds a ranked one."""
    rng = np.random.default_rng(3)
    rows = logs.positions(rng, 200, 6)
    known = {text: i for i, text in enumerate(logs.TEXTS[: logs.V // 2])}
    path = logs.write(tmp_path / "log.jsonl", [logs.chat(rows)])
    got = the_rows(path, k=6, vocabulary=known, unknown="tail")
    naive_fails = 0
    for ids, n, tail, position in zip(
        got["ids"], got["num_ranked"], got["tail_mass"], got["positions"], strict=True
    ):
        top = dict(rows[position][0])
        own = [i for i in ids.tolist() if i >= 0]
        assert own == [i for i in top if i < len(known)]
        np.testing.assert_allclose(tail, logs.tail({i: top[i] for i in own}), atol=1e-6)
        lost = max((lp for i, lp in top.items() if i >= len(known)), default=-math.inf)
        assert n == 0 or lost <= top[own[n - 1]]
        naive_fails += lost > top[own[-1]]
    assert naive_fails > 50


@pytest.mark.parametrize(("known", "ranked"), [("abcde", 1), ("abcd", 0)])
def test_unknown_tokens_leave_no_row_that_cannot_be_softened(tmp_path, known, ranked):
    """Two unseen ids cannot hold a tail of .55 at .25 each, three can."""
    top = [("a", LOG(0.25)), ("x", LOG(0.25)), ("y", LOG(0.25)), ("b", LOG(0.2))]
    ids = {text: i for i, text in enumerate(known)}
    path = log_of(tmp_path, content((top, top[0])))
    (batch,) = readers.read_targets(path, k=4, vocabulary=ids, unknown="tail")
    targets.require_consistent(batch.targets)
    assert batch.targets.num_ranked.tolist() == [ranked]


def test_an_unknown_token_beside_all_of_the_vocabulary_is_refused(tmp_path):
    top = [("a", LOG(0.4)), ("x", LOG(0.3)), ("b", LOG(0.3))]
    error = refusal(log_of(tmp_path, content((top, top[0]))), vocabulary={"a": 0, "b": 1}, unknown="tail")
    assert error.reason == "tail too heavy"
    assert "0 unseen tokens" in str(error)


def test_unknown_tokens_do_not_fill_the_vocabulary(tmp_path):
    top = [("a", LOG(0.6)), ("never seen", LOG(0.3))]
    got = the_rows(log_of(tmp_path, content((top, top[0]))), k=2, vocabulary={"a": 0, "b": 1}, unknown="tail")
    np.testing.assert_allclose(got["tail_mass"], [0.4], rtol=1e-6)


def test_token_id_texts(tmp_path):
    top = [("token_id:5", -0.3), ("token_id:900", -2.0)]
    path = log_of(tmp_path, content((top, top[0])))
    assert the_rows(path, k=2, vocabulary=1000)["ids"].tolist() == [[5, 900]]
    error = refusal(path, vocabulary=900)
    assert error.reason == "token out of range"
    assert "'token_id:900' is not in [0, 900)" in str(error)
    error = refusal(log_of(tmp_path, CHAT), vocabulary=900)
    assert error.reason == "unknown token"


def test_impossible_lists(tmp_path):
    heavy = content(([("a", LOG(0.1)), ("b", LOG(0.01))], ("a", LOG(0.1))))
    assert refusal(log_of(tmp_path, heavy)).reason == "tail too heavy"  # 14 tokens of .01 are not .89
    filtered = content(([("a", LOG(0.5)), ("b", LOG(0.1))], ("ß", LOG(0.3))))
    assert refusal(log_of(tmp_path, filtered)).reason == "unlisted but likelier"
    twice = content(([("a", LOG(0.5)), ("b", LOG(0.1)), ("b", LOG(0.1))], ("a", LOG(0.5))))
    assert refusal(log_of(tmp_path, twice)).reason == "repeated token"
    floor = content(([("a", LOG(0.9)), ("b", -9999.0), ("b", LOG(0.05))], ("a", LOG(0.9))))
    assert refusal(log_of(tmp_path, floor)).reason == "repeated token"
    everything = content(([(t, LOG(0.05)) for t in logs.TEXTS], ("a", LOG(0.05))))
    assert refusal(log_of(tmp_path, everything)).reason == "sum below one"


def softmax_log(z):
    return z - np.log(np.exp(z - z.max()).sum()) - z.max()


@pytest.mark.parametrize("temperature", [0.5, 0.9, 1.7, 4.0])
def test_a_temperature_on_a_full_list_is_undone(tmp_path, temperature):
    z = np.random.default_rng(0).normal(size=(20, logs.V)) * 2
    rows = []
    for one in z:
        tempered = softmax_log(one / temperature)
        pairs = [(int(i), float(tempered[i])) for i in np.argsort(-tempered)]
        rows.append((pairs, pairs[0]))
    path = logs.write(tmp_path / "log.jsonl", [logs.chat(rows)])
    got = the_rows(path, k=logs.V, applied_temperature=temperature)
    expected = np.stack([np.sort(softmax_log(one))[::-1] for one in z])
    np.testing.assert_allclose(got["log_probs"], expected, rtol=1e-5, atol=1e-6)
    assert (got["tail_mass"] == 0).all()
    assert (got["num_ranked"] == logs.V).all()


def test_a_temperature_on_a_short_list_is_undone_or_refused(tmp_path):
    sharp = np.array([0.0, -6, -12, *[-40.0] * (logs.V - 3)])  # at T = 2 the unseen have next to nothing
    tempered = softmax_log(sharp / 2)
    pairs = [(i, float(tempered[i])) for i in range(3)]
    path = logs.write(tmp_path / "log.jsonl", [logs.chat([(pairs, pairs[0])])])
    got = the_rows(path, k=3, applied_temperature=2.0)
    np.testing.assert_allclose(got["log_probs"][0], softmax_log(sharp)[:3], atol=2e-6)
    flat = softmax_log(np.linspace(0, -3, logs.V) / 2)
    pairs = [(i, float(flat[i])) for i in range(3)]
    path = logs.write(tmp_path / "log.jsonl", [logs.chat([(pairs, pairs[0])])])
    error = refusal(path, applied_temperature=2.0)
    assert error.reason == "temperature cannot be undone"
    assert "logprobs_mode=raw_logprobs" in error.remedy


def test_the_width_of_an_undone_temperature_holds_the_truth():
    """10³ tails of every concentration: the true normaliser is inside; half the width is not enough."""
    rng = np.random.default_rng(5)
    twin_fails = 0
    for _ in range(1000):
        temperature = float(rng.choice([0.4, 0.8, 1.5, 3.0]))
        z = np.sort(rng.normal(size=30) * rng.choice([0.3, 3.0]))[::-1]
        q, k = np.exp(softmax_log(z / temperature)), int(rng.integers(1, 10))
        m = np.array([30 - k])
        undone, width, _ = undo(np.log(q[None, :k]), q[None, k - 1], q[k:].sum()[None], m, temperature)
        error = np.abs(undone[0] - softmax_log(z)[:k]).max()
        assert error <= width[0] / 2 * (1 + 1e-9) + 1e-12
        twin_fails += error > width[0] / 4
    assert twin_fails > 100
