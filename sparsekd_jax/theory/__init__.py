"""The paper's theory as objects that return numbers; every module is usable with no training loop at all."""

from sparsekd_jax.theory import homotopy

__all__ = ["homotopy"]
