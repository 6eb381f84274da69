from dataclasses import replace
from itertools import islice

import pytest
import torch

from configs.schema_modalities import SpeechConfig, VisionConfig
from data_shards.batch import WITHIN_MESSAGE
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.loading.slots import Slots, slots_of
from tests.data_shards.shard_tools import make_shards, small_config
from tests.own import own


@pytest.mark.parametrize("modality", ["vision", "speech"])
def test_batches_that_are_kept_stay_as_they_came(tmp_path, modality):
    """Enough of them that each piece of the shared memory is used several times."""
    pattern = make_shards(tmp_path, (40,), modality=modality)
    found = []
    for workers in (0, 2):
        config = small_config(pattern, batch=8, micro=8, modality=modality, workers=workers, prefetch=1)
        config = replace(
            config, vision=VisionConfig(image_size=160, patch_size=8), speech=SpeechConfig(max_seconds=2.0)
        )
        loader = ModalityLoader(own(config), 0, 1)
        found.append([step[0].inputs for step in islice(loader.steps(0), 12)])
        loader.close()
    inside, from_workers = found
    assert sum(inputs.nbytes > (WITHIN_MESSAGE if modality == "vision" else 0) for inputs in inside) == 12
    assert all(map(torch.equal, inside, from_workers))
    assert [inputs.stride() for inputs in inside] == [inputs.stride() for inputs in from_workers]
    assert not any(inputs.is_shared() for inputs in from_workers)


def test_each_worker_has_pieces_of_its_own_and_uses_them_in_turn(tmp_path):
    config = replace(small_config(make_shards(tmp_path, (8,)), micro=8), vision=VisionConfig(image_size=224))
    [batch] = next(ModalityLoader(own(config), 0, 1).steps(0))
    slots = Slots(workers=2, prefetch=2, size=batch.inputs.nbytes)
    places = [slots.put(batch, worker).inputs.data_ptr() for worker in (0, 0, 0, 0)]
    other = Slots.put(slots, batch, 1).inputs.data_ptr()
    assert len(set(places)) == 3 and places[3] == places[0] and other not in places
    assert torch.equal(slots.put(batch, 1).inputs, batch.inputs)


def test_the_last_piece_of_an_odd_size_is_whole(tmp_path):
    config = replace(small_config(make_shards(tmp_path, (8,)), micro=8), vision=VisionConfig(image_size=224))
    [batch] = next(ModalityLoader(own(config), 0, 1).steps(0))
    odd = batch.take(torch.arange(3))
    slots = Slots(workers=2, prefetch=1, size=odd.inputs.nbytes + 1)
    assert all(torch.equal(slots.put(odd, 1).inputs, odd.inputs) for _ in range(4))


def test_without_room_in_shared_memory_batches_travel_otherwise(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(
        torch.UntypedStorage, "_new_shared", lambda size: (_ for _ in ()).throw(RuntimeError("no space"))
    )
    config = small_config(make_shards(tmp_path, (8,)), workers=1)
    assert slots_of(own(config)) is None and "no space" in caplog.text


def test_what_does_not_fit_travels_as_it_is(tmp_path):
    config = replace(small_config(make_shards(tmp_path, (8,)), micro=8), vision=VisionConfig(image_size=224))
    [batch] = next(ModalityLoader(own(config), 0, 1).steps(0))
    assert Slots(1, 1, 1000).put(batch, 0) is batch
