"""Distillation: losses with their gradient scale, plans of stages, the loop, metrics with intervals."""

from sparsekd_jax.distill._sources import Batches, DataSet
from sparsekd_jax.distill._trainer import DivergedError
from sparsekd_jax.distill.checkpoints import CheckpointError
from sparsekd_jax.distill.divergences import (
    DIVERGENCES,
    Divergence,
    JensenShannon,
    get_divergence,
    kl_from_logs,
    reverse_kl_from_logs,
    total_variation_from_logs,
)
from sparsekd_jax.distill.ensemble import Ensemble, ensemble
from sparsekd_jax.distill.fused import LinearLogits, linear_distillation_loss
from sparsekd_jax.distill.loop import Result, evaluate, fit, run
from sparsekd_jax.distill.losses import (
    Operator,
    WeightedSum,
    cross_entropy,
    distillation_loss,
    gradient_scale,
    soften_log_probs,
    student_divergence,
    weighted_sum,
)
from sparsekd_jax.distill.many import run_many
from sparsekd_jax.distill.metrics import Interval, Tally, interval, paired_difference, tally
from sparsekd_jax.distill.plan import DECAYS, Plan, Stage
from sparsekd_jax.distill.stages import annealed, stages
from sparsekd_jax.distill.target_losses import TAIL_POLICIES, renormalization_error, target_divergence
from sparsekd_jax.distill.weights import load_pretrained, save_pretrained, save_safetensors

__all__ = [
    "DECAYS",
    "DIVERGENCES",
    "TAIL_POLICIES",
    "Batches",
    "CheckpointError",
    "DataSet",
    "DivergedError",
    "Divergence",
    "Ensemble",
    "Interval",
    "JensenShannon",
    "LinearLogits",
    "Operator",
    "Plan",
    "Result",
    "Stage",
    "Tally",
    "WeightedSum",
    "annealed",
    "cross_entropy",
    "distillation_loss",
    "ensemble",
    "evaluate",
    "fit",
    "get_divergence",
    "gradient_scale",
    "interval",
    "kl_from_logs",
    "linear_distillation_loss",
    "load_pretrained",
    "paired_difference",
    "renormalization_error",
    "reverse_kl_from_logs",
    "run",
    "run_many",
    "save_pretrained",
    "save_safetensors",
    "soften_log_probs",
    "stages",
    "student_divergence",
    "tally",
    "target_divergence",
    "total_variation_from_logs",
    "weighted_sum",
]
