"""``sparsekd distill --teacher-log``: sparse students from a teacher's log alone."""

import json
from pathlib import Path
from typing import Any

from sparsekd_jax.cli._arguments import refuse, terminal


def distil(log: Path, tail: str, k: int, out: Path, chosen: dict[str, Any], *, resume: bool) -> None:
    """Read the log, train a student a seed, and write numbers, plan, history and weights.

    Args:
        log: the file.
        tail: what the loss does with unseen tokens.
        k: entries of a position.
        out: the folder of what is written.
        chosen: fields of `studies.teacher_logs.LogSettings`.
        resume: go on with the students that a killed run left in ``out``.
    """
    from dataclasses import asdict
    from shutil import rmtree

    from flax import nnx

    from sparsekd_jax import distill
    from sparsekd_jax.distill.target_losses import require_tail_policy
    from sparsekd_jax.studies import WORKLOADS, teacher_logs
    from sparsekd_jax.studies.environment import environment

    settings = teacher_logs.LogSettings(**chosen, k=k, tails=(tail,))
    workload = WORKLOADS[settings.data]
    metric = workload.metrics[0]
    arrays = workload.load(0.0)
    try:
        require_tail_policy(tail)
    except ValueError as error:
        refuse("--tail", str(error))
    try:
        plan = settings.plan()
    except ValueError as error:
        words = str(error)
        option = (
            "--operator" if "operator" in words else "--temperature" if "temperature" in words else "--steps"
        )
        refuse(option, words)
    try:
        revealed = teacher_logs.read_log(log, arrays, k)
    except OSError as error:
        refuse("--teacher-log", f"{log} cannot be read ({error.strerror})")
    except ValueError as error:
        refuse("--teacher-log", str(error))
    console = terminal()
    values, history = [], []
    with console.status("") as status:
        for seed in range(settings.seeds):
            status.update(f"seed {seed}: {settings.steps} steps")
            kept = {"checkpoint_dir": out / "checkpoints" / f"seed-{seed}", "resume": resume}
            try:
                result = teacher_logs.student_from(revealed, arrays, settings, seed, tail=tail, **kept)
            except distill.CheckpointError as error:
                refuse("--resume" if resume else "--out", str(error))
            except TypeError as error:
                refuse("--operator", str(error))
            except ValueError as error:
                refuse("--tail", str(error))
            values.append(teacher_logs.score(result, workload))
            history += [{"seed": seed, **row} for row in result.history]
            if seed == 0:
                params = nnx.to_pure_dict(nnx.state(result.student, nnx.Param))
                said = {"operator": settings.operator, "seed": "0", "tail": tail}
                distill.save_safetensors(out / "student.safetensors", params, said)
    interval = asdict(distill.interval(values))
    report = {
        "settings": asdict(settings),
        "metric": metric.key,
        "values": values,
        "interval": interval,
        "environment": environment(),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (out / "plan.json").write_text(plan.to_json() + "\n", encoding="utf-8")
    rows = [json.dumps(row, allow_nan=False) + "\n" for row in history]
    (out / "history.jsonl").write_text("".join(rows), encoding="utf-8")
    rmtree(out / "checkpoints")  # all that they held is written
    seeds = "1 seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    console.print(
        f"{metric.title}: {metric.show_interval(interval)} ({seeds}, {100 * settings.sparsity:g} % zeros)",
        highlight=False,
    )
    console.print(f"Written: {out}", soft_wrap=True)
