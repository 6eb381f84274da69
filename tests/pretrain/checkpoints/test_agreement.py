"""What a resumed run must share with the one that saved."""

import pytest

from pretrain.checkpoints.agreement import check_agreement


def test_another_run_is_refused_by_the_key_that_differs(tmp_path):
    with pytest.raises(ValueError, match="model.width = 32, this run has 64: go on with model.width=32"):
        check_agreement(tmp_path, {"model.width": 32}, {"model.width": 64})
