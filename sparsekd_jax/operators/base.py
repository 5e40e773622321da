"""What a softening operator is: the protocol, its claims, and the path from a call to a kernel.

A family is a frozen dataclass with one kernel, written for rows already centred in log space; this module
does what all families share, once: validation, dtypes, broadcasting of the temperature, jit, and making a
root that was not found visible.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, ArrayLike, Bool, Float

from sparsekd_jax import simplex
from sparsekd_jax._numerics import at_least_float32, fewest_digits
from sparsekd_jax._refusals import broadcasts_to, is_traced, refuse
from sparsekd_jax.operators._blocks import in_blocks
from sparsekd_jax.operators._parameters import require_parameters
from sparsekd_jax.operators._rows import centred_log, centred_logits

Domain = Literal["simplex", "interior"]


class ConvergenceError(ArithmeticError):
    """A root was not found, so there is no answer; the message names the row."""


@dataclasses.dataclass(frozen=True)
class TemperatureRange:
    """An interval of temperatures, each end open or closed.

    >>> str(TemperatureRange(1.0)), 0.5 in TemperatureRange(1.0), 1.0 in TemperatureRange(1.0)
    ('[1, ∞)', False, True)
    """

    low: float = 0.0
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise ValueError(f"temperature range ({self.low}, {self.high}): needs 0 ≤ low < high")
        if self.low == 0:  # T > 0 always, and an infinite T is a limit, not a temperature
            object.__setattr__(self, "low_open", True)
        if math.isinf(self.high):
            object.__setattr__(self, "high_open", True)

    @classmethod
    def of(cls, bounds: "TemperatureRange | tuple[float, float]") -> "TemperatureRange":
        """A range from a pair ``(low, high)``, closed where finite; a range as it is."""
        if isinstance(bounds, TemperatureRange):
            return bounds
        if not isinstance(bounds, tuple | list) or len(bounds) != 2:
            raise TypeError(f"temperature range is {bounds!r}; give a pair (low, high), such as (1.0, 20.0)")
        low, high = bounds
        return cls(float(low), float(high))

    def __contains__(self, temperature: float) -> bool:
        return bool(self.inside(np.asarray(temperature)))

    def inside(self, temperature: np.ndarray) -> np.ndarray:
        """Elementwise membership; NaN is outside."""
        above = temperature > self.low if self.low_open else temperature >= self.low
        below = temperature < self.high if self.high_open else temperature <= self.high
        return above & below

    def intersect(self, other: "TemperatureRange") -> "TemperatureRange | None":
        """The common part, or None where it has no length."""
        low, high = max(self.low, other.low), min(self.high, other.high)
        if not low < high:
            return None
        return TemperatureRange(
            low,
            high,
            low_open=low not in self or low not in other,
            high_open=high not in self or high not in other,
        )

    def __str__(self) -> str:
        end = "∞" if math.isinf(self.high) else f"{self.high:g}"
        return f"{'(' if self.low_open else '['}{self.low:g}, {end}{')' if self.high_open else ']'}"


@dataclasses.dataclass(frozen=True)
class Claim:
    """That a law holds on a domain, for temperatures in a range, and on what ground.

    ``status`` is "theorem" where theory.md proves it and "sampled" where it is only observed.
    """

    domain: Domain = "simplex"
    temperatures: TemperatureRange = TemperatureRange()
    status: Literal["theorem", "sampled"] = "theorem"


@dataclasses.dataclass(frozen=True)
class Claims:
    """What an operator says of itself: its temperature range and, by law id, the domain of each claim.

    What T → ∞ tends to on a face of the simplex is said by the law that is claimed on all of it: A5h (uniform
    over all classes) or A5f (uniform over the support of p). ``domain`` is where the operator is defined.
    """

    temperatures: TemperatureRange
    laws: Mapping[str, Claim]
    domain: Domain = "simplex"


def claim(
    laws: str, domain: Domain = "simplex", temperatures: TemperatureRange = TemperatureRange()
) -> dict[str, Claim]:
    """The same claim for several laws, their ids separated by spaces."""
    return {law: Claim(domain, temperatures) for law in laws.split()}


_HOTTEST = {"float32": 2.0**100, "float64": 2.0**1000}
"""The highest T that is taken, and 1 over the lowest: beyond, T or log p/T leaves the dtype."""


class SofteningOperator:
    """Base of the operator families: ``F_T : Δ → Δ``, a pure function of ``(p, T)``.

    The three entries take the same distribution in three forms, and each is stable on its own:

    - ``op(p, T)`` from probabilities, near-ties kept to relative accuracy;
    - ``op.log(log_p, T)`` from log-probabilities to log-probabilities, −inf allowed;
    - ``op.from_logits(z, T)`` from unnormalised logits to probabilities.

    p is ``[..., K]``, K ≥ 2; the temperature T > 0 is a scalar or broadcasts to ``p.shape[:-1]``. The output
    has the dtype of the input; bfloat16 and float16 are computed in float32.

    Domain. A row is read as the distribution it represents, ``p / Σp``, which differs from p by rounding
    only: eager calls refuse anything further from a distribution than ``simplex.SUM_TOLERANCE``, negative
    or NaN entries, K < 2 and temperatures outside ``op.claims.temperatures`` or beyond 2^±100 in float32
    (2^±1000 in float64). Inside a transformation values
    cannot be looked at, so nothing is checked there but shapes and dtypes.

    Accuracy, against the exact result for the floating-point input, as ``|Δ log q| ≤ tol·max(1, |log q|)``:
    1e-12 in float64 (1e-10 for the two entropy projections); in float32 ``|Δq| ≤ 2e-6`` for T ≥ 1e-3.
    A coordinate next to a truncation threshold (families that truncate, T < 1) is only as accurate as the
    threshold: its error is absolute, a few ulp before the power 1/(α − 1). ``|Σq − 1|`` is at most 1e-12
    (float64), 1e-5 (float32), 4e-3 (bfloat16).

    Gradients are defined everywhere and never NaN; at an exact zero of p they are those of the face.

    A subclass is a frozen dataclass, and a pytree by being a subclass: its fields are differentiable leaves,
    but for those with ``dataclasses.field(metadata={"static": True})``. It gives ``name``, ``claims`` and
    ``_log_kernel``; it may replace ``_kernel`` (from centred logs), ``_from_logits`` or
    ``_from_probabilities`` where a direct form is better.
    """

    family: ClassVar[str]
    sweeps: ClassVar[bool] = False
    """Whether the kernel goes over a row again and again: a CPU then takes the rows block by block."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Not jax.tree_util.register_dataclass: in jax 0.10.2 the treedefs of two such classes with equal
        # static fields compare equal, and a jit cache then, now and then, runs one operator for another.
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_with_keys(
            cls, _flatten_with_keys, lambda static, leaves: _unflatten(cls, static, leaves)
        )

    def __post_init__(self) -> None:
        require_parameters(self)

    @property
    def name(self) -> str:
        """The family's name with the hyper-parameters that are not its defaults, as `parse` reads it back."""
        fields: tuple[Any, ...] = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        given = [(getattr(self, field.name), field.default) for field in fields]
        shown = [_shown(value) for value, default in given if not _is_default(value, default)]
        return f"{self.family}({', '.join(shown)})" if shown else self.family

    @property
    def claims(self) -> Claims:
        """What the operator claims of itself (needs concrete hyper-parameters)."""
        raise TypeError(f"{type(self).__name__} declares no claims; define the property `claims`")

    # -- the three entries ---------------------------------------------------------------------------

    def __call__(self, p: Float[ArrayLike, "*batch K"], temperature: ArrayLike) -> Float[Array, "*batch K"]:
        """Soften probabilities: ``q = F_T(p)``.

        Args:
            p: ``[..., K]``, rows that sum to 1.
            temperature: T, a scalar or broadcasting to ``[...]``.

        Returns:
            ``[..., K]``, in the dtype of p.

        Raises:
            TypeError: no floating-point array, or no number as the temperature.
            ValueError: no probabilities, a zero where the operator is defined on the interior, a temperature
                out of range or of another shape; the message names the row.
            ConvergenceError: a root was not found.

        >>> from sparsekd_jax import operators
        >>> operators.get("mixture")(jnp.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]), 2.0).round(3).tolist()
        [[0.417, 0.292, 0.292], [0.167, 0.167, 0.667]]
        """
        simplex.require_probabilities(p)
        self._require_domain(p, "p")
        return _apply("probabilities", self, p, temperature)

    def log(self, log_p: Float[ArrayLike, "*batch K"], temperature: ArrayLike) -> Float[Array, "*batch K"]:
        """Soften log-probabilities: ``log q = log F_T(exp log_p)``.

        Args:
            log_p: ``[..., K]`` in nats, rows whose exponentials sum to 1; −inf is a probability of 0.
            temperature: T, a scalar or broadcasting to ``[...]``.

        Returns:
            ``[..., K]`` in nats; −inf where q is 0.

        Raises:
            ValueError: as a call.

        >>> from sparsekd_jax import operators
        >>> operators.get("power").log(jnp.log(jnp.array([0.5, 0.5, 0.0])), 2.0).round(3).tolist()
        [-0.693, -0.693, -inf]
        """
        simplex.require_log_probabilities(log_p)
        self._require_domain(log_p, "log_p")
        return _apply("log", self, log_p, temperature)

    def from_logits(
        self, logits: Float[ArrayLike, "*batch K"], temperature: ArrayLike
    ) -> Float[Array, "*batch K"]:
        """Soften the distribution of logits: ``q = F_T(softmax(z))``.

        Args:
            logits: ``[..., K]``, any real numbers; −inf is a probability of 0.
            temperature: T, a scalar or broadcasting to ``[...]``.

        Returns:
            ``[..., K]``, probabilities.

        Raises:
            ValueError: as a call, but for rows that do not sum to 1, which logits need not; NaN and +inf are
                refused.

        >>> from sparsekd_jax import operators
        >>> operators.get("power").from_logits(jnp.array([2.0, 0.0]), 2.0).round(3).tolist()
        [0.731, 0.269]
        """
        simplex.require_logits(logits)
        self._require_domain(logits, "logits")
        return _apply("logits", self, logits, temperature)

    # -- what a family writes ------------------------------------------------------------------------

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, Array | None]:
        """log q from ``log p − max log p`` [..., K] and T [..., 1]; and whether a root converged [..., 1]."""
        raise TypeError(f"{type(self).__name__} has no kernel; define `_log_kernel`")

    def _kernel(self, centred: Array, temperature: Array) -> tuple[Array, Array | None]:
        log_q, converged = self._log_kernel(centred, temperature)
        return jnp.exp(log_q), converged

    def _from_logits(self, logits: Array, temperature: Array) -> tuple[Array, Array | None]:
        return self._kernel(centred_logits(logits), temperature)

    def _from_probabilities(self, p: Array, temperature: Array) -> tuple[Array, Array | None]:
        return self._kernel(centred_log(p), temperature)

    def to_compile(self, dtype: Any) -> "SofteningOperator":
        """What is compiled for a call in ``dtype``; a family may give a form of fewer branches."""
        return self

    def _require_domain(self, x: ArrayLike, argument: str) -> None:
        """Refuse zeros where the family is defined on the interior only."""
        if is_traced(self, x) or self.claims.domain == "simplex":
            return
        values = np.asarray(x)
        off = np.asarray((values == 0) if argument == "p" else np.isneginf(values))
        refuse(
            np.asarray(off.any(-1)),
            argument,
            lambda i: (
                f"class {int(np.argmax(off[i]))} has probability 0, and {self.name} is defined only where "
                "every class has some: smooth p first, for example with ConvexMixture, or use another family"
            ),
        )

    def _require_temperature(self, temperature: np.ndarray) -> None:
        """What an operator asks of temperatures inside its range; most ask nothing."""

    def replace(self, **changes: Any) -> Self:
        """A copy with other hyper-parameters (they are pytree leaves)."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    # Subclasses are dataclasses with eq=False: an __eq__ made from their fields asks an array for its truth.

    def __eq__(self, other: object) -> bool:
        """Of one class, with equal hyper-parameters: arrays by dtype and values, traced ones by identity."""
        if type(self) is not type(other):
            return NotImplemented
        mine, theirs = jax.tree.leaves(self), jax.tree.leaves(other)
        structures: Any = jax.tree.structure(self), jax.tree.structure(other)
        return structures[0] == structures[1] and all(map(_is_same, mine, theirs))

    def __hash__(self) -> int:
        return hash((type(self), jax.tree.structure(self)))


def _is_number(value: Any) -> bool:
    array = np.ndim(value) == 0 and hasattr(value, "dtype") and not is_traced(value)
    return array or isinstance(value, int | float)


def _is_same(one: Any, other: Any) -> bool:
    if one is other or is_traced(one, other):
        return one is other
    if getattr(one, "dtype", None) != getattr(other, "dtype", None):
        return False
    # A copy of what holds NaN is equal to it; a shape alone, as of jax.eval_shape, is no array.
    arrays = all(hasattr(x, "__array__") for x in (one, other))
    return np.array_equal(one, other, equal_nan=arrays and jnp.issubdtype(one.dtype, jnp.inexact))


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (_is_number(value) and _is_number(default) and float(value) == float(default))


def _shown(value: Any) -> str:
    """A number as `parse` reads it; of anything else its name or kind, which `parse` refuses."""
    if not _is_number(value):
        kind = f"{value.dtype}{list(value.shape)}" if hasattr(value, "dtype") else type(value).__name__
        return str(getattr(value, "__name__", kind))
    return fewest_digits(float(value))


def _field_names(op: type | SofteningOperator, static: bool) -> list[str]:
    fields = dataclasses.fields(op) if dataclasses.is_dataclass(op) else ()
    return [field.name for field in fields if bool(field.metadata.get("static")) is static]


def _flatten_with_keys(op: SofteningOperator) -> tuple[tuple, tuple]:
    leaves = tuple((jax.tree_util.GetAttrKey(name), getattr(op, name)) for name in _field_names(op, False))
    return leaves, tuple(getattr(op, name) for name in _field_names(op, True))


def _unflatten(cls: type[SofteningOperator], static: tuple, leaves: Iterable[Any]) -> SofteningOperator:
    op = object.__new__(cls)  # no __init__: leaves may be tracers, or no arrays at all
    for name, value in zip(_field_names(cls, False), leaves, strict=True):
        object.__setattr__(op, name, value)
    for name, value in zip(_field_names(cls, True), static, strict=True):
        object.__setattr__(op, name, value)
    return op


# -- from a call to a kernel -----------------------------------------------------------------------------


def _apply(entry: str, op: SofteningOperator, x: ArrayLike, temperature: ArrayLike) -> Array:
    x = jnp.asarray(x)
    compute_dtype = at_least_float32(x.dtype)
    t = broadcast_temperature(op, temperature, x.shape[:-1], compute_dtype)
    q, converged = _run(entry, op.to_compile(compute_dtype), x, t)
    if converged is not None:
        checkify.debug_check(converged.all(), "softening: a root was not found")
        if not is_traced(converged) and not bool(converged.all()):
            row = [int(i) for i in np.argwhere(~np.asarray(converged)[..., 0])[0]]
            raise ConvergenceError(
                f"{op.name}: no root found in row {row} at T = {np.asarray(t)[(*row, 0)]:.9g}; the result "
                "would be wrong, so there is none. Is the row extreme (next to uniform, or to a vertex)?"
            )
    return q


def apply_unchecked(entry: str, op: SofteningOperator, x: Array, temperature: Array) -> Array:
    """The bare kernel of an entry for a batch ``[N, K]`` and T ``[N]``, with NaN where a root was not found.

    For code that probes an operator beyond its domain on purpose: nothing is validated, nothing raises, and
    it is for the caller to compile.
    """
    return _compute(entry, op.to_compile(temperature.dtype), x, temperature[:, None])[0]


def broadcast_temperature(
    op: SofteningOperator, temperature: ArrayLike, batch: tuple[int, ...], dtype: Any
) -> Array:
    """T in the compute dtype, ``[*batch, 1]``: Python, numpy and jax scalars then share one trace."""
    if temperature is None or isinstance(temperature, str):
        raise TypeError(f"temperature is {temperature!r}; give a number, or an array of one a row")
    shape = np.shape(temperature)
    if not broadcasts_to(shape, batch):
        raise ValueError(
            f"temperature has shape {shape}, which does not broadcast to the batch shape {batch} of p "
            "(the shape without the class axis). Give a scalar, or one temperature a row."
        )
    if not is_traced(temperature, op):
        values = np.asarray(temperature, np.float64)
        allowed, most = op.claims.temperatures, _HOTTEST[jnp.dtype(dtype).name]
        bad = ~(allowed.inside(values) & (1 / most <= values) & (values <= most))
        if bad.any():
            where = f" (index {tuple(int(i) for i in np.argwhere(bad)[0])})" if bad.ndim else ""
            raise ValueError(
                f"temperature{where} is {values[bad][0]:g}; {op.name} takes T in {allowed}"
                + (", T = 1 changes nothing." if 1.0 in allowed else ".")
                + _limit_remedy(allowed, values[bad][0], most)
            )
        op._require_temperature(values)
    return jnp.broadcast_to(jnp.asarray(temperature).astype(dtype), batch)[..., None]


def _limit_remedy(allowed: TemperatureRange, temperature: float, most: float) -> str:
    if 0 <= temperature < 1 / most and allowed.low == 0:
        return f" Below {1 / most:.2g} take operators.get('argmax'), the limit T → 0."
    return f" Above {most:.2g} use the limit T → ∞." if temperature > most else ""


def _compute(
    entry: str, op: SofteningOperator, x: Array, temperature: Array
) -> tuple[Array, Bool[Array, "*batch 1"] | None]:
    dtype = x.dtype
    x = x.astype(temperature.dtype)
    op = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(temperature.dtype), op)
    # In shard_map each may vary over devices where others do not; loops ask all alike of their carry.
    temperature += sum(jnp.zeros_like(leaf).sum() for leaf in jax.tree.leaves(op))
    x, temperature = x + jnp.zeros_like(temperature), temperature + jnp.zeros_like(x[..., :1])

    def kernel(x: Array, temperature: Array) -> tuple[Array, Array | None]:
        if entry == "probabilities":
            return op._from_probabilities(x, temperature)
        if entry == "logits":
            return op._from_logits(x, temperature)
        return op._log_kernel(centred_logits(x), temperature)

    q, converged = in_blocks(kernel, x, temperature) if op.sweeps else kernel(x, temperature)
    if converged is not None:  # inside jit the only sign that no one can overlook
        q = jnp.where(converged, q, jnp.nan)
    return q.astype(dtype), converged


_run = jax.jit(_compute, static_argnums=0)


Operator = SofteningOperator | Callable[[Array, ArrayLike], Array]
"""A softening operator, or a plain function ``(p, temperature) -> q`` of one row ``[K]`` and its T."""


def operator_name(operator: Operator) -> str:
    """What to call a softening operator or a plain function.

    >>> operator_name(lambda p, temperature: p)
    '<lambda>'
    """
    return str(getattr(operator, "name", None) or getattr(operator, "__name__", type(operator).__name__))


def require_operator(operator: Any) -> None:
    """Refuse what is neither a softening operator nor a function ``(p, temperature) -> q``.

    >>> require_operator("power")
    Traceback (most recent call last):
    TypeError: operator is the text 'power'; pass operators.parse('power')
    """
    if isinstance(operator, str):
        raise TypeError(f"operator is the text {operator!r}; pass operators.parse({operator!r})")
    if isinstance(operator, type):
        name = operator.__name__
        raise TypeError(f"operator is the class {name}; make an operator of it first, such as {name}()")
    if not callable(operator):
        raise TypeError(f"operator is {operator!r}; it is a function (p, temperature) -> q")
