"""The training loop on the digits job, beside what a user would write, in one run, as ratios.

The job: the MLP 64-256-256-10 on digits, batch 128, AdamW, power at T = 4, 90 % sparse in two stages. What is
timed, each after one warm-up run of the same programs, in interleaved rounds:

- ``run``: `distill.run`, scans on device.
- ``PyTorch loop``: the same job as a plain eager PyTorch loop, where PyTorch is installed with support for
  the device that JAX uses: the baseline.
- ``jitted loop``: a Python loop over one jitted step, dense: the baseline where it is not.
- ``unmasked run``: `distill.run` where one bias alone could lose weights: ``run``/``unmasked run``
  is what masks cost.
- ``M in sequence``, ``M together``: M seeds one after another, and `distill.run_many`; compiled
  already, and once more with the compilation counted. That of the sequence, which is the same for every M,
  is timed once and before all else: on a GPU, XLA keeps what it tuned for the life of a process.
- ``resume``: loading the last of a run's checkpoints, beyond what the same run costs.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from rich.table import Table

from sparsekd_jax import data, distill, models, sparsity
from sparsekd_jax.bench import torch_loop
from sparsekd_jax.bench._tables import bare_table
from sparsekd_jax.bench.timing import interleave

MEMBERS = (1, 4, 16)
"""Sizes of the ensembles."""


def measure(
    *,
    steps: int = 2500,
    ensemble_steps: int = 1000,
    members: tuple[int, ...] = MEMBERS,
    rounds: int = 5,
    progress: Callable = print,
) -> dict[str, Any]:
    """Time the loop, its masks, ensembles and a resume.

    Args:
        steps: optimizer steps of a run, by default those of the demo's students.
        ensemble_steps: of each member of an ensemble.
        members: sizes of the ensembles, ascending.
        rounds: interleaved rounds.
        progress: called with what is being timed.

    Returns:
        ``{"steps", "rounds", "loops", "ensembles", "resume_s"}``, seconds and ratios.
    """
    digits = data.digits()
    optimizer = optax.adamw(1e-3)
    sparse = distill.stages(sparsity=0.9, num_stages=2, total_steps=steps)
    dense = distill.stages(sparsity=0.0, num_stages=2, total_steps=steps)  # stages cost too: as many
    fewer = distill.stages(sparsity=0.9, num_stages=2, total_steps=ensemble_steps)
    teacher, student = _mlp(100), _mlp(0)
    common: dict[str, Any] = {"optimizer": optimizer, "record_every": steps}
    loops = {
        "jitted loop": _jitted_loop(teacher, digits, optimizer, steps),
        "run": lambda: distill.run(student, teacher, digits, sparse, seed=0, **common),
        "unmasked run": lambda: distill.run(
            student, teacher, digits, dense, seed=0, where=sparsity.by_path("layers.2.bias"), **common
        ),
    }
    logits = np.asarray(teacher(digits.train_inputs))
    rival = torch_loop.loop(digits, logits, steps=steps, sparsity=0.9, learning_rate=1e-3)
    if rival is not None:
        loops["PyTorch loop"] = rival
    short = {**common, "record_every": ensemble_steps}
    students = [_mlp(seed) for seed in range(max(members, default=0))]

    def in_sequence(size: int) -> None:
        for seed in range(size):
            distill.run(students[seed], teacher, digits, fewer, seed=seed, **short)

    def together(size: int) -> None:
        teachers, seeds = [teacher] * size, range(size)
        results = distill.run_many(students[:size], teachers, digits, fewer, seeds=seeds, **short)
        # The parameters of each member are cut out of those of all after the last number is on the host.
        jax.block_until_ready([(result.path, result.rests, result.masks) for result in results])

    compiling = 0.0
    if members:
        progress("the compilation of one run")
        compiling = _compiled_anew(partial(in_sequence, 1)) - _seconds(partial(in_sequence, 1))
    progress("loops")
    times = _interleaved(loops, rounds)
    baseline = "jitted loop" if rival is None else "PyTorch loop"
    rows = [
        {"loop": name, "steps_per_s": round(steps / t), "ratio": round(times[baseline] / t, 2)}
        for name, t in times.items()
    ]
    ensembles = []
    for size in members:
        progress(f"an ensemble of {size}")
        cold = _compiled_anew(partial(together, size))
        warm = _interleaved(
            {"sequence": partial(in_sequence, size), "ensemble": partial(together, size)}, rounds
        )
        ensembles.append(
            {
                "members": size,
                "sequence_s": round(warm["sequence"], 2),
                "ensemble_s": round(warm["ensemble"], 2),
                "ratio": round(warm["sequence"] / warm["ensemble"], 2),
                "ratio_with_compilation": round((warm["sequence"] + compiling) / cold, 2),
            }
        )
    progress("a resume")
    with tempfile.TemporaryDirectory() as folder:
        where: dict[str, Any] = {"checkpoint_dir": Path(folder) / "run"}
        distill.run(student, teacher, digits, sparse, seed=0, **common, **where)
        resumed = median(
            _seconds(
                lambda: distill.run(student, teacher, digits, sparse, seed=0, resume=True, **common, **where)
            )
            for _ in range(rounds)
        )
    return {
        "steps": steps,
        "ensemble_steps": ensemble_steps,
        "rounds": rounds,
        "baseline": baseline,
        "loops": rows,
        "ensembles": ensembles,
        "resume_s": round(resumed, 2),
    }


def table(result: dict[str, Any]) -> Table:
    """The measurements as one table."""
    out = bare_table(
        f"digits, {result['steps']} steps ({result['ensemble_steps']} in ensembles), "
        f"{result['rounds']} interleaved rounds; "
        f"a finished run resumes in {result['resume_s']:.2f} s"
    )
    out.add_column("what")
    out.add_column("speed", justify="right")
    out.add_column("ratio", justify="right")
    for row in result["loops"]:
        out.add_row(
            row["loop"], f"{row['steps_per_s']:,} steps/s", f"{row['ratio']:.2f} × {result['baseline']}"
        )
    for row in result["ensembles"]:
        out.add_row(
            f"{row['members']} together",
            f"{row['ensemble_s']:.2f} s",
            f"{row['ratio']:.2f} × in sequence ({row['ratio_with_compilation']:.2f} with compilation)",
        )
    if result["ensembles"]:
        compiled, anew = (_said(result["ensembles"], key) for key in ("ratio", "ratio_with_compilation"))
        out.add_row("together is faster", compiled, f"with compilation {anew}")
    return out


def faster_from(ensembles: Sequence[dict[str, Any]], key: str = "ratio") -> int | None:
    """The smallest measured ensemble that beats a sequence, as all larger ones do; None if none does.

    >>> rows = [{"members": m, "ratio": r} for m, r in ((1, 1.1), (4, 0.9), (16, 1.3), (64, 2.0))]
    >>> faster_from(rows), faster_from(rows[:2])
    (16, None)
    """
    crossed = None
    for row in reversed(ensembles):
        if row[key] <= 1:
            break
        crossed = row["members"]
    return crossed


def _said(ensembles: Sequence[dict[str, Any]], key: str) -> str:
    size = faster_from(ensembles, key)
    return f"not up to {ensembles[-1]['members']}" if size is None else f"from {size} members on"


def _mlp(seed: int) -> nnx.Module:
    return models.MLP((64, 256, 256, 10), rngs=nnx.Rngs(seed))


def _jitted_loop(
    teacher: nnx.Module, digits: data.Arrays, optimizer: optax.GradientTransformation, steps: int
) -> Callable[[], Any]:
    """One jitted step a batch, from Python: the teacher's logits beforehand, batches by numpy indexing."""
    graphdef, start = nnx.split(_mlp(0), nnx.Param)
    logits = np.asarray(teacher(digits.train_inputs))

    @jax.jit
    def step(params: Any, state: Any, x: Any, z: Any, y: Any) -> Any:
        def loss(params: Any) -> Any:
            log_p = nnx.merge(graphdef, params)(x)
            targets = jax.nn.softmax(z / 4)
            soft = optax.softmax_cross_entropy(log_p / 4, targets).mean()
            hard = optax.softmax_cross_entropy_with_integer_labels(log_p, y).mean()
            return 0.9 * 16 * soft + 0.1 * hard

        gradients = jax.grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    def loop() -> Any:
        draw = np.random.default_rng(0)
        params, state = start, optimizer.init(start)
        for _ in range(steps):
            rows = draw.integers(0, len(logits), 128)
            params, state = step(
                params, state, digits.train_inputs[rows], logits[rows], digits.train_labels[rows]
            )
        return jax.block_until_ready(params)

    return loop


def _compiled_anew(call: Callable[[], Any]) -> float:
    """Seconds of a call that finds nothing compiled, neither in this process nor in a cache on disk."""
    with _without_disk_cache():
        jax.clear_caches()
        return _seconds(call)


@contextlib.contextmanager
def _without_disk_cache() -> Iterator[None]:
    """JAX's persistent compilation cache off: a second benchmark would time how fast a file is read."""
    was_on = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]

    def turn(on: bool) -> None:
        jax.config.update("jax_enable_compilation_cache", on)
        compilation_cache.reset_cache()  # a process asks once whether there is one

    turn(False)
    try:
        yield
    finally:
        turn(was_on)


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    every = list(calls.values())
    interleave(every, 1)  # the warm-up
    times = interleave(every, rounds)
    return {name: median(own) for name, own in zip(calls, times, strict=True)}
