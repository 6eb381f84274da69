"""Reading checkpoints without DeepSpeed."""

import pytest

from pretrain.checkpoints.reading import load_weights, read_state
from tests.pretrain.checkpoints.test_manifest import make


def test_a_checkpoint_of_an_older_version_is_refused_by_its_format(tmp_path):
    with pytest.raises(ValueError, match="has format 1, this version reads 2: go on with the version that wrote it"):
        read_state(make(tmp_path, 10))


def test_a_run_without_a_checkpoint_is_an_error_that_names_it(tmp_path):
    with pytest.raises(ValueError, match=f"run={tmp_path} has no complete checkpoint"):
        load_weights(tmp_path, "teacher")
