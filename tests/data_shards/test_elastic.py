"""Across order and loading. A run goes on with other ranks and workers, with the samples that it would have had."""

from __future__ import annotations

import json
from itertools import chain

import pytest

from configs.schema import PretrainConfig
from data_shards.loading.loader import open_loader
from data_shards.shards.index import load_index
from tests.data_shards.loading.test_modality_loader import contents, same
from tests.data_shards.shard_tools import flip_byte, make_shards, small_config

WORLDS = (1, 2, 4, 8)
STEPS = 12  # that are compared


@pytest.fixture(scope="module", params=["vision", "speech"])
def folders(request, tmp_path_factory):
    """A modality, and two data sets of it in very uneven shards: 8 lanes of 6 samples, and of 2 and 2."""
    root = tmp_path_factory.mktemp(request.param)
    make_shards(root / "a", (19, 0, 1, 29), modality=request.param)
    make_shards(root / "b", (1, 18), first_seed=900, modality=request.param)
    return request.param, (str(root / "a"), str(root / "b"))


@pytest.fixture(scope="module", params=["plain", "mixture", "source"])
def run(request, folders):
    """A function from (world, workers) to a configuration, and the steps of the run that is never interrupted."""
    modality, shards = folders
    data = {} if request.param == "plain" else {"weights": (2, 1), "epoch": request.param}

    def config_of(world: int, workers: int = 0) -> PretrainConfig:
        return small_config(shards, micro=8 // world, lanes=8, modality=modality, workers=workers, **data)

    return config_of, contents(config_of(1), steps=STEPS)


def go_on(config_of, step: int, before: int, world: int, workers: int, steps: int):
    """Steps from `step` on of `world` ranks, where `before` ranks wrote the checkpoint."""
    state = json.loads(json.dumps(open_loader(config_of(before), before - 1, before).state_dict(step)))
    config = config_of(world, workers)
    assert {open_loader(config, rank, world).load_state_dict(state) for rank in range(world)} == {step}
    return contents(config, world, step, steps)


def kill_points(config_of) -> list[int]:
    """The first step, one in the middle of the epoch, its last, one of the next epoch."""
    last = open_loader(config_of(1), 0, 1).steps_per_epoch - 1
    return [0, last // 2, last, last + 2]


def test_worlds_and_kill_points(run):
    config_of, reference = run
    for step in kill_points(config_of):
        for before, world in zip(WORLDS, WORLDS[1:] + WORLDS[:1], strict=True):
            found = go_on(config_of, step, before, world, 0, steps=2)
            assert same(found, reference[step : step + 2])


@pytest.mark.slow
def test_workers(run):
    """All worlds with 1 and 3 workers for two of the runs, at a kill point each; for the others 2 ranks with 3."""
    config_of, reference = run
    data, points = config_of(1).data, kill_points(config_of)
    whole = (config_of(1).modality, data.weights and data.epoch) in (("vision", None), ("speech", "source"))
    cases = [(world, workers) for workers in (1, 3) for world in WORLDS] if whole else [(2, 3)]
    for i, (world, workers) in enumerate(cases):
        step = points[(i + i // 4) % 4]
        assert same(go_on(config_of, step, 1, world, workers, steps=2), reference[step : step + 2])


def test_fewer_than_a_batch_and_the_lanes_are_left_out(folders):
    modality, shards = folders
    config = small_config(shards, batch=16, lanes=8, modality=modality)
    loader = open_loader(config, 0, 1)
    samples = [sample for step in contents(config, steps=loader.steps_per_epoch) for sample, _ in step]
    assert len(set(samples)) == len(samples) and loader.samples - len(samples) < 16 + 8


def test_a_bad_sample_of_several_data_sets_is_replaced_by_one_of_its_own(tmp_path):
    """The same in any world: the next of its item's window."""
    shards = (make_shards(tmp_path / "a", (30,)), make_shards(tmp_path / "b", (30,), first_seed=900))

    def found(world: int):
        config = small_config(shards, micro=8 // world, lanes=4, weights=(1, 1))
        return contents(config, world, steps=6)

    whole, bad = found(1), 37
    index = load_index(shards)
    flip_byte(tmp_path / "b/train-000000.tar", int(index.rows(1)["offset"][bad - 30]) + 600)
    mended = found(1)
    changed = {
        (old, new)
        for before, after in zip(whole, mended, strict=True)
        for (old, _), (new, _) in zip(before, after, strict=True)
        if old != new
    }
    [(old, new)] = changed
    assert old == bad and new >= 30
    assert all(same(found(world), mended) for world in (2, 4))
    assert bad not in {sample for sample, _ in chain.from_iterable(mended)}
