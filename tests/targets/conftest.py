import shutil

import pytest

from sparsekd_jax.targets import cache
from tests.targets.cached import WHOSE, topk


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache of five shards, the last of them short."""
    folder = tmp_path_factory.mktemp("cache") / "whole"
    cache.write_targets(folder, topk(130), shard_rows=30, **WHOSE)
    return folder


@pytest.fixture
def spoilt(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "spoilt")
