"""Distilling from the log of a teacher alone: what each treatment of the unseen tokens costs."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsekd_jax import data, distill, operators, targets
from sparsekd_jax.distill._teachers import teacher_logits
from sparsekd_jax.studies.distillation import adamw
from sparsekd_jax.studies.settings import Settings
from sparsekd_jax.studies.workloads import WORKLOADS, Workload
from sparsekd_jax.targets import readers

FULL = "full teacher"


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """What is trained from a log. No hard label is used, and the targets alone are softened.

    Attributes:
        data: a name of `WORKLOADS`.
        k: entries of a position.
        operator: name of the softening operator.
        temperature: T.
        tails: tail policies, names of `distill.TAIL_POLICIES`.
        sparsity: final share of zeros.
        num_stages: stages of the student.
        seeds: the teacher, its log and the student of each.
        steps: of a student.
        teacher_steps: of a teacher.
    """

    data: str = "pydoc"
    k: int = 8
    operator: str = "power"
    temperature: float = 2.0
    tails: tuple[str, ...] = ("uniform", "bucket", "bounds", "renormalized-top-k")
    sparsity: float = 0.8
    num_stages: int = 3
    seeds: int = 3
    steps: int = 400
    teacher_steps: int = 800

    def plan(self) -> distill.Plan:
        """The student's plan."""
        return distill.stages(
            operator=operators.parse(self.operator),
            temperature=self.temperature,
            sparsity=self.sparsity,
            num_stages=self.num_stages,
            total_steps=self.steps,
            alpha=0.0,
            soften_student=False,
            decay=Settings.of_data(self.data).decay,
        )


def write_log(path: str | Path, revealed: targets.TopK) -> None:
    """Top-k targets as a log of the completions form, one record a row.

    Args:
        path: the file.
        revealed: batch shape ``[n]``, or ``[n, L]`` of sequences; every entry observed.
    """
    k = revealed.ids.shape[-1]
    rows = [np.asarray(x).reshape(len(x), -1, k).tolist() for x in (revealed.ids, revealed.log_probs)]
    with Path(path).open("w", encoding="utf-8") as file:
        for ids, log_probs in zip(*rows, strict=True):
            tokens = [[f"token_id:{i}" for i in position] for position in ids]
            logprobs = {
                "tokens": [position[0] for position in tokens],
                "token_logprobs": [position[0] for position in log_probs],
                "top_logprobs": [
                    dict(zip(*both, strict=True)) for both in zip(tokens, log_probs, strict=True)
                ],
            }
            file.write(json.dumps({"choices": [{"index": 0, "logprobs": logprobs}]}) + "\n")


def read_log(path: str | Path, arrays: data.Arrays, k: int, **options: Any) -> targets.TopK:
    """The log of a teacher that read the training half in order, as targets of its labels.

    Args:
        path: the file; its positions are the training labels, row by row.
        arrays: the data set; its classes are the ids of the vocabulary.
        k: entries of a position.
        **options: of `targets.readers.read_targets`.

    Raises:
        LogError: a record that cannot be read.
        ValueError: another number of positions than of training labels.
    """
    options = {"vocabulary": arrays.num_classes, **options}
    batches = [batch.targets for batch in readers.read_targets(path, k=k, batch_size=2**14, **options)]
    labels = arrays.train_labels
    found = sum(batch.ids.shape[0] for batch in batches)
    if found != labels.size:
        raise ValueError(
            f"{path} holds {found} positions, and {arrays.name} has {labels.size} training labels: a log "
            "has one position a label, in the order of the training half"
        )
    whole = jax.tree.map(lambda *parts: jnp.concatenate(parts), *batches)
    return jax.tree.map(lambda leaf: leaf.reshape(*labels.shape, *leaf.shape[1:]), whole)


def student_from(
    teacher: Any, arrays: data.Arrays, settings: LogSettings, seed: int, **options: Any
) -> distill.Result:
    """A sparse student from a teacher's log, or from the teacher, starting at random parameters.

    Args:
        teacher: a `TopK` of `read_log`, or what else `distill.run` takes.
        arrays: the data set.
        settings: the student's plan and effort.
        seed: of its parameters and of the order of the data.
        **options: of `distill.run`, such as ``tail``.
    """
    usual = Settings.of_data(settings.data)
    return distill.run(
        usual.workload.build(usual.model, seed),
        teacher,
        arrays,
        settings.plan(),
        optimizer=adamw(usual.learning_rate, usual.weight_decay),
        where=usual.workload.where,
        seed=2 * seed + 1,
        batch_size=usual.batch_size,
        record_every=min(usual.record_every, settings.steps),
        **options,
    )


def run(
    settings: LogSettings, folder: str | Path, *, on_progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Teachers, their logs, and students from each log under every tail policy, against the full teacher.

    Args:
        settings: what to run.
        folder: where the logs are written; made if missing.
        on_progress: called with what is being trained.

    Returns:
        ``{"settings", "metric", "rows"}``; a row has ``tail``, the ``values`` of its seeds in the first
        metric of the workload, their ``mean`` interval, and ``difference``, the paired interval against the
        student of the full teacher.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    say = on_progress or (lambda _: None)
    usual = Settings.of_data(settings.data)
    workload = usual.workload
    arrays = workload.load(0.0)
    values: dict[str, list[float]] = {name: [] for name in (FULL, *settings.tails)}
    for seed in range(settings.seeds):
        say(f"seed {seed}: teacher")
        teacher = distill.fit(
            workload.build(usual.model, 100 + seed),
            arrays,
            steps=settings.teacher_steps,
            optimizer=adamw(
                usual.teacher_learning_rate, usual.weight_decay, usual.teacher_warmup, settings.teacher_steps
            ),
            seed=2 * seed,
            batch_size=usual.batch_size,
            record_every=settings.teacher_steps,
        ).student
        log = Path(folder, f"teacher-{seed}.jsonl")
        logits = teacher_logits(
            teacher, {"inputs": jnp.asarray(arrays.train_inputs), "labels": jnp.asarray(arrays.train_labels)}
        )
        write_log(log, targets.top_k(jax.nn.log_softmax(logits, axis=-1), settings.k))
        revealed = read_log(log, arrays, settings.k)
        for name in values:
            say(f"seed {seed}: {name}")
            options = {} if name == FULL else {"tail": name}
            own = student_from(teacher if name == FULL else revealed, arrays, settings, seed, **options)
            values[name].append(score(own, workload))
    return {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "metric": workload.metrics[0].key,
        "rows": [_row(name, own, values[FULL]) for name, own in values.items()],
    }


def score(result: distill.Result, workload: Workload) -> float:
    """The first metric of a workload, of a student."""
    field = {"accuracy": "accuracy", "nll": "mean_nll"}[workload.metrics[0].key]
    return float(getattr(result.final, field))


def markdown(result: dict[str, Any]) -> str:
    """The table of a run, as the docs show it."""
    settings = result["settings"]
    metric = WORKLOADS[settings["data"]].metrics[0]
    lines = [
        f"| teacher, top {settings['k']} | {metric.title} | minus the full teacher's student |",
        "|---|---|---|",
    ]
    for row in result["rows"]:
        difference = "–" if row["tail"] == FULL else metric.show_interval(row["difference"], "+")
        lines.append(f"| {row['tail']} | {metric.show_interval(row['mean'])} | {difference} |")
    return "\n".join(lines) + "\n"


def _row(name: str, values: Sequence[float], full: Sequence[float]) -> dict[str, Any]:
    return {
        "tail": name,
        "values": list(values),
        "mean": dataclasses.asdict(distill.interval(values)),
        "difference": dataclasses.asdict(distill.paired_difference(values, full)),
    }
