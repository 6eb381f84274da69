import pytest

from data_shards.order.cursor import make_cursor, split_step
from data_shards.shards.index import load_index
from tests.data_shards.shard_tools import make_shards, small_config
from tests.own import own


def config_of(batch, micro, lanes=None):
    return small_config("", batch, micro, lanes)


def test_a_split_partitions_the_lanes():
    splits = [split_step(own(config_of(24, 2, 12)), rank, 3) for rank in range(3)]
    assert [lane for split in splits for lane in split.rank_lanes] == list(range(12))
    assert {split.per_lane for split in splits} == {2}


def test_lanes_are_chosen_from_the_batch():
    assert split_step(own(config_of(64, 8)), 0, 1).lanes == 64
    assert split_step(own(config_of(2048, 8)), 0, 1).lanes == 512
    assert split_step(own(config_of(1536, 8)), 0, 2).lanes == 768


@pytest.mark.parametrize(
    ("batch", "micro", "lanes", "world", "words"),
    [
        (24, 5, None, 2, ["batch.micro=5", "the 12 samples of a rank", "one of 1, 2, 3, 4, 6, 12"]),
        (24, 4, 5, 1, ["data.lanes=5", "batch.global=24", "one of 1, 2, 3, 4, 6, 8, 12, 24"]),
        (24, 4, 2, 4, ["4 ranks", "data.lanes=2", "data.lanes can be one of 4, 8, 12, 24", "the ranks one of 1, 2"]),
        (24, 4, None, 5, ["5 ranks", "launch.ranks one of 1, 2, 3, 4, 6, 8, 12, 24", "batch.global=25"]),
    ],
)
def test_impossible_splits_list_what_is_legal(batch, micro, lanes, world, words):
    with pytest.raises(ValueError) as error:
        split_step(own(config_of(batch, micro, lanes)), 0, world)
    assert all(word in str(error.value) for word in words)


def cursor_of(tmp_path, **keys):
    config = small_config(make_shards(tmp_path / "shards", (30, 11)), **keys)
    return make_cursor(own(config), load_index(config.data.shards), split_step(own(config), 0, 1))


def test_positions(tmp_path):
    cursor = cursor_of(tmp_path, batch=8, lanes=4)
    assert cursor.steps_per_epoch == 5  # 41 // 4 = 10 positions, 2 a step
    assert cursor.locate(0) == (0, 0)
    assert cursor.locate(4) == (0, 8)
    assert cursor.locate(11) == (2, 2)


def test_state_resumes_and_names_what_differs(tmp_path):
    cursor = cursor_of(tmp_path, batch=8, lanes=4)
    state = cursor.state_dict(11)
    assert (state["epoch"], state["lane_pos"]) == (2, 2)
    assert cursor.load_state_dict(state) == 11
    for key, word in (("lanes", "data.lanes"), ("seed", "train.seed"), ("index", "data.shards"),
                      ("window", "data.window"), ("batch", "batch.global"), ("recipe", "recipe")):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            cursor.load_state_dict({**state, key: "another"})


def test_shards_that_were_appended_are_refused_with_both_remedies(tmp_path):
    state = cursor_of(tmp_path, batch=8, lanes=4).state_dict(11)
    config = small_config(make_shards(tmp_path / "shards", (30, 11, 20)), batch=8, lanes=4)
    more = make_cursor(own(config), load_index(config.data.shards), split_step(own(config), 0, 1))
    remedies = "data.shards: give the shards that the run began with, none more .*new run.dir, with init="
    with pytest.raises(ValueError, match=f"the checkpoint has another index; {remedies}"):
        more.load_state_dict(state)


def test_fewer_samples_than_a_batch(tmp_path):
    with pytest.raises(ValueError, match=r"41 samples, fewer than batch\.global=64"):
        cursor_of(tmp_path, batch=64)
