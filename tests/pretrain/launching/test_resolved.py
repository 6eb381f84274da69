"""What `pretrain` runs and `config` prints: one function resolves both."""

from pretrain.launching.resolved import resolve_run
from tests.data_shards.shard_tools import make_shards


def test_shards_of_ones_own_bring_recipe_and_sizes(tmp_path):
    shards = make_shards(tmp_path / "shards", (30, 20))
    run = resolve_run([f"data.shards={shards}", f"run.dir={tmp_path}/run"])
    assert (run.config.recipe, run.config.demo, run.demo_sets) == ("vision", False, [])
    assert run.fitted and set(run.fitted) < set(run.overrides)
    again = resolve_run(run.overrides)
    assert again.config == run.config and again.launch.world == run.launch.world


def test_the_demo_names_its_shards(tmp_path):
    run = resolve_run([f"run.dir={tmp_path}/run"])
    assert run.demo_sets == ["vision"] and run.config.demo and run.config.data.shards
