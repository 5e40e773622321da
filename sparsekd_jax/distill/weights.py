"""Trained weights on disk, in the safetensors format; a student as a folder of weights and configuration."""

import functools
import inspect
import json
import os
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from flax import nnx
from jaxtyping import PyTree
from safetensors.numpy import load_file, save

from sparsekd_jax import _durable
from sparsekd_jax.distill._program import require_module
from sparsekd_jax.sparsity._trees import named_leaves, path_name

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_OWN = "_sparsekd_jax"  # the key of config.json that is not the caller's


def save_safetensors(
    path: str | os.PathLike[str], params: PyTree, metadata: dict[str, str] | None = None
) -> None:
    """Write parameters as one safetensors file; it appears whole or not at all.

    Args:
        path: where to write.
        params: a pytree of arrays; names are paths such as ``layers.0.kernel``.
        metadata: strings to store beside them.

    Raises:
        TypeError: an array whose dtype the format does not have.
        ValueError: two arrays of one name, as of ``{"a": {"b": x}, "a.b": y}``.

    Reference:
        The safetensors file format; ``safetensors.numpy.load_file`` reads the result back.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors(Path(folder) / "w.safetensors", {"w": np.zeros((2, 3), np.float32)})
    ...     (Path(folder) / "w.safetensors").stat().st_size % 8
    0
    """
    # Not np.ascontiguousarray, which makes [1] of a scalar.
    arrays = {name: np.asarray(leaf, order="C") for name, leaf in _by_name("params", params).items()}
    try:
        contents = save(arrays, metadata)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        dtypes = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise TypeError(f"params cannot be written as safetensors ({error}); they are {dtypes}") from error
    _durable.replace(Path(path), contents)


def save_pretrained(
    student: nnx.Module, directory: str | os.PathLike[str], config: dict[str, Any] | None = None
) -> None:
    """Write a student as a folder that `load_pretrained`, and others who read safetensors, can open.

    ``model.safetensors`` holds every array of the module but its random streams, under names such as
    ``layers.0.kernel``; pruned weights are zeros in it. ``config.json`` holds what built the module.

    Args:
        student: the module, such as ``result.student``.
        directory: made where it is missing; files of those names are replaced, each whole or not at all.
        config: arguments that build the module again, as JSON has them.

    Raises:
        TypeError: no module, a config that JSON does not hold, or an array that safetensors does not.
        ValueError: a config with the key that is written here, or two arrays of one name.

    >>> import tempfile
    >>> from sparsekd_jax import models
    >>> student = models.MLP((3, 2), rngs=nnx.Rngs(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(student, folder, {"sizes": [3, 2]})
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['config.json', 'model.safetensors']
    """
    require_module("student", student)
    given = dict(config or {})
    if _OWN in given:
        raise ValueError(f"config has the key {_OWN!r}, which is written here; leave it out")
    own = {"version": metadata.version("sparsekd_jax"), "module": type(student).__name__}
    try:
        text = json.dumps(given | {_OWN: own}, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"config is no JSON ({error}); give numbers, text, lists and dicts of them"
        ) from error
    if json.loads(text) != given | {_OWN: own}:
        raise TypeError(
            "config changes when it is read from JSON again: give lists for tuples, text for keys"
        )
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(folder / WEIGHTS, _stored(student), {"format": "flax"})
    _durable.replace(folder / CONFIG, text + "\n")


def load_pretrained(directory: str | os.PathLike[str], build: Callable[..., nnx.Module]) -> nnx.Module:
    """Build a module from the configuration that `save_pretrained` wrote, and give it the saved weights.

    Args:
        directory: the folder.
        build: called with the configuration as keyword arguments; what it returns gets the weights.

    Returns:
        The module that ``build`` made, every array of it replaced.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        TypeError: a ``build`` that does not take the configuration, or makes no module.
        ValueError: a file that cannot be read, or weights of another module: the names, shapes and dtypes
            that differ are listed.

    >>> import tempfile
    >>> from sparsekd_jax import models
    >>> student = models.MLP((3, 2), rngs=nnx.Rngs(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_pretrained(student, folder, {"sizes": [3, 2]})
    ...     again = load_pretrained(folder, lambda sizes: models.MLP(sizes, rngs=nnx.Rngs(1)))
    >>> bool((again.layers[0].kernel[...] == student.layers[0].kernel[...]).all())
    True
    """
    folder = Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}; save_pretrained(student, {str(folder)!r}) writes it"
            )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        saved = load_file(folder / WEIGHTS)
    except (ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder}: a file is damaged ({error}); save the student again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} is no JSON object; save the student again")
    config.pop(_OWN, None)
    try:
        # Of an NNX class: the signature of its metaclass takes anything.
        built: Any = functools.partial(build.__init__, None) if isinstance(build, type) else build  # type: ignore[misc]
        inspect.signature(built).bind(**config)
    except TypeError as error:
        raise TypeError(
            f"build does not take what {folder / CONFIG} holds, {', '.join(config) or 'nothing'} ({error}); "
            "pass a function of these, such as lambda width: Net(width, rngs=nnx.Rngs(0))"
        ) from error
    model = build(**config)
    require_module("what build returns", model)
    state = _stored(model)
    wanted = _by_name("what build returns", state)
    differ = [f"{name} is missing" for name in wanted if name not in saved]
    differ += [f"{name} is not of the module" for name in saved if name not in wanted]
    differ += [
        f"{name} is {saved[name].dtype}{saved[name].shape} for {leaf.dtype}{leaf.shape}"
        for name, leaf in wanted.items()
        if name in saved and (saved[name].shape, saved[name].dtype) != (leaf.shape, leaf.dtype)
    ]
    if differ:
        raise ValueError(f"{folder} holds the weights of another module: {'; '.join(differ[:5])}")
    leaves = [jax.numpy.asarray(saved[name]) for name in wanted]
    nnx.update(model, jax.tree.unflatten(jax.tree.structure(state), leaves))
    return model


def _by_name(argument: str, params: PyTree) -> dict[str, Any]:
    """The arrays by name, in the pytree's order; a name that two of them have is refused."""
    counts = Counter(path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0])
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"{argument} has {counts[twice[0]]} arrays of the name {twice[0]}; rename one")
    return named_leaves(params)


def _stored(model: nnx.Module) -> PyTree:
    """Every array of a module but those of its random streams."""
    return nnx.state(model, nnx.Not(nnx.RngState))
