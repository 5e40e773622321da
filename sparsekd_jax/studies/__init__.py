"""Studies: where operators, laws and training meet, each a question with its evidence and its page."""

from sparsekd_jax.studies.digits import Settings, run, write_report
from sparsekd_jax.studies.verdicts import verdict_table

__all__ = ["Settings", "run", "verdict_table", "write_report"]
