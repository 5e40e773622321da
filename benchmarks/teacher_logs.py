"""What each tail policy costs: ``python -m benchmarks.teacher_logs [digits|pydoc]``.

Each seed trains a teacher, writes its top k of every training label as a log, and distils the same student
from the log under every policy, and from the full teacher, at equal effort and without hard labels. Writes
benchmarks/teacher_logs_DATA.json and .md.
"""

import json
import sys
import tempfile
from pathlib import Path

from sparsekd_jax.studies import teacher_logs

HERE = Path(__file__).parent
SETTINGS = {
    "digits": teacher_logs.LogSettings(
        data="digits", k=3, sparsity=0.9, seeds=5, steps=1500, teacher_steps=1000, temperature=4.0
    ),
    "pydoc": teacher_logs.LogSettings(steps=200, teacher_steps=400),
}


def main(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = teacher_logs.run(SETTINGS[name], folder, on_progress=lambda label: print(label, flush=True))
    (HERE / f"teacher_logs_{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = teacher_logs.markdown(result)
    (HERE / f"teacher_logs_{name}.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "digits")
