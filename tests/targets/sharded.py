"""Targets split by rows over eight devices: the same bounds, losses and gradients as on one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from sparsekd_jax import distill, operators, targets

ROWS, V = 16, 40


def main() -> None:
    assert jax.device_count() == 8
    rows = NamedSharding(jax.make_mesh((8,), ("rows",)), PartitionSpec("rows"))
    rng = np.random.default_rng(0)
    log_p = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(ROWS, V)) * 3, jnp.float32))
    student = jnp.asarray(rng.normal(size=(ROWS, V)), jnp.float32)
    power, mixture = operators.get("power"), operators.get("mixture")
    kinds = {
        "dense": (power, targets.Dense(log_p)),
        "top-k": (power, targets.top_k(log_p, 5)),
        "samples": (mixture, targets.sample(jax.random.key(0), mixture, log_p, 1.0, 20)),
    }
    for kind, (operator, target) in kinds.items():

        def loss(student, target, operator=operator):
            softened = targets.soften(operator, target, 2.0)
            each = distill.target_divergence(student, softened, tail="uniform")
            return jnp.sum(each), (each, softened)

        both = jax.jit(jax.value_and_grad(loss, has_aux=True))
        here = both(student, target)
        there = both(*jax.device_put((student, target), rows))
        (_, (each, softened)), slope = there
        for array in (each, softened.log_probs, slope):
            assert len({shard.device for shard in array.addressable_shards}) == 8
            assert array.sharding.shard_shape(array.shape)[0] == ROWS // 8, kind
        # float32: only the sums of XLA's two programs differ in their order.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), here, there)
        print(kind)


if __name__ == "__main__":
    main()
