"""What loading took."""

import pytest

from data_shards.loading.loader import open_loader


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_step_cost(of_modality, workers):
    loader = open_loader(of_modality(batch=8, micro=4, workers=workers), 0, 2)
    next(loader.steps(0))
    samples, *seconds, read, hits, misses = loader.cost
    assert samples == 4 and min(seconds) > 0 and read > 4 * 1024 and (hits, misses) == (0, 0)
    assert 0 <= loader.straggler_share < 1 and (loader.straggler_share == 0 or loader._config.modality != "vision")
    loader.close()
