"""The laws of the operators a study uses, checked in the same run, as plain data for its page."""

from collections.abc import Sequence
from typing import Any

from sparsekd_jax.distill import Operator


def verdict_table(operators: Sequence[Operator], **options: Any) -> dict[str, Any]:
    """Check every operator of a study against the laws, and lay the verdicts out as a table.

    Args:
        operators: softening operators or plain functions.
        **options: passed to `axioms.check`, such as ``laws`` or ``num_classes``.

    Returns:
        ``"laws"``: ``{"id", "title", "formula"}`` a column; ``"rows"``: an operator each,
        ``{"operator", "ok", "summary", "cells": {law id: letter}}``; ``"notes"``:
        ``{"operator", "law", "standing", "margin", "witness"}`` for each law with a violation, on whatever
        domain. All empty without operators.

    >>> from sparsekd_jax import operators
    >>> table = verdict_table([operators.get("mixture")], laws=("A4",), num_classes=(2,))
    >>> table["rows"][0]["cells"], table["notes"]
    ({'A4': 'H'}, [])
    """
    if not operators:
        return {"laws": [], "rows": [], "notes": []}
    from sparsekd_jax import axioms

    reports = [axioms.check(operator, **options) for operator in operators]
    return {
        "laws": [
            {"id": result.law.id, "title": result.law.title, "formula": result.law.formula}
            for result in reports[0]
        ],
        "rows": [
            {
                "operator": report.operator,
                "ok": report.ok,
                "summary": report.summary(),
                "cells": {result.law.id: result.cell for result in report},
            }
            for report in reports
        ],
        "notes": [
            {
                "operator": report.operator,
                "law": result.law.id,
                "standing": result.standing,
                "margin": result.margin,
                "witness": str(result.witness),
            }
            for report in reports
            for result in report
            if result.witness is not None
        ],
    }
