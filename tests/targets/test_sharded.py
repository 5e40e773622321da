"""Targets are pytrees that split by rows: `sharded.py`, in a process with eight devices made of one CPU."""

import os
import subprocess
import sys


def test_on_eight_devices_they_are_what_they_are_on_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-m", "tests.targets.sharded"],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["dense", "top-k", "samples"]
