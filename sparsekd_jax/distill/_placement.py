"""Where the arrays of a run live: on one device, or over a mesh whose data axis splits every batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

DATA_AXIS = "data"


class Placement:
    """Puts arrays on a mesh, or leaves them where they are.

    Args:
        mesh: devices, or None for jax's default one. Its axis "data", or else its first, splits batches.
        batch_size: examples a step, in equal parts over that axis.

    Raises:
        TypeError: something that is no mesh.
        ValueError: a batch that does not divide.
    """

    def __init__(self, mesh: Mesh | None, batch_size: int) -> None:
        self.mesh = mesh
        if mesh is None:
            return
        if not isinstance(mesh, Mesh):
            raise TypeError(
                f"mesh is {mesh!r}; pass a mesh, such as jax.make_mesh((jax.device_count(),), ('data',))"
            )
        # jax.make_mesh makes explicit axes, under which a gather of sharded rows is refused: here XLA places.
        self.mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
        self.axis = DATA_AXIS if DATA_AXIS in mesh.axis_names else mesh.axis_names[0]
        parts = mesh.shape[self.axis]
        if batch_size % parts:
            raise ValueError(
                f"batch_size {batch_size} does not divide over the {parts} devices of mesh axis "
                f"{self.axis!r}: take a multiple of {parts}"
            )

    def everywhere(self, tree: PyTree) -> PyTree:
        """A copy of every array on every device; one that is on this mesh already stays as it is split."""
        if self.mesh is None:
            return tree
        return jax.tree.map(functools.partial(_copied, self.mesh), tree)

    def like(self, array: Array, template: Any) -> Array:
        """A restored array, split as its template is, whatever devices the checkpoint came from."""
        if self.mesh is None:
            return array
        sharding = getattr(template, "sharding", None) or NamedSharding(self.mesh, PartitionSpec())
        # Several processes agree on values, not on each other's devices.
        return jax.device_put(np.asarray(array) if jax.process_count() > 1 else array, sharding)

    def rows(self, index: Int[Array, "steps batch"]) -> Int[Array, "steps batch"]:
        """Rows of batches, each device its own part of every batch."""
        if self.mesh is None:
            return index
        return jax.device_put(index, NamedSharding(self.mesh, PartitionSpec(None, self.axis)))


def on_host(array: Any) -> np.ndarray:
    """The whole of an array, also of one that other processes hold parts of; of a random key its words."""
    array = jnp.asarray(array)  # a variable may hold numpy's, or a number
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _copied(mesh: Mesh, leaf: Any) -> Any:
    sharding = getattr(leaf, "sharding", None)
    spec = PartitionSpec()
    if isinstance(sharding, NamedSharding) and _same_devices(sharding.mesh, mesh):
        spec = sharding.spec
    return jax.device_put(leaf, NamedSharding(mesh, spec))


def _same_devices(one: Mesh | AbstractMesh, other: Mesh) -> bool:
    return (
        isinstance(one, Mesh)
        and one.axis_names == other.axis_names
        and (one.devices.shape == other.devices.shape and bool((one.devices == other.devices).all()))
    )
