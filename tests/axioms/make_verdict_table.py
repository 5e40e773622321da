"""Compute the verdict table and write the committed copies: ``python -m tests.axioms.make_verdict_table``.

Run it when an operator, a law or a sweep has changed, read the difference, and explain it in the commit. It
writes verdict_table.json beside this file, with the witnesses, and the table in the README.
"""

import json
from pathlib import Path
from typing import Any

from sparsekd_jax.axioms import LAWS, check_table
from sparsekd_jax.axioms import cells as report_cells

COPY = Path(__file__).with_name("verdict_table.json")
README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- verdict table: begin -->", "<!-- verdict table: end -->"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows of the committed copy as a Markdown table."""
    laws = [law for law in LAWS if law in rows[0]]
    lines = ["|operator|" + "|".join(laws) + "|", "|-|" + "-|" * len(laws)]
    lines += [f"|{row['operator']}|" + "|".join(row[law] for law in laws) + "|" for row in rows]
    return "\n".join(lines)


def readme_with(table: str) -> str:
    """The README's text with the table between its markers replaced."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    reports = check_table(progress=print)
    table = {
        "rows": report_cells(reports),
        "witnesses": {
            report.operator: {r.law.id: r.witness.to_dict() for r in report if r.witness is not None}
            for report in reports
        },
    }
    COPY.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(readme_with(markdown(table["rows"])), encoding="utf-8")


if __name__ == "__main__":
    main()
