"""Distillation: losses with their gradient scale, plans of stages, the loop, metrics with intervals."""

from sparsekd_jax.distill._trainer import DataSet, DivergedError
from sparsekd_jax.distill.checkpoints import CheckpointError
from sparsekd_jax.distill.ensemble import run_ensemble
from sparsekd_jax.distill.loop import Result, evaluate, fit, run
from sparsekd_jax.distill.losses import (
    Operator,
    cross_entropy,
    distillation_loss,
    gradient_scale,
    kl_from_logs,
    soften_log_probs,
    student_divergence,
)
from sparsekd_jax.distill.metrics import Interval, Tally, interval, paired_difference, tally
from sparsekd_jax.distill.stages import Plan, Stage, stages
from sparsekd_jax.distill.weights import save_safetensors

__all__ = [
    "CheckpointError",
    "DataSet",
    "DivergedError",
    "Interval",
    "Operator",
    "Plan",
    "Result",
    "Stage",
    "Tally",
    "cross_entropy",
    "distillation_loss",
    "evaluate",
    "fit",
    "gradient_scale",
    "interval",
    "kl_from_logs",
    "paired_difference",
    "run",
    "run_ensemble",
    "save_safetensors",
    "soften_log_probs",
    "stages",
    "student_divergence",
    "tally",
]
