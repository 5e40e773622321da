"""Pictures of what the other rooms compute: each function draws into matplotlib axes and returns them.

``ax=None`` opens a figure of pyplot's, which a notebook shows by itself. Colours are Okabe and Ito's, and
markers or dashes say the same again, for readers who see no colour and for print.

>>> import matplotlib; matplotlib.use("Agg")
>>> from sparsekd_jax import operators, plots
>>> plots.softening_field(operators.get("power"), 2.0).get_title()
'power'
"""

from sparsekd_jax.plots.curves import crossover, entropy_curves, reliability_diagram, stage_path
from sparsekd_jax.plots.margins import law_margins
from sparsekd_jax.plots.ternary import softening_field, variance_map

__all__ = [
    "crossover",
    "entropy_curves",
    "law_margins",
    "reliability_diagram",
    "softening_field",
    "stage_path",
    "variance_map",
]
