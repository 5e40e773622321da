import jax
import numpy as np
import pytest

from sparsekd_jax import data, targets
from sparsekd_jax.studies import teacher_logs

SMALL = teacher_logs.LogSettings(
    data="digits", k=3, tails=("uniform", "renormalized-top-k"), seeds=2, steps=60, teacher_steps=150
)


def test_a_log_gives_back_what_was_written(tmp_path):
    arrays = data.digits()
    logits = np.random.default_rng(0).normal(size=(len(arrays.train_labels), 10))
    log_probs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    teacher_logs.write_log(tmp_path / "log.jsonl", targets.top_k(log_probs, 4))
    read = teacher_logs.read_log(tmp_path / "log.jsonl", arrays, 4)
    order = np.argsort(-log_probs, axis=-1)[:, :4]
    np.testing.assert_array_equal(read.ids, order)
    np.testing.assert_array_equal(read.log_probs, np.take_along_axis(log_probs, order, -1))
    np.testing.assert_allclose(read.tail_mass, 1 - np.exp(read.log_probs).sum(-1), atol=1e-6)


def test_a_log_of_other_data_is_refused(tmp_path):
    few = targets.top_k(np.log(np.full((3, 10), 0.1, np.float32)), 10)
    teacher_logs.write_log(tmp_path / "log.jsonl", few)
    with pytest.raises(ValueError, match=r"3 positions, and .* 1347 training labels"):
        teacher_logs.read_log(tmp_path / "log.jsonl", data.digits(), 10)


def test_students_learn_from_the_log_and_the_blind_policy_does_not_win(tmp_path):
    result = teacher_logs.run(SMALL, tmp_path)
    means = {row["tail"]: row["mean"]["mean"] for row in result["rows"]}
    assert list(means) == [teacher_logs.FULL, "uniform", "renormalized-top-k"]
    assert means[teacher_logs.FULL] > 0.5  # ten classes: chance is 0.1
    assert means["uniform"] > 0.5
    assert means["uniform"] >= means["renormalized-top-k"]
    assert "| uniform |" in teacher_logs.markdown(result)
