"""What a timing must say of the machine it was taken on."""

import datetime
import os
import platform
from importlib import metadata
from typing import Any

import jax


def describe() -> dict[str, Any]:
    """Device, cores and versions, in JSON's types."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "sparsekd_jax": metadata.version("sparsekd_jax"),
    }


def moment() -> dict[str, Any]:
    """The day, and how busy the machine is before a part begins."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"date": datetime.date.today().isoformat(), "load_average": load}


def sentence(machine: dict[str, Any]) -> str:
    """The machine in one line, for the head of a table."""
    return f"{machine['platform']} ({machine['device']}), {machine['cores']} cores; jax {machine['jax']}"


def moments(parts: dict[str, dict[str, Any]]) -> str:
    """Day and load of each part, in one line.

    >>> moments({"losses": {"date": "2026-11-27", "load_average": 0.16}})
    'Load at the start: losses 0.16 (2026-11-27).'
    """
    each = [f"{name} {of['load_average']} ({of['date']})" for name, of in parts.items() if "date" in of]
    return f"Load at the start: {', '.join(each)}." if each else ""
