"""The process that reads ahead: a run goes on without it."""

from data_shards.loading.modality_loader import ModalityLoader
from tests.data_shards.shard_tools import small_config
from tests.own import own


def test_without_its_read_ahead_process_a_run_goes_on(shards):
    loader = ModalityLoader(own(small_config(shards, workers=1)), 0, 1)
    steps = loader.steps(0)
    process = loader._ahead._process
    process.kill()
    process.join()
    assert [len(next(steps)) for _ in range(9)] == [2] * 9
    loader.close()
