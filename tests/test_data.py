"""The digits against scikit-learn read directly, the texts against the topics themselves."""

from pydoc_data.topics import topics

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sparsekd_jax import data


def test_the_split_is_the_stratified_one_of_scikit_learn():
    raw, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        raw, labels, test_size=0.25, random_state=0, stratify=labels
    )
    digits = data.digits()
    np.testing.assert_array_equal(digits.train_labels, train_labels)
    np.testing.assert_array_equal(digits.test_labels, test_labels)
    # The scaling is affine with the two numbers of the TRAINING images; the test images must not leak in.
    np.testing.assert_allclose(digits.train_inputs * train.std() + train.mean(), train, atol=1e-5)
    np.testing.assert_allclose(digits.test_inputs * train.std() + train.mean(), test, atol=1e-5)
    assert abs(train.mean() - raw.mean()) > 1e-4, "the check above could not tell a leak from no leak"


def test_every_class_keeps_its_share():
    digits = data.digits()
    train = np.bincount(digits.train_labels) / digits.train_labels.size
    test = np.bincount(digits.test_labels) / digits.test_labels.size
    np.testing.assert_allclose(train, test, atol=0.003)


def test_dtypes_and_finiteness():
    digits = data.digits()
    assert digits.train_inputs.dtype == digits.test_inputs.dtype == np.float32
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
    assert np.isfinite(digits.train_inputs).all()
    assert digits.num_classes == 10


@pytest.mark.parametrize("size", [0.0, 1.0, 25.0])
def test_a_share_outside_the_unit_interval_is_refused(size):
    with pytest.raises(ValueError, match="test_size"):
        data.digits(test_size=size)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_validation_share_outside_its_range_is_refused(share):
    for load in (data.digits, data.pydoc):
        with pytest.raises(ValueError, match="validation_size"):
            load(validation_size=share)


@pytest.mark.parametrize("load", [data.digits, data.pydoc])
def test_the_validation_share_is_of_what_the_test_half_leaves(load):
    halves = load(test_size=0.5, validation_size=0.6)
    train, held, test = (getattr(halves, f"{half}_labels").size for half in ("train", "validation", "test"))
    assert held / (train + held) == pytest.approx(0.6, abs=0.02)
    assert test / (train + held + test) == pytest.approx(0.5, abs=0.02)


def test_validation_is_cut_from_the_training_half():
    whole, cut = data.digits(), data.digits(validation_size=0.1)
    np.testing.assert_array_equal(whole.test_labels, cut.test_labels)
    assert whole.validation_inputs is None
    assert len(cut.train_labels) + len(cut.validation_labels) == len(whole.train_labels)


@pytest.fixture(scope="module")
def texts():
    return [f"{name}\n{text}\n".encode() for name, text in sorted(topics.items())]


def joined(inputs, labels):
    """The bytes behind windows: what they start with, and all that they predict."""
    return bytes([inputs[0, 0], *labels.ravel()])


def test_windows_predict_every_byte_once_and_topics_do_not_cross_parts(texts):
    text = data.pydoc(context=16, validation_size=0.05)
    np.testing.assert_array_equal(text.train_inputs[:, 1:], text.train_labels[:, :-1])
    parts = {
        "train": joined(text.train_inputs, text.train_labels),
        "validation": joined(text.validation_inputs, text.validation_labels),
        "test": joined(text.test_inputs, text.test_labels),
    }
    lost = sum(map(len, texts)) - sum(map(len, parts.values()))
    assert 0 <= lost < 3 * 16
    whole = {name: [topic for topic in texts if topic[:-16] in part] for name, part in parts.items()}
    assert sum(map(len, whole.values())) == len(texts)
    shares = {name: len(part) / sum(map(len, texts)) for name, part in parts.items()}
    assert 0.09 < shares["test"] <= 0.1
    assert 0.04 < shares["validation"] / (1 - shares["test"]) <= 0.05


@pytest.mark.parametrize(
    ("name", "share"),
    [("test_size", 1e-4), ("test_size", 0.999), ("validation_size", 1e-4), ("validation_size", 0.999)],
)
def test_a_share_too_small_for_ten_digits_is_refused_by_its_own_name(name, share):
    """Of a validation share scikit-learn said that "test_size = 1" was wrong."""
    with pytest.raises(ValueError, match=rf"^{name} is {share:g}, which divides \d+ images"):
        data.digits(**{name: share})


def test_the_test_half_depends_on_its_seed_alone():
    one, same = data.pydoc(), data.pydoc(validation_size=0.1)
    np.testing.assert_array_equal(one.test_inputs, same.test_inputs)
    other = data.pydoc(random_state=1)
    assert one.test_inputs.shape != other.test_inputs.shape or (one.test_inputs != other.test_inputs).any()


def test_a_context_that_nothing_fills_is_refused():
    with pytest.raises(ValueError, match="context must be"):
        data.pydoc(context=0)
    with pytest.raises(ValueError, match="less than a window of context = 1000000"):
        data.pydoc(context=1_000_000)
