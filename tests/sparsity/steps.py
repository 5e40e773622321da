"""A tree of weights, a jitted step, and a look into the state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def tree(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {"w": jnp.asarray(rng.normal(size=(40, 25)), dtype), "b": jnp.asarray(rng.normal(size=25), dtype)}


def node(state):
    """The SparsifyState inside, found by other means than the room's."""
    leaves = jax.tree.leaves(state, is_leaf=lambda n: hasattr(n, "num_updates"))
    return next(leaf for leaf in leaves if hasattr(leaf, "num_updates"))


def stepper(tx):
    @jax.jit
    def step(gradients, state, params):
        with jax.numpy_dtype_promotion("standard"):  # MultiSteps is not written for strict promotion
            updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return step
