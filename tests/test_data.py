"""The digits, against scikit-learn read directly."""

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
