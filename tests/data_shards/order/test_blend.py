import hashlib
import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from data_shards.loading.loader import open_loader
from data_shards.order.blend import BlendedOrder, order_of
from data_shards.order.cursor import make_cursor, split_step
from data_shards.order.plain import Blend, OrderConfig
from data_shards.shards.index import load_index
from tests.data_shards.shard_tools import make_shards, small_config
from tests.own import own

COUNTS = np.array([100, 0, 37, 250, 1, 30])  # items of 137 and 281 samples
LANES = np.arange(6)


def order(epoch="mixture", weights=(2, 3), counts=COUNTS, items=(3, 3)):
    return BlendedOrder(counts, OrderConfig(7, 6, 16, 10, Blend(weights, items, epoch)))


@pytest.mark.parametrize(("epoch", "digest"), [("mixture", "faa8c5ad27d1223b"), ("source", "4386632be6225d25")])
def test_golden_order_of_several(epoch, digest):
    """Guards against a change of numpy's generator, as the golden order of one data set."""
    drawn = np.stack(order(epoch).draw(1, LANES, 3, 200 if epoch == "source" else 55))
    assert hashlib.sha256(drawn.astype("<i8").tobytes()).hexdigest()[:16] == digest


def test_no_step_and_no_lane_is_of_one_item():
    items = order().items_of(0, np.arange(48), 0, 9)
    assert len(np.unique(items[:, :5], axis=0)) > 3, "lanes have orders of their own"
    assert len(np.unique(items.reshape(-1, 5), axis=0)) == 10, "blocks too: all arrangements of 2 and 3"
    assert (items.mean(0) > 0).all() and (items.mean(0) < 1).all()


def test_items_of_one_size_are_permuted_each_in_its_own_way():
    drawn = order(weights=(1, 1), counts=np.array([160, 160]), items=(1, 1)).draw(0, LANES, 0, 50).samples
    first, second = (np.where(drawn < 160, drawn, 160), np.where(drawn >= 160, drawn - 160, 160))
    assert [[s for s in lane if s < 160] for lane in first] != [[s for s in lane if s < 160] for lane in second]


def test_replacements_are_of_the_same_item_window_and_epoch():
    blend = order("source")
    drawn = blend.draw(0, LANES, 0, 400)
    for lane, position in ((0, 0), (3, 77), (5, 149)):
        sample, own = drawn.samples[lane, position], drawn.epochs[lane, position]
        number = int(sample >= 137)
        of_item = (drawn.samples[lane] >= 137) == bool(number)
        line = drawn.samples[lane, of_item & (drawn.epochs[lane] == own)].tolist()
        at = line.index(sample)
        window = line[at // 10 * 10 : at // 10 * 10 + 10]
        instead = list(blend.replacements(0, lane, position))
        assert instead[: len(window) - 1] == window[at % 10 + 1 :] + window[: at % 10]
        assert sample not in instead and len(set(instead)) == len(instead) == blend.items[number].lane_length - 1


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two data sets, of 41 and of 24 images."""
    root = tmp_path_factory.mktemp("blend")
    make_shards(root / "a", (30, 11))
    make_shards(root / "b", (24,), first_seed=500)
    return str(root / "a"), str(root / "b")


def config_of(folders, weights=(3, 1), **keys):
    return small_config(folders, **{"lanes": 4, **keys}, weights=weights)


def test_every_block_of_a_run_holds_the_weights(folders):
    """10 own positions of the first data set in each of 4 lanes: 3 blocks of 3 + 1."""
    loader = open_loader(config_of(folders), 0, 1)
    assert loader.samples == 65 and loader.steps_per_epoch == 6 and loader.epoch_of(5) == 0 and loader.epoch_of(6) == 1
    steps = [np.concatenate([batch.sample_ids for batch in step]) for step in islice(loader.steps(0), 12)]
    for first in range(0, 12, 2):
        block = np.concatenate([step.reshape(4, 2) for step in steps[first : first + 2]], axis=1)
        assert ((block < 41).sum(1) == 3).all()
    epoch = np.concatenate(steps[:6])
    assert len(set(epoch.tolist())) == len(epoch) == 48


def test_of_sources_of_their_own_epochs(folders):
    """The first begins anew after 4 blocks, the second after 6; steps go on."""
    loader = open_loader(config_of(folders, epoch="source"), 0, 1)
    assert loader.steps_per_epoch == 12 and loader._cursor.locate(30) == (2, 60)
    steps = [np.concatenate([batch.sample_ids for batch in step]) for step in islice(loader.steps(0), 12)]
    counts = np.bincount(np.concatenate(steps), minlength=65)
    assert counts[41:].tolist() == [1] * 24 and counts[:41].sum() == 72 and counts[:41].max() == 2


def test_the_state_names_the_keys_of_a_blend(folders):
    loader = open_loader(config_of(folders), 0, 1)
    state = json.loads(json.dumps(loader.state_dict(7)))
    assert open_loader(config_of(folders), 1, 2).load_state_dict(state) == 7
    with pytest.raises(ValueError, match=r"another weights; data\.weights: set it to \[3,1\], or go on from"):
        open_loader(config_of(folders, weights=(2, 1)), 0, 1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data\.epoch: set it to mixture"):
        open_loader(config_of(folders, epoch="source"), 0, 1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"data\.weights: set it to \[3,1\]"):
        open_loader(config_of(folders, weights=None), 0, 1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"name \[1,2\] shards in the items of the list"):
        loader.load_state_dict({**state, "items": [1, 2]})
    alone = open_loader(config_of(folders, weights=None, epoch="source"), 0, 1)
    assert "weights" not in alone.state_dict(3) and alone.load_state_dict(alone.state_dict(3)) == 3


def test_an_item_of_too_few_samples(folders, tmp_path):
    few = make_shards(tmp_path, (5,))
    config = config_of((folders[0], few), lanes=8)
    with pytest.raises(ValueError, match=r"item 2 has 5 samples, fewer than 8, .*: set data\.lanes=4 or less") as error:
        open_loader(config, 0, 1)
    assert "\n" not in str(error.value)
    assert open_loader(replace(config, data=replace(config.data, lanes=4)), 0, 1).steps_per_epoch == 2


def test_order_of_one_data_set_has_no_blend(folders):
    config = config_of(folders, weights=None)
    index = load_index(config.data)
    cursor = make_cursor(own(config), index, split_step(own(config), 0, 1))
    draw = order_of(index.counts, cursor.order).draw(2, np.arange(4), 0, 10)
    assert (draw.epochs == 2).all() and len(np.unique(draw.samples)) == 40
