"""Shards that several files of this folder load."""

from functools import partial

import pytest

from configs.schema_modalities import MODALITIES
from tests.data_shards.shard_tools import make_shards, small_config


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"), (30, 0, 17, 23))


@pytest.fixture(scope="module", params=MODALITIES)
def of_modality(request, tmp_path_factory):
    """A function that makes configurations of one modality, over shards of 70 samples."""
    pattern = make_shards(tmp_path_factory.mktemp(request.param), (30, 0, 17, 23), modality=request.param)
    return partial(small_config, pattern, modality=request.param)
