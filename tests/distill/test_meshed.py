"""Many devices give what one gives: `meshed.py` in one process with eight, `two_processes.py` in two."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest


def start(arguments, devices):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


PARTS = ["data_parallel", "vocabulary_split", "losses_split", "resume_elsewhere"]
PARTS += [pytest.param("teacher_in_every_step", marks=pytest.mark.nightly)]


@pytest.mark.parametrize("part", PARTS)
def test_eight_devices_agree_with_one(part):
    process = start(["tests.distill.meshed", part], 8)
    out, errors = process.communicate(timeout=300)
    assert out.split() == ["agreed"], errors


def two_processes(folder, outs):
    """Both to their ends; whether they came there, and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pair = [
        start(["tests.distill.two_processes", str(i), address, str(folder), str(out)], 2)
        for i, out in enumerate(outs)
    ]
    try:
        errors = [process.communicate(timeout=150)[1] for process in pair]
    except subprocess.TimeoutExpired as error:
        return False, [str(error)]
    finally:
        for process in pair:
            process.kill()
            with process:  # closes its pipes
                pass
    return [process.returncode for process in pair] == [0, 0], errors


def test_two_processes_train_to_the_loss_of_one_and_one_resumes_theirs(tmp_path):
    # Their transport gives a connection half a minute; a machine under load that misses it tries again.
    for attempt in ("first", "second", "third"):
        folder = tmp_path / attempt / "run"
        outs = [tmp_path / f"{attempt}-{i}.json" for i in range(2)]
        done, errors = two_processes(folder, outs)
        if done:
            break
    assert done, errors
    first, second = (json.loads(out.read_text()) for out in outs)
    assert first == second
    from tests.distill import meshed

    whole = meshed.run()
    for row, other in zip(whole.history, first, strict=True):
        assert row["step"] == other["step"]
        np.testing.assert_allclose(other["nll"], row["nll"], rtol=1e-4)
    resumed = meshed.run(checkpoint_dir=folder, checkpoint_every=0.0, keep=9, resume=50)
    meshed.agree(whole, resumed)
