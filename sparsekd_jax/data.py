"""The small real workload: handwritten digits that ship inside scikit-learn."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32


@dataclass(frozen=True, eq=False)
class Arrays:
    """A classification data set held in memory, split into train and test.

    Attributes:
        train_inputs: ``[n, d]`` float32.
        train_labels: ``[n]`` int32, in ``[0, num_classes)``.
        test_inputs: ``[m, d]`` float32.
        test_labels: ``[m]`` int32.
        num_classes: number of classes.
        name: what a report calls it.
    """

    train_inputs: Float32[np.ndarray, "n d"]
    train_labels: Int32[np.ndarray, " n"]
    test_inputs: Float32[np.ndarray, "m d"]
    test_labels: Int32[np.ndarray, " m"]
    num_classes: int
    name: str


def digits(*, test_size: float = 0.25, random_state: int = 0) -> Arrays:
    """Scikit-learn's 8×8 handwritten digits, stratified into train and test, then standardised.

    ``x = (pixel − mean) / std``, with the one mean and one deviation of all pixels of the TRAINING images.

    Args:
        test_size: share of images held out, in (0, 1).
        random_state: seed of the split.

    Returns:
        1,347 training and 450 test images of 64 pixels by default, classes 0 to 9.

    Raises:
        ValueError: ``test_size`` is not a share strictly between 0 and 1.

    Reference:
        ``sklearn.datasets.load_digits``; the images come with the library, nothing is downloaded.

    >>> data = digits()
    >>> data.train_inputs.shape, data.test_inputs.shape, data.num_classes
    ((1347, 64), (450, 64), 10)
    """
    if not 0.0 < test_size < 1.0:
        raise ValueError(
            f"test_size must lie in (0, 1), got {test_size}; 0.25 holds out a quarter of the images"
        )
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    inputs, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        inputs, labels, test_size=test_size, random_state=random_state, stratify=labels
    )
    # One scale for all pixels: a pixel that is blank in every image would divide by zero on its own.
    mean, scale = train_x.mean(), train_x.std()
    return Arrays(
        train_inputs=((train_x - mean) / scale).astype(np.float32),
        train_labels=train_y.astype(np.int32),
        test_inputs=((test_x - mean) / scale).astype(np.float32),
        test_labels=test_y.astype(np.int32),
        num_classes=10,
        name="digits",
    )
