"""``python -m sparsekd_jax`` is ``sparsekd``."""

from sparsekd_jax.cli import main

if __name__ == "__main__":
    main()
