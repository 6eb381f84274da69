from collections import Counter

import pytest

from configs.schema_modalities import MODALITIES
from data_shards.order.mixture import Mixture

MIXTURE = Mixture(("vision", "speech", "text"), (3, 2, 1), 7)


ALONE = Mixture(("text",), (1,), 7)


def test_every_block_holds_the_weights_in_an_order_of_its_own():
    steps = [MIXTURE.locate(step)[0] for step in range(600)]
    blocks = [tuple(steps[i : i + 6]) for i in range(0, 600, 6)]
    assert all(Counter(block) == {"vision": 3, "speech": 2, "text": 1} for block in blocks)
    assert len(set(blocks)) > 30  # of 60 orders
    assert steps != [Mixture(MIXTURE.modalities, MIXTURE.weights, 8).locate(step)[0] for step in range(600)]


def test_golden_mixture():
    assert "".join(MIXTURE.locate(step)[0][0] for step in range(24)) == "svvtvssvvtvsvvvsstvsvstv"


def test_counts_need_no_counting():
    seen = Counter({modality: 0 for modality in MODALITIES})
    for step in range(50):
        assert MIXTURE.steps_before(step) == seen
        modality, number = MIXTURE.locate(step)
        assert number == seen[modality] and MIXTURE.step_of(modality, number) == step
        seen[modality] += 1
    assert MIXTURE.locate(6 * 10**12)[1] in {w * 10**12 for w in (1, 2, 3)}


@pytest.mark.parametrize(("every", "end"), [(1, 20), (5, 30), (7, 40), (20, 33), (100, 33)])
def test_a_row_is_written_at_the_last_step_of_each_modality_in_an_interval(every, end):
    written = [step for step in range(1, end + 1) if MIXTURE.is_last_in_interval(step, every, end)]
    expected = []
    for first in range(1, end + 1, every):
        steps = range(first, min(first + every, end + 1))
        expected += {MIXTURE.locate(step - 1)[0]: step for step in steps}.values()
    assert written == sorted(expected)
    alone = [step for step in range(1, end + 1) if ALONE.is_last_in_interval(step, every, end)]
    assert alone == [step for step in range(1, end + 1) if step % every == 0 or step == end]
