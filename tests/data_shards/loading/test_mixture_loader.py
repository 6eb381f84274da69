"""The steps of several modalities in turn: their order, their state, and errors by key."""

import json
from dataclasses import replace
from itertools import islice

import pytest
import torch

from configs.schema_modalities import MODALITIES
from data_shards.loading.loader import open_loader
from data_shards.loading.modality_loader import ModalityLoader
from data_shards.order.mixture import mixture_of
from tests.data_shards.shard_tools import make_shards, mixture_config


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return {m: make_shards(tmp_path_factory.mktemp(m), (24,), modality=m) for m in MODALITIES}


def pictures(loader, first, steps):
    found = [[(b.modality, b.inputs, b.masks[:, 0]) for b in step] for step in islice(loader.steps(first), steps)]
    loader.close()
    return found


def same(a, b):
    flat = [[part for step in steps for batch in step for part in batch] for steps in (a, b)]
    return [len(step) for step in a] == [len(step) for step in b] and all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(*flat, strict=True)
    )


def test_a_mixture_is_its_modalities_steps_in_turn(shards):
    config = mixture_config(shards)
    loader = open_loader(config, 0, 1)
    mixed = pictures(loader, 0, 13)
    assert [step[0][0] for step in mixed] == [mixture_of(config).locate(step)[0] for step in range(13)]
    for modality in MODALITIES:
        own = [step for step in mixed if step[0][0] == modality]
        assert same(own, pictures(ModalityLoader(config.for_modality(modality), 0, 1), 0, len(own)))
    assert same(pictures(open_loader(mixture_config(shards, workers=1), 0, 1), 5, 8), mixed[5:])
    assert loader.samples == 72 and loader.outcome.replaced.tolist() == [False] * 8
    assert list(loader.parts) == list(MODALITIES) and loader.parts["vision"].steps_per_epoch == 3
    last = loader.steps_per_epoch - 1
    assert loader.epoch_of(last) == 0 and all(loader.epoch_of(last + later) > 0 for later in range(1, 12))


def test_ranks_have_one_modality_and_as_many_micro_batches(shards):
    ranks = [pictures(open_loader(mixture_config(shards), rank, 2), 0, 12) for rank in range(2)]
    assert [[b[0] for b in step] for step in ranks[0]] == [[b[0] for b in step] for step in ranks[1]]


def test_the_state_of_a_mixture(shards):
    config = mixture_config(shards, lanes=4)
    loader = open_loader(config, 0, 1)
    state = json.loads(json.dumps(loader.state_dict(13)))
    assert open_loader(config, 1, 2).load_state_dict(state) == 13
    assert {name: part["consumed_steps"] for name, part in state["parts"].items()} == mixture_of(config).steps_before(
        13
    )
    weights = replace(config.mixture, text=replace(config.mixture.text, weight=5))
    with pytest.raises(
        ValueError, match=r"another mixture; set modality=\[vision,speech,text\] .*mixture\.text\.weight=1"
    ):
        open_loader(replace(config, mixture=weights), 0, 1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"^vision: .*data\.lanes: set it to 4"):
        open_loader(mixture_config(shards, lanes=8), 0, 1).load_state_dict(state)
    with pytest.raises(ValueError, match="of one modality; set modality to it"):
        open_loader(config, 0, 1).load_state_dict(ModalityLoader(config.for_modality("text"), 0, 1).state_dict(3))
    with pytest.raises(ValueError, match=r"of a mixture; set modality=\[vision,speech,text\]"):
        ModalityLoader(config.for_modality("text"), 0, 1).load_state_dict(state)


def test_modalities_without_shards_are_named(shards):
    without = (
        r"^modality=\[vision,speech,text\] names speech, which has no shards: set mixture\.speech\.shards=PATTERN$"
    )
    with pytest.raises(ValueError, match=without):
        open_loader(mixture_config({**shards, "speech": ""}), 0, 1)
    with pytest.raises(ValueError, match=r"^text: no shards match.*/nowhere"):
        open_loader(mixture_config({**shards, "text": "/nowhere"}), 0, 1)


def test_errors_name_the_keys_that_act_in_a_mixture(shards):
    def with_speech(**keys):
        config = mixture_config(shards)
        return replace(config, mixture=replace(config.mixture, speech=replace(config.mixture.speech, **keys)))

    with pytest.raises(
        ValueError, match=r"^speech: mixture\.speech\.shards has 24 .*lower mixture\.speech\.global, or"
    ):
        open_loader(with_speech(global_=48), 0, 1)
    with pytest.raises(ValueError, match=r"^speech: mixture\.speech\.shards: no usable sample .*no recording"):
        for _ in islice(open_loader(with_speech(shards=shards["vision"]), 0, 1).steps(0), 12):
            pass
