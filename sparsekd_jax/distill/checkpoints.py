"""Checkpoints of a run: written whole or not at all, verified before they are believed."""

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sparsekd_jax import _durable
from sparsekd_jax._refusals import whole

FORMAT = 5
_PREFIX = "step-"
_WRITING = ".writing"
_OTHER_RUN = "go on with the settings that made it, or take another checkpoint_dir"
_OTHER_FORMAT = "go on with the version of the library that wrote it, or take another checkpoint_dir"
_MAKE_ROOM = "Make room and resume, or give another checkpoint_dir."
_DAMAGED = "it is damaged, and none before it is whole: start anew in another checkpoint_dir"


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or that must not be resumed; the message says what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Saved:
    """What a checkpoint gives back: the position in the run, and its arrays in the order they were given."""

    position: dict[str, Any]
    arrays: list[Array]


Differs = Callable[[Saved], str | None]
"""What in a checkpoint is not as it is here, in words, or None."""


class CheckpointStore:
    """The checkpoints of one run, in a directory of their own.

    ``DIR/step-00000100/`` holds ``arrays/``, written by Orbax, and ``manifest.json``: the position, the
    identity of the run, and the SHA-256 of every file and of the manifest itself. A checkpoint is assembled
    under another name and renamed when it is complete and on disk, so one that has its name is whole unless
    something altered it later, which the digests show. Of several processes each writes its part, into a
    directory that they share.

    Args:
      folder: the directory; made if missing, probed for writing at once.
      identity: what makes a run this run, in JSON's types; a checkpoint of another identity is refused.
      keep: how many of the newest checkpoints stay.

    Raises:
      CheckpointError: the directory cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = CheckpointStore(folder, {"seed": 0})
    ...     store.save(10, [jnp.arange(3)], {"stage": 1})
    ...     saved = store.load(10)
    >>> saved.position, saved.arrays[0].tolist()
    ({'stage': 1}, [0, 1, 2])
    """

    def __init__(self, folder: str | os.PathLike[str], identity: dict[str, Any], *, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder).absolute(), whole("keep", keep)
        self.identity = json.loads(json.dumps(identity))
        try:
            if jax.process_index() == 0:  # two that probe one directory take each other's file away
                _durable.probe(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"checkpoint_dir {folder} cannot be written ({error.strerror}); choose another directory"
            ) from error

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first."""
        names = [path.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*")]
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, step: int, arrays: Sequence[Array], position: dict[str, Any]) -> None:
        """Write the checkpoint of a step, then drop those beyond the newest ``keep``.

        Raises:
          CheckpointError: the disk refuses; what was there before is untouched.
        """
        if self._path(step).exists():  # the one that this run resumed from
            return
        writing, one_writes = self.folder / _WRITING, jax.process_index() == 0
        try:
            if one_writes:
                shutil.rmtree(writing, ignore_errors=True)  # left by a killed run
                writing.mkdir()
            _wait_for_others(f"step {step} begins")
            _write_arrays(writing / "arrays", arrays)
            if one_writes:
                self._seal(step, arrays, position)
            _wait_for_others(f"step {step} is whole")
        except (OSError, ValueError) as error:
            shutil.rmtree(writing, ignore_errors=True)
            before = self.steps()
            last = f"the last whole one is of step {before[-1]}" if before else "there is none before it"
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); {last}. "
                f"{_MAKE_ROOM}"
            ) from error

    def _seal(self, step: int, arrays: Sequence[Array], position: dict[str, Any]) -> None:
        """Describe what was written, give it its name, and drop what is older than the newest ``keep``."""
        writing = self.folder / _WRITING
        manifest = {
            "format": FORMAT,
            "identity": self.identity,
            "position": position,
            "arrays": [{"shape": list(a.shape), "dtype": a.dtype.name} for a in arrays],
            "made_with": {"jax": jax.__version__, "device": jax.devices()[0].device_kind},
            "files": _digests(writing),
        }
        sealed = {**manifest, "digest": _durable.seal(manifest)}
        _durable.write(writing / "manifest.json", json.dumps(sealed, indent=1))
        writing.rename(self._path(step))
        _durable.sync_directory(self.folder)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    def write_text(self, name: str, text: str) -> None:
        """Replace a small file beside the checkpoints; a reader sees the old one or the new one, whole."""
        if jax.process_index() != 0:
            return
        try:
            _durable.replace(self.folder / name, text)
        except OSError as error:
            raise CheckpointError(
                f"{name} could not be written to {self.folder} ({error}). {_MAKE_ROOM}"
            ) from error

    def resume(self, resume: bool | int, differs: Differs | None = None) -> Saved | None:
        """The checkpoint to go on from: the newest, that of a step, or None to start from the beginning.

        Args:
          resume: as of `run`.
          differs: as of `load`.

        Raises:
          CheckpointError: there are checkpoints and ``resume`` is False; the one asked for is missing,
            damaged, or of another run. The message names what differs and the newest good one.
        """
        steps = self.steps()
        if resume is False:
            if steps:
                raise CheckpointError(
                    f"checkpoint_dir {self.folder} holds a run up to step {steps[-1]}: pass resume=True to "
                    "go on with it, or another directory"
                )
            return None
        if resume is True:
            return self.load(steps[-1], differs) if steps else None
        if resume not in steps:
            raise CheckpointError(
                f"there is no checkpoint of step {resume} in {self.folder}; there are "
                f"{steps or 'none'}: pass one of them, or resume=True for the newest"
            )
        saved = self.load(resume, differs)
        _wait_for_others(f"step {resume} is read")
        if jax.process_index() == 0:
            for later in steps[steps.index(resume) + 1 :]:  # a future that this run does not have
                shutil.rmtree(self._path(later))
        _wait_for_others(f"step {resume} is the last")
        return saved

    def load(self, step: int, differs: Differs | None = None) -> Saved:
        """Read and verify the checkpoint of a step.

        Args:
          step: one of `steps`.
          differs: says what in the arrays shows that they are of another run, or None.

        Raises:
          CheckpointError: damaged, or of another run; names the field and the newest good checkpoint. Or
            whole, and not to be read by the Orbax that is installed.
        """
        if (found := self._fault(step)) is not None:
            fault, remedy = found
            good = next((s for s in reversed(self.steps()) if s != step and self._fault(s) is None), None)
            if good is not None:
                remedy = f"resume={good} goes on from step {good}, which is whole"
            raise CheckpointError(f"{self._named(step)} is refused: {fault}; {remedy}")
        manifest = json.loads((self._path(step) / "manifest.json").read_text())
        try:
            arrays = _read_arrays(self._path(step) / "arrays", manifest["arrays"])
        except Exception as error:  # Orbax passes on what its own libraries raise, of any kind
            raise CheckpointError(
                f"{self._named(step)} is as it was written, but Orbax cannot read it "
                f"({str(error).strip().partition(chr(10))[0]}); resume with the versions that wrote it"
            ) from error
        saved = Saved(manifest["position"], arrays)
        different = differs(saved) if differs is not None else None
        if different is not None:
            raise CheckpointError(f"{self._named(step)} is refused: {different}; {_OTHER_RUN}")
        return saved

    def _named(self, step: int) -> str:
        return f"the checkpoint of step {step} in {self.folder}"

    def _path(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:08d}"

    def _fault(self, step: int) -> tuple[str, str] | None:
        """Why a checkpoint must not be used, and what to do where there is no other; or None."""
        path = self._path(step)
        try:
            manifest = json.loads((path / "manifest.json").read_text())
            files = manifest["files"]
            if manifest["format"] != FORMAT:
                return f"its format is {manifest['format']}, this library reads {FORMAT}", _OTHER_FORMAT
            if manifest.pop("digest") != _durable.seal(manifest):
                return "manifest.json is not as written", _DAMAGED
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"manifest.json is unreadable ({error})", _DAMAGED
        different = _difference(manifest["identity"], self.identity, "")
        if different:
            return different, _OTHER_RUN
        found = _digests(path)
        for name in sorted(files.keys() | found.keys()):
            if files.get(name) != found.get(name):
                what = "missing" if name not in found else "not as written" if name in files else "unknown"
                return f"file {name} is {what}", _DAMAGED
        return None


def _wait_for_others(what: str) -> None:
    """Meet the other processes of this run, if there are any: one of them names and describes."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(what)


def agreed(decision: bool) -> bool:
    """The decision of the first process, for all of them: each has its own clock, and a save is of all."""
    if jax.process_count() == 1:
        return decision
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(decision)))


def _write_arrays(path: Path, arrays: Sequence[Array]) -> None:
    """Each process its part; what all hold is written once."""
    from orbax.checkpoint import v1 as ocp  # type: ignore[import-untyped]

    with _no_pattern(path) as same:
        ocp.save(same, {f"{i:05d}": array for i, array in enumerate(arrays)})


def _read_arrays(path: Path, shapes: list[dict[str, Any]]) -> list[Array]:
    from orbax.checkpoint import v1 as ocp

    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = {
        f"{i:05d}": jax.ShapeDtypeStruct(tuple(a["shape"]), jnp.dtype(a["dtype"]), sharding=here)
        for i, a in enumerate(shapes)
    }
    with _no_pattern(path) as same:
        read = ocp.load(same, abstract)
    return [read[name] for name in sorted(read)]


@contextlib.contextmanager
def _no_pattern(path: Path) -> Iterator[Path]:
    """The path, or where it has brackets, another to the same place: Orbax globs what it is given, and would
    look for the part of each process in ``run[1]`` under ``run1``, find none, and write nothing."""
    if glob.escape(str(path.parent)) == str(path.parent):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoint"
        link.symlink_to(path.parent, target_is_directory=True)
        yield link / path.name


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _difference(saved: Any, here: Any, path: str) -> str | None:
    """The first place where two JSON values differ, in words."""
    if isinstance(saved, dict) and isinstance(here, dict):
        for key in [*here, *(key for key in saved if key not in here)]:
            different = _difference(saved.get(key), here.get(key), f"{path}.{key}" if path else key)
            if different:
                return different
        return None
    if isinstance(saved, list) and isinstance(here, list) and len(saved) == len(here):
        for i, (a, b) in enumerate(zip(saved, here, strict=True)):
            different = _difference(a, b, f"{path}[{i}]")
            if different:
                return different
        return None
    return None if saved == here else f"{path} is {saved!r} there and {here!r} here"
