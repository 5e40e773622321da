"""`sparsekd compare`: saved probabilities of any framework, a verdict, and what is refused."""

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsekd_jax.cli import app
from sparsekd_jax.theory import bias_variance


def compare(*arguments):
    wide = {"COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], env=wide)


@pytest.fixture
def files(tmp_path):
    """A dense ensemble that scatters, a sparse one that does not, and labels."""
    draw = np.random.default_rng(0)
    truth = draw.dirichlet(np.ones(3), size=40)
    labels = np.array([draw.choice(3, p=p) for p in truth])
    dense = np.stack([0.5 * truth + 0.5 * draw.dirichlet(np.ones(3), size=40) for _ in range(8)])
    sparse = 0.95 * np.broadcast_to(truth, dense.shape) + 0.05 * draw.dirichlet(np.ones(3), size=(8, 40))
    np.savez(tmp_path / "dense.npz", probs=dense)
    np.save(tmp_path / "sparse.npy", sparse)
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "truth.npy", truth)
    return tmp_path, dense, sparse, labels, truth


def test_the_verdict_is_that_of_the_library(files):
    folder, dense, sparse, labels, truth = files
    paths = [folder / name for name in ("sparse.npy", "dense.npz", "labels.npy")]
    result = compare(*paths)
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(bias_variance.compare(sparse, dense, labels=labels))
    swapped = compare(paths[1], paths[0], paths[2])
    assert swapped.output.strip() == str(bias_variance.compare(dense, sparse, labels=labels))
    assert swapped.output != result.output  # the order is that of the function
    known = compare(*paths[:2], folder / "truth.npy", "--loss", "kl")
    assert known.output.strip() == str(bias_variance.compare(sparse, dense, truth=truth, loss="kl"))
    assert known.output.startswith("sparse wins")


def test_what_cannot_be_compared_is_refused(files, tmp_path):
    folder, dense, *_ = files
    np.savez(tmp_path / "two.npz", a=dense, b=dense)
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "one.npy", dense[:1])
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    archive = (tmp_path / "dense.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(archive[:300])
    (tmp_path / "holed.npz").write_bytes(archive[:300] + bytes(50) + archive[350:])
    (tmp_path / "empty.npy").touch()
    good = [folder / name for name in ("sparse.npy", "dense.npz", "labels.npy")]
    for bad, says in (
        ("none.npy", "cannot be read"),
        ("two.npz", "holds the arrays a, b; give a file with one"),
        ("text.npy", "cannot be read"),
        ("objects.npz", "cannot be read"),
        ("cut.npz", "cannot be read"),
        ("holed.npz", "cannot be read"),
        ("empty.npy", "cannot be read"),
        ("one.npy", "one member, which has no variance"),
    ):
        result = compare(tmp_path / bad, *good[1:])
        assert result.exit_code == 2, bad
        assert says in result.output
    assert compare(*good, "--loss", "hinge").exit_code == 2
