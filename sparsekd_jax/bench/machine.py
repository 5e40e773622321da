"""What a timing must say of the machine it was taken on."""

import os
import platform
from importlib import metadata
from typing import Any

import jax


def describe() -> dict[str, Any]:
    """Device, cores, load and versions, in JSON's types."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "sparsekd_jax": metadata.version("sparsekd_jax"),
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same in one line, for the head of a table."""
    load = "" if machine["load_average"] is None else f", load {machine['load_average']:g} at the start"
    return (
        f"{machine['platform']} ({machine['device']}), {machine['cores']} cores{load}; jax {machine['jax']}"
    )
