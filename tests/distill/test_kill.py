"""``kill -9`` at any moment, then resume: the same bits as a run that was left alone."""

import random
import subprocess
import sys
import time

import pytest

from sparsekd_jax.distill.checkpoints import CheckpointStore

TOTAL = 300


def start(folder, out):
    command = [sys.executable, "-m", "tests.distill.killed_run", str(folder), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(folder, out):
    process = start(folder, out)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return out.read_bytes(), [int(step) for step in said.split()]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untouched")
    weights, said = finish(folder / "checkpoints", folder / "weights.safetensors")
    assert said == list(range(10, TOTAL + 1, 10))
    return weights


def kill_and_resume(tmp_path, untouched, kills, seed):
    """Kill a run again and again, each time at a random moment after a random step, and let it end."""
    draw = random.Random(seed)
    folder, out = tmp_path / "checkpoints", tmp_path / "weights.safetensors"
    reached = 0
    for _ in range(kills):
        process = start(folder, out)
        at = draw.randrange(reached + 10, TOTAL - 10, 10) if reached < TOTAL - 20 else TOTAL
        for line in process.stdout:
            if int(line) >= at:
                break
        time.sleep(draw.uniform(0, 0.2))  # anywhere in a scan, or in the writing of a checkpoint
        process.kill()
        process.communicate()
        saved = CheckpointStore(folder, {}).steps()
        if saved:
            reached = saved[-1]
    weights, said = finish(folder, out)
    assert weights == untouched
    assert not said or said[0] > reached  # it went on; it did not begin again


def test_two_kills_change_no_bit(tmp_path, untouched):
    kill_and_resume(tmp_path, untouched, 2, seed=0)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(1, 6))
def test_four_kills_change_no_bit(tmp_path, untouched, seed):
    kill_and_resume(tmp_path, untouched, 4, seed)
