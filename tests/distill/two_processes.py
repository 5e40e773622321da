"""One of two processes that train the digits job together. Usage: PROCESS ADDRESS FOLDER OUT."""

import json
import sys
import types
from pathlib import Path

import jax

from sparsekd_jax.distill import _trainer
from tests.distill import meshed


def main(process: int, address: str, folder: str, out: str) -> None:
    jax.distributed.initialize(address, num_processes=2, process_id=process)
    assert jax.process_count() == 2
    assert jax.device_count() == 4
    mesh = jax.make_mesh((4,), ("data",))
    if process == 1:  # its clock stands still: when to save is the first one's decision
        _trainer.time = types.SimpleNamespace(monotonic=lambda: 0.0)
    kept = {"checkpoint_dir": folder, "checkpoint_every": 1e-9, "keep": 9}
    result = meshed.run(mesh, **kept)
    again = meshed.run(mesh, **kept, resume=50)
    assert again.history == result.history
    Path(out).write_text(json.dumps(result.history))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
