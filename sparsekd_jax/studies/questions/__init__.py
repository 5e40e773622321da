"""The paper's five research questions, each answered by checks, witnesses and measurements on digits."""

from sparsekd_jax.studies.questions.answer import Answer, Evidence, Picture, Table

__all__ = ["Answer", "Evidence", "Picture", "Table"]
