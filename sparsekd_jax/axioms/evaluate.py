"""Running an operator, or any function ``(p, temperature) -> q``, on batches of numpy rows in float64."""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsekd_jax.operators import SofteningOperator
from sparsekd_jax.operators.base import apply_unchecked, operator_name

BATCH = 256
"""Rows a compiled call takes. The batch is padded to it, so that each K is compiled once."""

_HOW_IT_IS_CALLED = (
    "The operator was called with one distribution p [K] and a scalar temperature; wrap one that takes "
    "batches [N, K] in a function of one row."
)


@functools.cache
def _quick_options() -> dict[str, Any]:
    """XLA options for programs that are compiled often and run briefly; those that this jaxlib knows.

    On a CPU, little optimisation and no fusion emitters: half the compile time, nearly the speed.
    """
    wanted: dict[str, Any] = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
    known = {}
    for option, value in wanted.items():
        try:
            jax.jit(lambda: 0, compiler_options={option: value})()
        except jax.errors.JaxRuntimeError:
            continue
        known[option] = value
    return known


@functools.cache
def _compiled_kernel() -> Callable[..., Any]:
    return jax.jit(apply_unchecked, static_argnums=0, compiler_options=_quick_options())


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
        self._compiled: Callable[..., Any] | None = None
        self._argument: SofteningOperator | None = None
        if isinstance(self.operator, SofteningOperator):
            self._argument = self.operator.to_compile(np.float64)
            self._compiled = _compiled_kernel()
        else:
            by_row = jax.vmap(self.operator)
            self._compiled = jax.jit(
                lambda entry, _, p, t: by_row(p, t),
                static_argnums=(0, 1),
                compiler_options=_quick_options(),
            )

    @property
    def has_log(self) -> bool:
        """Whether log-probabilities can be had without underflow."""
        return self._argument is not None

    @property
    def traceable(self) -> bool:
        """Whether jax can compile the operator (known once it was called)."""
        return self._compiled is not None

    @property
    def segments(self) -> int:
        """How many segments the continuity law may follow for each K."""
        return BATCH if self.traceable else 32

    def prepare(self, num_classes: tuple[int, ...], temperature: float) -> None:
        """Compile for every K, two at a time; called at a temperature that the operator allows."""

        def compile_for(k: int) -> None:
            self.soften(np.full((1, k), 1 / k), np.full(1, temperature))

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
        compiled = self._compiled
        if compiled is None:
            return self._row_by_row(x, temperature)
        out = np.empty_like(x)

        def one_batch(start: int) -> None:
            rows = slice(start, min(start + BATCH, len(x)))
            # Padding repeats the first rows: well-posed problems, whatever the operator.
            index = start + np.arange(BATCH) % (rows.stop - start)
            with jax.enable_x64(True):  # a setting of the thread
                q = compiled(entry, self._argument, jnp.asarray(x[index]), jnp.asarray(temperature[index]))
                self._inspect(q, x[index])
                out[rows] = np.asarray(q, np.float64)[: rows.stop - start]

        starts = range(0, len(x), BATCH)
        try:
            # The first alone: a function that cannot be traced is found out before threads start.
            for start in starts[:1]:
                one_batch(start)
            if len(starts) > 1:
                with ThreadPoolExecutor(2) as pool:
                    list(pool.map(one_batch, starts[1:]))
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.NonConcreteBooleanIndexError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
        ):
            return self._row_by_row(x, temperature)
        except jax.errors.UnexpectedTracerError:
            raise self.two_answers() from None
        except Exception as error:
            # A mistake, or what a traced value refuses without saying that it is one, such as to be written
            # into. Rows of numbers tell.
            if not self._takes_rows(x[0], temperature[0]):
                error.add_note(_HOW_IT_IS_CALLED)
                raise
            return self._row_by_row(x, temperature)
        return out

    def _takes_rows(self, row: np.ndarray, temperature: float) -> bool:
        if self._argument is not None:
            return False
        try:
            self._row_by_row(row[None], np.full(1, temperature))
        except Exception:
            return False
        return True

    def answers_alike(self, row: np.ndarray, temperature: float) -> bool:
        """Whether a function that was compiled, its random numbers with it, answers a row alike twice."""
        with jax.enable_x64(True):
            p, t = jnp.asarray(row), jnp.asarray(temperature)
            return np.array_equal(self.operator(p, t), self.operator(p, t), equal_nan=True)

    def see_precision(self, p: np.ndarray, temperature: np.ndarray) -> None:
        """Note an operator that casts to float32: its answers, or all that it tells apart, are such numbers.

        On the grid of 2⁻²⁴ are 0, 1/2 and what is quantised on purpose, and steps tell no neighbours apart
        at all; these prove nothing.
        """
        q = self.soften(p, temperature)
        answers = q[np.isfinite(q)]
        on_grid = answers * 2.0**24 % 1 == 0
        self.single_precision |= bool((answers.astype(np.float32) == answers).all() and not on_grid.all())
        rounded = p.astype(np.float32).astype(np.float64)
        fraction, exponent = np.frexp(p)
        coarser = np.ldexp(np.round(fraction * 2.0**20) / 2.0**20, exponent)
        alike = (rounded != p).any() and np.array_equal(self.soften(rounded, temperature), q, equal_nan=True)
        told_apart = ((self.soften(coarser, temperature) != q) & np.isfinite(q)).any(-1)
        self.single_precision |= bool(alike and told_apart.mean() > 0.5)

    def two_answers(self) -> ValueError:
        """What to say of a function that draws random numbers or remembers."""
        return ValueError(
            f"operator {operator_name(self.operator)} answers the same p and temperature in two ways; it is "
            "a function of these two alone: fix its random key, and keep nothing between calls"
        )

    def _row_by_row(self, p: np.ndarray, temperature: np.ndarray) -> np.ndarray:
        self._compiled = None
        out = np.empty_like(p)
        # What jax code in it is given is float64 too; a row of its own, as numpy code may write into it.
        with np.errstate(all="ignore"), jax.enable_x64(True):
            for i, (row, t) in enumerate(zip(p, temperature, strict=True)):
                try:
                    q = np.asarray(self.operator(row.copy(), float(t)))
                except jax.errors.UnexpectedTracerError:  # kept from when it was traced
                    raise self.two_answers() from None
                except Exception as error:
                    error.add_note(_HOW_IT_IS_CALLED)
                    raise
                self._inspect(q[None] if q.ndim == 1 else q, row[None])
                out[i] = q
        return out

    def _inspect(self, q: Any, p: np.ndarray) -> None:
        if not hasattr(q, "shape"):
            raise TypeError(f"the operator returned a {type(q).__name__}; it must return one array, q [K]")
        if np.shape(q) != p.shape:
            raise TypeError(
                f"the operator returned shape {np.shape(q)[1:]} for p of shape {p.shape[1:]}; it must map "
                "one distribution p [K] and a scalar temperature to one distribution [K]"
            )
        if np.issubdtype(q.dtype, np.complexfloating):
            raise TypeError(
                f"the operator returned {q.dtype}; a distribution is real: return q.real, if q is one"
            )
        self.single_precision |= jnp.result_type(q) != jnp.float64
