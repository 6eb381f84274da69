"""Which samples and which layers a step keeps."""

import torch

from models.layers.stochastic_depth import kept_samples
from tests.models.test_transformer import CPU


def test_a_branch_that_nobody_keeps_is_run_once_with_factor_zero():
    (path,) = kept_samples(torch.zeros(1, 4, dtype=torch.bool), [0.5], CPU)
    assert path.samples.tolist() == [0] and path.scale == 0
