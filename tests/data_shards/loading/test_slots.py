import pickle
import subprocess
from dataclasses import replace
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from configs.schema_modalities import SpeechConfig, TextConfig, VisionConfig
from data_shards.batch import WITHIN_MESSAGE
from data_shards.loading import slots
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.loading.slots import Slots, in_shared_memory, slots_of
from tests.data_shards.shard_tools import make_shards, small_config
from tests.namespaces import with_shared_memory
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
    made = Slots(workers=2, prefetch=2, size=batch.inputs.nbytes)
    places = [made.put(batch, worker).inputs.data_ptr() for worker in (0, 0, 0, 0)]
    other = Slots.put(made, batch, 1).inputs.data_ptr()
    assert len(set(places)) == 3 and places[3] == places[0] and other not in places
    assert torch.equal(made.put(batch, 1).inputs, batch.inputs)


def test_the_last_piece_of_an_odd_size_is_whole(tmp_path):
    config = replace(small_config(make_shards(tmp_path, (8,)), micro=8), vision=VisionConfig(image_size=224))
    [batch] = next(ModalityLoader(own(config), 0, 1).steps(0))
    odd = batch.take(torch.arange(3))
    made = Slots(workers=2, prefetch=1, size=odd.inputs.nbytes + 1)
    assert all(torch.equal(made.put(odd, 1).inputs, odd.inputs) for _ in range(4))


@pytest.mark.parametrize(
    ("modality", "more", "need"),
    [
        ("vision", {"vision": VisionConfig(image_size=224)}, 3 * 8 * 3 * 224**2),
        ("speech", {"speech": SpeechConfig(max_seconds=20)}, 3 * 8 * 2 * 320_000),
        ("text", {"text": TextConfig(max_tokens=8192)}, 3 * 8 * 8 * 8192),
    ],
)
def test_too_little_room_is_said_with_the_remedy(tmp_path, monkeypatch, caplog, modality, more, need):
    config = small_config(make_shards(tmp_path, (8,), modality=modality), micro=8, modality=modality, workers=1)
    config = replace(config, **more)
    for free, fits in ((need + 2**23, True), (need + 2**23 - 1, False)):
        caplog.clear()
        monkeypatch.setattr(slots, "shared_memory_room", lambda free=free: free)
        assert (slots_of(own(config)) is not None) == (fits and modality == "vision")
        for name in ("/dev/shm", "--shm-size=1g", "data.workers", "data.prefetch", "batch.micro"):
            assert (name in caplog.text) != fits
    monkeypatch.setenv("LOCAL_RANK", "1")
    caplog.clear()
    slots_of(own(config))
    assert bool(caplog.text) == (modality == "vision"), "images by each rank without room, others once on each node"


def test_a_batch_without_room_in_shared_memory_is_sent_as_bytes(tmp_path, monkeypatch):
    config = replace(small_config(make_shards(tmp_path, (8,)), micro=8), vision=VisionConfig(image_size=224))
    [batch] = next(ModalityLoader(own(config), 0, 1).steps(0))
    monkeypatch.setattr(slots, "shared_memory_room", lambda: 0)
    sent = ForkingPickler.dumps(in_shared_memory(batch))
    assert len(sent) > batch.inputs.nbytes > WITHIN_MESSAGE and torch.equal(pickle.loads(sent).inputs, batch.inputs)
    monkeypatch.undo()
    assert in_shared_memory(batch).inputs.is_shared() and not in_shared_memory(batch).masks.is_shared()


def test_the_bench_ends_where_shared_memory_is_small(tmp_path):
    """The fourth of 3 MB does not fit; it once waited for ever."""
    bench = ["-m", "data_shards", "bench", f"shards={make_shards(tmp_path, (40,))}", "batch=20", "seconds=0.01"]
    done = subprocess.run(with_shared_memory("10m", *bench), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "loader, workers=2" in done.stdout, done.stderr
    assert "/dev/shm has 10 MiB free" in done.stderr and "Traceback" not in done.stderr


def test_a_full_shared_memory_is_named(tmp_path):
    arguments = ["bench", f"shards={make_shards(tmp_path, (4,))}", "seconds=0.01"]
    bench = f"from data_shards.__main__ import main; main({arguments})"
    fill = "open('/dev/shm/all', 'wb').write(bytes(2**20 - 4096)); open('/dev/shm/rest', 'wb').write(bytes(4096))"
    command = with_shared_memory("1m", "-c", f"{fill}; {bench}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    error = "error: no room in /dev/shm for a semaphore: remove what fills it, or give the container more"
    assert done.returncode and error in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_what_does_not_fit_travels_as_it_is(tmp_path):
    config = replace(small_config(make_shards(tmp_path, (8,)), micro=8), vision=VisionConfig(image_size=224))
    [batch] = next(ModalityLoader(own(config), 0, 1).steps(0))
    assert Slots(1, 1, 1000).put(batch, 0) is batch
