"""Readers for the log-probabilities that served models give."""

from sparsekd_jax.targets.readers.forms import FORMS
from sparsekd_jax.targets.readers.records import LogError, Record
from sparsekd_jax.targets.readers.report import Report
from sparsekd_jax.targets.readers.stream import Batch, inspect, read, read_samples, read_targets
from sparsekd_jax.targets.readers.tokens import Vocabulary

__all__ = [
    "FORMS",
    "Batch",
    "LogError",
    "Record",
    "Report",
    "Vocabulary",
    "inspect",
    "read",
    "read_samples",
    "read_targets",
]
