"""What is written in a form comes back from it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsekd_jax.targets import readers
from tests.targets.readers import logs
from tests.targets.readers.logs import the_rows


@pytest.mark.parametrize("form", logs.FORMS)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6), appended=st.booleans(), batch=st.integers(1, 9))
def test_a_top_k_comes_back(tmp_path_factory, form, seed, k, appended, batch):
    rng = np.random.default_rng(seed)
    records = [logs.positions(rng, int(rng.integers(1, 5)), k, appended) for _ in range(3)]
    path = logs.write(tmp_path_factory.mktemp("log") / "log.jsonl", map(logs.FORMS[form], records))
    got = the_rows(path, k=k + 1, batch_size=batch)
    rows = [row for record in records for row in record]
    offset = form == "prompt"  # the first position of a prompt has no distribution
    where = [(line + 1, i + offset) for line, record in enumerate(records) for i in range(len(record))]
    assert list(zip(got["lines"].tolist(), got["positions"].tolist(), strict=True)) == where
    for i, (top, chosen) in enumerate(rows):
        expected = top + [chosen] * appended
        assert got["ids"][i].tolist() == [j for j, _ in expected] + [-1] * (k + 1 - len(expected))
        seen = len(expected)
        np.testing.assert_array_equal(got["log_probs"][i][:seen], np.float32([lp for _, lp in expected]))
        assert np.isneginf(got["log_probs"][i][seen:]).all()
        np.testing.assert_allclose(got["tail_mass"][i], logs.tail(dict(expected)), atol=1e-7)
        # The last entry is doubtful where it is the chosen one, and no rank and no mass speaks for it.
        last = np.exp(expected[-1][1]) >= logs.tail(dict(expected)) + 1e-6
        if appended:
            assert got["num_ranked"][i] == k + last
        else:
            assert got["num_ranked"][i] == (int(last) if k == 1 and form != "prompt" else k)
        if form != "prompt":
            assert got["chosen"][i] == chosen[0]


@pytest.mark.parametrize("form", logs.FORMS)
def test_every_form_says_the_same(tmp_path, form):
    rows = logs.positions(np.random.default_rng(0), 40, 4)
    path = logs.write(tmp_path / "log.jsonl", [logs.FORMS[form](rows)])
    other = logs.write(tmp_path / "chat.jsonl", [logs.chat(rows)])
    a, b = the_rows(path, k=4), the_rows(other, k=4)
    for name in ("ids", "log_probs", "tail_mass"):
        np.testing.assert_array_equal(a[name], b[name])


def test_ranked_means_that_no_unseen_token_has_more(tmp_path):
    """Lists as vLLM cuts them: the sampled token first, then the likeliest, k in all."""
    rng = np.random.default_rng(1)
    k, rows, full = 4, [], []
    for _ in range(300):
        p = np.sort(rng.dirichlet(np.full(logs.V, 0.5)))[::-1]
        own = int(rng.integers(logs.V))
        order = [own, *(i for i in range(logs.V) if i != own)][:k]
        rows.append(([(i, float(np.log(p[i]))) for i in order], (own, float(np.log(p[own])))))
        full.append(p)
    path = logs.write(tmp_path / "log.jsonl", [logs.chat(rows)])
    got = the_rows(path, k=k)
    naive_fails = 0
    for i, p in enumerate(full):
        ids, n = got["ids"][i], got["num_ranked"][i]
        unseen = np.delete(p, ids).max()
        assert n == 0 or unseen <= p[ids[n - 1]] * (1 + 1e-6)
        naive_fails += unseen > p[ids[k - 1]] * (1 + 1e-6)
    assert naive_fails > 100  # taking the whole list as ranked is wrong, and often


def test_list_file_bare_objects_and_batch_lines(tmp_path):
    rows = logs.positions(np.random.default_rng(2), 3, 3)
    inner = logs.chat(rows)["choices"][0]["logprobs"]
    wrapped = {"custom_id": "r1", "response": {"status_code": 200, "body": logs.chat(rows)}, "error": None}
    records = [logs.chat(rows), inner, {"logprobs": inner}, wrapped]
    path = logs.write(tmp_path / "log.jsonl", records)
    listed = tmp_path / "log.json"
    listed.write_text(json.dumps(records, indent=1))
    a, b = the_rows(path, k=3), the_rows(listed, k=3)
    assert len(a["ids"]) == 12
    np.testing.assert_array_equal(a["ids"], b["ids"])
    np.testing.assert_array_equal(a["ids"][:3], a["ids"][9:])
    assert next(iter(readers.read(path))).at(0)[0] == (logs.TEXTS[rows[0][0][0][0]], rows[0][0][0][1])


def test_without_orjson_nothing_changes(tmp_path, monkeypatch):
    rows = logs.positions(np.random.default_rng(3), 5, 3)
    path = logs.write(tmp_path / "log.jsonl", [form(rows) for form in logs.FORMS.values()])
    a = the_rows(path, k=3)
    monkeypatch.setitem(__import__("sys").modules, "orjson", None)
    b = the_rows(path, k=3)
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name])
