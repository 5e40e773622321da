"""What the main job can run on: the data, the model, and the numbers that say how good a model is."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from sparsekd_jax import data, models, sparsity


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number of a run, and how a page shows it.

    Attributes:
        key: its name in a run: "accuracy", "nll" or "calibration_error".
        name: what it is called.
        unit: of the number shown, or nothing.
        factor: number shown over number stored.
        decimals: digits after the point.
        higher_is_better: its direction.
    """

    key: str
    name: str
    unit: str
    factor: float
    decimals: int
    higher_is_better: bool

    @property
    def title(self) -> str:
        """Head of a column or axis."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def difference_unit(self) -> str:
        """Unit of a difference: points where the number is a percentage."""
        return "points" if self.unit == "%" else self.unit or self.name

    def show(self, value: float, sign: str = "") -> str:
        """The number as text.

        >>> ACCURACY.show(0.98), BITS.show(0.01, "+")
        ('98.00', '+0.0144')
        """
        return f"{self.factor * value:{sign}.{self.decimals}f}"

    def show_interval(self, interval: Mapping[str, Any], sign: str = "") -> str:
        """Mean and, where there are several seeds, its bounds.

        >>> ACCURACY.show_interval({"mean": 0.5, "low": 0.25, "high": 0.75})
        '50.00 [25.00, 75.00]'
        """
        mean = self.show(interval["mean"], sign)
        if interval["low"] is None:
            return mean
        return f"{mean} [{self.show(interval['low'], sign)}, {self.show(interval['high'], sign)}]"


ACCURACY = Metric("accuracy", "test accuracy", "%", 100.0, 2, True)
NLL = Metric("nll", "NLL", "nats", 1.0, 4, False)
BITS = Metric("nll", "bits per byte", "", 1 / math.log(2), 4, False)
CALIBRATION = Metric("calibration_error", "calibration error", "%", 100.0, 2, False)


@dataclasses.dataclass(frozen=True)
class Workload:
    """Data and model of the main job.

    Attributes:
        name: of ``--data``.
        title: first words of its page.
        load: the data; its argument is the share held out for validation.
        build: a model: its sizes by name, and a seed.
        model_text: what a page calls the model of some sizes, and what it was trained on.
        where: which parameters are pruned.
        metrics: what is shown, the one that decides first.
        defaults: settings that differ from those of `Settings`.
        unit_text: what a page says of the smallest difference, for ``n`` test labels.
        split_text: how the data were split.
    """

    name: str
    title: str
    load: Callable[[float], data.Arrays]
    build: Callable[[Mapping[str, Any], int], nnx.Module]
    model_text: Callable[[Mapping[str, Any]], str]
    where: sparsity.Select
    metrics: tuple[Metric, ...]
    defaults: Mapping[str, Any]
    unit_text: Callable[[int], str]
    split_text: str


def _mlp(sizes: Mapping[str, Any], seed: int) -> nnx.Module:
    return models.MLP((64, *sizes["hidden"], 10), rngs=nnx.Rngs(seed))


def _transformer(sizes: Mapping[str, Any], seed: int) -> nnx.Module:
    return models.Transformer(**sizes, rngs=nnx.Rngs(seed))


def _mlp_text(sizes: Mapping[str, Any]) -> str:
    widths = "-".join(map(str, (64, *sizes["hidden"], 10)))
    return f"A {widths} network trained on handwritten digits"


def _transformer_text(sizes: Mapping[str, Any]) -> str:
    return (
        f"A byte-level Transformer ({sizes['num_layers']} blocks of width {sizes['width']}, context "
        f"{sizes['context']}) trained on the texts behind Python's help()"
    )


TRANSFORMER = {"width": 96, "num_layers": 2, "num_heads": 4, "context": 64}

WORKLOADS = {
    "digits": Workload(
        name="digits",
        title="Digits",
        load=lambda validation: data.digits(validation_size=validation),
        build=_mlp,
        model_text=_mlp_text,
        where=sparsity.is_kernel,
        metrics=(ACCURACY, NLL, CALIBRATION),
        defaults={"data": "digits", "model": {"hidden": [256, 256]}},
        unit_text=lambda count: f"One test image is {100 / count:.2f} points.",
        split_text="test_size 0.25, random_state 0, stratified",
    ),
    "pydoc": Workload(
        name="pydoc",
        title="Python's manual, byte by byte",
        load=lambda validation: data.pydoc(context=TRANSFORMER["context"], validation_size=validation),
        build=_transformer,
        model_text=_transformer_text,
        # Embeddings are looked up, not multiplied: their zeros would save nothing.
        where=sparsity.by_path(include=("blocks.*.kernel", "head.kernel")),
        metrics=(BITS, dataclasses.replace(ACCURACY, name="next byte right"), CALIBRATION),
        defaults={
            "data": "pydoc",
            "model": TRANSFORMER,
            "temperature": 2.0,
            "sparsity": 0.8,
            "steps": 800,
            "teacher_steps": 1500,
            "batch_size": 32,
            "learning_rate": 4e-3,
            "decay": "cosine",
            "teacher_learning_rate": 4e-3,
            "teacher_warmup": 100,
            "weight_decay": 1e-2,
            "record_every": 100,
        },
        unit_text=lambda count: f"The test half has {count:,} bytes, of topics that training never saw.",
        split_text="whole topics held out, test_size 0.1, random_state 0",
    ),
}
"""The workloads by name."""
