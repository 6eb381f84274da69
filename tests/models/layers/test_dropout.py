"""Dropout from sixteen random bits an element."""

import torch

from models.layers.dropout import dropout


def test_it_is_unbiased_and_has_the_rate():
    torch.manual_seed(0)
    ones = dropout(torch.ones(300, 301, requires_grad=True), 0.1)
    assert set(ones.unique().tolist()) == {0.0, torch.tensor(1 / 0.9).item()}
    assert abs(float((ones == 0).float().mean()) - 0.1) < 0.004
