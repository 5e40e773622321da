"""`sparsekd_jax.simplex` against references that share no code with it: mpmath, scipy, brute force.

A reference is always given the very numbers the function saw (after the cast to its dtype), at 50 digits or
more. Where a formula that looks right is wrong, the wrong one is kept beside the test as a *twin*, and the
test shows that it catches it.
"""
