"""What a resumed run must share with the one that saved."""

import pytest

from pretrain.checkpoints.agreement import agreement, check_agreement
from tests.models.common import tiny_config


def test_another_run_is_refused_by_the_key_that_differs(tmp_path):
    with pytest.raises(ValueError, match="model.width = 32, this run has 64: go on with model.width=32"):
        check_agreement(tmp_path, {"model.width": 32}, {"objective": "v1", "model.width": 64})


def test_a_run_of_the_other_objective_is_refused(tmp_path):
    """A checkpoint that does not name its objective is of a version that knew one."""
    v1, v2 = (agreement(tiny_config(objective=objective)) for objective in ("v1", "v2"))
    check_agreement(tmp_path, v2, v2)
    for saved in (v1, {key: value for key, value in v1.items() if key != "objective"}):
        check_agreement(tmp_path, saved, v1)
        with pytest.raises(ValueError, match="objective = v1, this run has v2: go on with objective=v1"):
            check_agreement(tmp_path, saved, v2)


def test_the_decoders_sizes_are_agreed_on(tmp_path):
    saved, other = agreement(tiny_config(objective="v2")), tiny_config(objective="v2")
    other.decoder.layers = 4
    with pytest.raises(ValueError, match="decoder.layers = 3, this run has 4"):
        check_agreement(tmp_path, saved, agreement(other))
