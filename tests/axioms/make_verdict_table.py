"""Compute the verdict table and write the committed copy: ``python -m tests.axioms.make_verdict_table``.

Run it when an operator, a law or a sweep has changed, read the difference, and explain it in the commit.
"""

import json
from pathlib import Path

from sparsekd_jax.axioms import cells, check_table

COPY = Path(__file__).with_name("verdict_table.json")


def main() -> None:
    reports = check_table(progress=print)
    table = {
        "rows": cells(reports),
        "witnesses": {
            report.operator: {r.law.id: r.witness.to_dict() for r in report if r.witness is not None}
            for report in reports
        },
    }
    COPY.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
