"""The table of laws: letters as the checker gives them, witnesses where there is a violation."""

from sparsekd_jax import axioms, operators, studies


def test_the_table_is_the_checkers():
    power = operators.get("power")
    options = {"laws": ("A4", "affine"), "num_classes": (2, 3)}
    table = studies.verdict_table([power], **options)
    report = axioms.check(power, **options)
    assert [law["id"] for law in table["laws"]] == ["A4", "affine"]
    assert table["rows"][0]["cells"] == {"A4": report["A4"].cell, "affine": report["affine"].cell}
    assert table["rows"][0]["cells"] == {"A4": "H", "affine": "F"}
    assert table["rows"][0]["ok"]
    (note,) = table["notes"]
    assert (note["law"], note["standing"]) == ("affine", "not claimed")
    assert note["witness"] == str(report["affine"].witness)


def test_no_operator_no_table():
    assert studies.verdict_table([]) == {"laws": [], "rows": [], "notes": []}
