"""The small real workloads, from packages that are installed already: digits, and Python's own manual."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Num


@dataclass(frozen=True, eq=False)
class Arrays:
    """A classification data set held in memory, split into train, test and, where asked for, validation.

    Attributes:
        train_inputs: ``[n, ...]``.
        train_labels: ``[n]``, or ``[n, L]`` of sequences; int32, in ``[0, num_classes)``.
        test_inputs: ``[m, ...]``.
        test_labels: ``[m]`` or ``[m, L]``, int32.
        num_classes: number of classes.
        name: what a report calls it.
        validation_inputs: ``[v, ...]`` or None: what a stage that stops early looks at.
        validation_labels: ``[v]`` or ``[v, L]``, or None.
    """

    train_inputs: Num[np.ndarray, "n ..."]
    train_labels: Int32[np.ndarray, "n ..."]
    test_inputs: Num[np.ndarray, "m ..."]
    test_labels: Int32[np.ndarray, "m ..."]
    num_classes: int
    name: str
    validation_inputs: Num[np.ndarray, "v ..."] | None = None
    validation_labels: Int32[np.ndarray, "v ..."] | None = None


def digits(*, test_size: float = 0.25, validation_size: float = 0.0, random_state: int = 0) -> Arrays:
    """Scikit-learn's 8×8 handwritten digits, stratified into train and test, then standardised.

    ``x = (pixel − mean) / std``, with the one mean and one deviation of all pixels of the TRAINING images.

    Args:
        test_size: share of images held out, in (0, 1).
        validation_size: share of the images that the test half leaves, held out for early stopping, in
            [0, 1); 0 for none.
        random_state: seed of the splits; the test half does not depend on ``validation_size``.

    Returns:
        1,347 training and 450 test images of 64 pixels by default, classes 0 to 9.

    Raises:
        ValueError: a share outside its range, or one that leaves a part fewer than ten images.

    Reference:
        ``sklearn.datasets.load_digits``; the images come with the library, nothing is downloaded.

    >>> data = digits()
    >>> data.train_inputs.shape, data.test_inputs.shape, data.num_classes
    ((1347, 64), (450, 64), 10)
    """
    _require_shares(test_size, validation_size)
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    inputs, labels = load_digits(return_X_y=True)
    labels = labels.astype(np.int32)

    def split(name: str, share: float, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
        held = math.ceil(share * len(y))
        if min(held, len(y) - held) < 10:
            raise ValueError(
                f"{name} is {share:g}, which divides {len(y)} images into {len(y) - held} and {held}; give "
                "both parts at least one of each of the 10 digits"
            )
        parts: list[np.ndarray] = train_test_split(
            x, y, test_size=share, stratify=y, random_state=random_state
        )
        return parts

    train_x, test_x, train_y, test_y = split("test_size", test_size, inputs, labels)
    held_x = held_y = None
    if validation_size > 0:
        train_x, held_x, train_y, held_y = split("validation_size", validation_size, train_x, train_y)
    # One scale for all pixels: a pixel that is blank in every image would divide by zero on its own.
    mean, scale = train_x.mean(), train_x.std()

    def standardised(pixels: np.ndarray) -> np.ndarray:
        return ((pixels - mean) / scale).astype(np.float32)

    return Arrays(
        train_inputs=standardised(train_x),
        train_labels=train_y,
        test_inputs=standardised(test_x),
        test_labels=test_y,
        num_classes=10,
        name="digits",
        validation_inputs=None if held_x is None else standardised(held_x),
        validation_labels=held_y,
    )


def pydoc(
    *, context: int = 64, test_size: float = 0.1, validation_size: float = 0.0, random_state: int = 0
) -> Arrays:
    """The texts behind Python's ``help()``, byte by byte: predict each byte from those before it.

    Whole topics are held out, so that no test window continues a training one. The topics of a part are
    joined and cut into windows of ``context`` bytes; the labels of a window are its bytes one place on, so
    that every byte but the first is predicted once (and the last incomplete window is left out).

    Args:
        context: bytes a window, at least 1.
        test_size: share of the bytes in held-out topics, in (0, 1); met from below, to the size of a topic.
        validation_size: share of the bytes that the test half leaves, in topics held out for early stopping,
            in [0, 1); 0 for none.
        random_state: seed of the choice of topics; the test half does not depend on ``validation_size``.

    Returns:
        Inputs and labels ``[n, context]`` int32, 256 classes.

    Raises:
        ValueError: a share outside its range, or parts too short for one window.

    Reference:
        ``pydoc_data.topics``, part of CPython; about 470,000 bytes, and others in every Python version.

    >>> text = pydoc(context=32)
    >>> text.train_inputs.shape[1], text.num_classes
    (32, 256)
    >>> bool((text.train_inputs[:, 1:] == text.train_labels[:, :-1]).all())
    True
    """
    _require_shares(test_size, validation_size)
    if context < 1:
        raise ValueError(f"context must be at least 1 byte, got {context}")
    from pydoc_data.topics import topics

    texts = [f"{name}\n{topics[name]}\n".encode() for name in sorted(topics)]
    order = np.random.default_rng(random_state).permutation(len(texts)).tolist()
    total = sum(map(len, texts))
    test, rest = _held_out(texts, order, test_size * total)
    validation, train = _held_out(texts, rest, validation_size * sum(len(texts[i]) for i in rest))

    def windows(name: str, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        joined = np.frombuffer(b"".join(texts[i] for i in chosen), np.uint8).astype(np.int32)
        count = (len(joined) - 1) // context
        if count < 1:
            raise ValueError(f"{name} holds {len(joined)} bytes, less than a window of context = {context}")
        size = count * context
        return joined[:size].reshape(count, context), joined[1 : size + 1].reshape(count, context)

    train_x, train_y = windows("the training part", train)
    test_x, test_y = windows("the part of test_size", test)
    held = windows("the part of validation_size", validation) if validation_size > 0 else (None, None)
    return Arrays(train_x, train_y, test_x, test_y, 256, "pydoc", *held)


def _held_out(texts: Sequence[bytes], order: Sequence[int], budget: float) -> tuple[list[int], list[int]]:
    """Whole texts, taken in order as long as they fit the budget, and the others."""
    taken: list[int] = []
    left: list[int] = []
    for i in order:
        fits = len(texts[i]) <= budget
        (taken if fits else left).append(i)
        budget -= len(texts[i]) if fits else 0
    return taken, left


def _require_shares(test_size: float, validation_size: float) -> None:
    if not 0.0 < test_size < 1.0:
        raise ValueError(f"test_size must lie in (0, 1), got {test_size}; 0.25 holds out a quarter")
    if not 0.0 <= validation_size < 1.0:
        raise ValueError(f"validation_size must lie in [0, 1), got {validation_size}; 0 holds out nothing")
