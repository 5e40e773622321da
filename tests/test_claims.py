"""docs/claims.md has each statement of the theory, with functions and tests that exist."""

import importlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

import sparsekd_jax
from sparsekd_jax import theory

ROOT = Path(__file__).parents[1]
PACKAGE = Path(theory.__file__).parents[1]
LINES = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8").splitlines()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in LINES
    if line.startswith("| ") and "`" in line
]


def test_the_table_is_read():
    assert len(ROWS) > 50
    assert {row[2] for row in ROWS} == {"T", "C", "M"}


def test_every_statement_of_the_theory_has_a_row_of_its_kind():
    stated = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    numbered = re.findall(r"^(?:- )?\*\*(\d\.\d+)\*\* \[([TCM])\] ", stated, re.MULTILINE)
    assert len(numbered) == len(re.findall(r"\[[TCM]\](?!\*\*)", stated)), "a mark without a number"
    assert [(row[0], row[2]) for row in ROWS] == numbered


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1][:40])
def test_function_and_tests_exist(row):
    _, _, _, function, *tests, stands = row
    room, name = re.search(r"`(\w+)\.(\w+)`", function).groups()
    assert callable(getattr(getattr(theory if room in theory.__all__ else sparsekd_jax, room), name))
    assert len(tests) == 2, "a test, and the twin or witness beside it"
    for test in tests:
        module, _, case = test.strip("`").partition("::")
        folder = "" if "." in module or module == "test_claims" else "theory."
        assert callable(getattr(importlib.import_module(f"tests.{folder}{module}"), case))
    assert stands


def affine_maps(num_classes, *, equivariant):
    """A basis of the matrices whose columns have one sum, and that commute with permutations."""
    k = num_classes
    identity = np.eye(k)
    conditions = []
    if equivariant:
        for i, j in itertools.pairwise(range(k)):
            swap = identity[np.where(np.arange(k) == i, j, np.where(np.arange(k) == j, i, np.arange(k)))]
            conditions.append(np.kron(swap, identity) - np.kron(identity, swap.T))
    # All columns have one sum: that of each less that of the first is 0.
    conditions.append(np.kron(np.ones((1, k)), identity)[1:] - np.kron(np.ones((1, k)), identity)[:1])
    _, sizes, basis = np.linalg.svd(np.concatenate(conditions))
    rank = int((sizes > 1e-9).sum())
    return basis[rank:].reshape(-1, k, k)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_an_affine_equivariant_ranking_softener_is_a_mixture(num_classes):
    """Statement 2.8: M = a·I + (1 − a)·11ᵀ/K, and ranking leaves a ≥ 0, which is 1/T."""
    identity, uniform = np.eye(num_classes), np.full((num_classes, num_classes), 1 / num_classes)
    found = affine_maps(num_classes, equivariant=True)
    assert len(found) == 2
    span = np.stack([identity.ravel(), uniform.ravel()])
    for matrix in found:
        coordinates, *_ = np.linalg.lstsq(span.T, matrix.ravel(), rcond=None)
        np.testing.assert_allclose(coordinates @ span, matrix.ravel(), atol=1e-12)
    p = np.arange(1.0, num_classes + 1)
    p /= p.sum()
    for a in (0.0, 0.25, 1.0):
        assert (np.diff((a * identity + (1 - a) * uniform) @ p) >= 0).all()
        mixed = sparsekd_jax.operators.ConvexMixture()(p, 1 / max(a, 1e-9))
        np.testing.assert_allclose(mixed, (a * identity + (1 - a) * uniform) @ p, atol=1e-6)


def test_without_one_of_its_three_laws_the_mixture_is_not_alone():
    assert len(affine_maps(3, equivariant=False)) > 2
    p = np.array([0.5, 0.3, 0.2])
    turned = (1 - p) / 2  # affine, equivariant, a = −1/2
    assert (np.diff(turned) > 0).all()
    power = p**0.5 / (p**0.5).sum()  # equivariant and ranking, not affine
    a = (power[0] - power[1]) / (p[0] - p[1])
    assert abs(a * (p[1] - p[2]) - (power[1] - power[2])) > 1e-3


def test_every_section_that_a_docstring_refers_to_is_there():
    headings = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    named = {number for text in sources for number in re.findall(r"theory\.md section (\d)", text)}
    assert named >= {"1", "2", "3", "4", "5", "6", "7"}
    assert [number for number in sorted(named) if f"\n## {number}. " not in headings] == []
