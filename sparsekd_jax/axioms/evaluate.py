"""Running an operator, or any function ``(p, temperature) -> q``, on batches of numpy rows in float64."""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsekd_jax.operators import SofteningOperator
from sparsekd_jax.operators.base import apply_unchecked

BATCH = 256
"""Rows a compiled call takes. The batch is padded to it, so that each K is compiled once."""

# A check compiles each operator for many K and runs it briefly: little optimisation, half the compile time.
_FAST_COMPILE: dict[str, Any] = {"compiler_options": {"xla_backend_optimization_level": 0}}
_compiled_kernel = jax.jit(apply_unchecked, static_argnums=0, **_FAST_COMPILE)


@dataclasses.dataclass
class Evaluator:
    """F as a map from numpy rows to numpy rows, compiled once for each number of classes.

    float64 is a scoped setting here: the process keeps its own. A function that jax cannot trace (numpy code,
    or a Python ``if`` on the temperature) is called row by row.
    """

    operator: Callable[..., Any]

    def __post_init__(self) -> None:
        self.rows_evaluated = 0
        self.single_precision = False
        self._native = isinstance(self.operator, SofteningOperator)
        self._compiled: Callable[..., Any] | None = None
        if self._native:
            self._compiled = _compiled_kernel
        else:
            by_row = jax.vmap(self.operator)
            self._compiled = jax.jit(
                lambda entry, _, p, t: by_row(p, t), static_argnums=(0, 1), **_FAST_COMPILE
            )

    @property
    def has_log(self) -> bool:
        """Whether log-probabilities can be had without underflow."""
        return self._native

    @property
    def traceable(self) -> bool:
        """Whether jax can compile the operator (known once it was called)."""
        return self._compiled is not None

    @property
    def segments(self) -> int:
        """How many segments the continuity law may follow for each K."""
        return BATCH if self.traceable else 32

    def prepare(self, num_classes: tuple[int, ...]) -> None:
        """Compile for every K, two at a time."""

        def compile_for(k: int) -> None:
            self.soften(np.full((1, k), 1 / k), np.full(1, 1.5))

        compile_for(num_classes[0])  # a function that cannot be traced is found out before threads start
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(compile_for, num_classes[1:]))

    def soften(self, p: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        """F_T(p) for rows p ``[N, K]`` and T ``[N]``; NaN where a root was not found."""
        return self._batched("probabilities", p, temperature)

    def log_soften(self, p: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        """log F_T(p), exact where F_T(p) underflows; only where `has_log`."""
        with np.errstate(divide="ignore"):
            return self._batched("log", np.log(p), temperature)

    def _batched(self, entry: str, x: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        self.rows_evaluated += len(x)
        with jax.enable_x64(True):
            if self._compiled is None:
                return self._row_by_row(x, temperature)
            out = np.empty_like(x)
            for start in range(0, len(x), BATCH):
                rows = slice(start, min(start + BATCH, len(x)))
                count = rows.stop - start
                # Padding repeats the first row: a well-posed problem, whatever the operator.
                index = np.arange(BATCH) % count
                block, t = x[rows][index], temperature[rows][index]
                operator = self.operator if self._native else None
                try:
                    q = self._compiled(entry, operator, jnp.asarray(block), jnp.asarray(t))
                except (
                    jax.errors.ConcretizationTypeError,
                    jax.errors.TracerArrayConversionError,
                    jax.errors.TracerIntegerConversionError,
                ):
                    return self._row_by_row(x, temperature)
                self._inspect(q, block)
                out[rows] = np.asarray(q, np.float64)[:count]
            return out

    def _row_by_row(self, p: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        self._compiled = None
        out = np.empty_like(p)
        with np.errstate(all="ignore"):
            for i, (row, t) in enumerate(zip(p, temperature, strict=True)):
                q = np.asarray(self.operator(row, float(t)))
                self._inspect(q[None] if q.ndim == 1 else q, row[None])
                out[i] = q
        return out

    def _inspect(self, q: Any, p: np.ndarray) -> None:
        if np.shape(q) != p.shape:
            raise TypeError(
                f"the operator returned shape {np.shape(q)[1:]} for p of shape {p.shape[1:]}; it must map "
                "one distribution p [K] and a scalar temperature to one distribution [K]"
            )
        self.single_precision |= jnp.result_type(q) != jnp.float64
