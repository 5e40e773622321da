"""What a report says of the library and machine that made it."""

import platform

import jax

import sparsekd_jax


def environment() -> dict[str, str]:
    """Versions and device, for the foot of a page.

    >>> sorted(environment())
    ['device', 'jax', 'python', 'version']
    """
    return {
        "version": sparsekd_jax.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
    }
