"""Studies: where operators, laws and training meet, each a question with its evidence and its page."""

from sparsekd_jax.studies.distillation import run, write_report
from sparsekd_jax.studies.settings import Settings
from sparsekd_jax.studies.verdicts import verdict_table
from sparsekd_jax.studies.workloads import WORKLOADS, Metric, Workload

__all__ = ["WORKLOADS", "Metric", "Settings", "Workload", "run", "verdict_table", "write_report"]
