import pytest
import torch

from models.statistics import effective_rank, moments, std_from_moments, token_std


def test_std_of_summed_moments_is_that_of_all_weighted_tokens():
    torch.manual_seed(0)
    x, weight = torch.randn(50, 8) * 3 + 100, (torch.rand(50) > 0.3).float()
    packed = moments(x[:20], weight[:20]) + moments(x[20:], weight[20:])
    expected = (x[weight > 0].double().var(0) + 1e-6).sqrt().mean()
    torch.testing.assert_close(std_from_moments(packed), expected)


def test_known_values():
    weight = torch.ones(20000)
    assert abs(float(std_from_moments(moments(torch.randn(20000, 16), weight))) - 1) < 0.01  # N(0, 1)
    assert abs(float(std_from_moments(moments(torch.full((20000, 16), 7.0), weight))) - 1e-3) < 1e-9


def test_std_over_tokens_where_it_is_far_smaller_than_the_mean():
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(token_std(x), x.double().std(0).mean())
    x = 1000 + 2.0**-10 * x.sign()
    torch.testing.assert_close(token_std(x), x.double().std(0).mean())
    assert token_std(torch.full((9, 4), 0.1)) < 1e-12


@pytest.mark.parametrize("width", [5, 40])
def test_effective_rank_is_the_number_of_directions_that_count(width):
    """Few tokens of many channels, and many tokens of few."""
    directions = torch.eye(width)[:4]
    x = torch.cat([directions, -directions])
    for scale, shift in ((1, 0), (1e-6, 0), (3, 7)):
        assert effective_rank(scale * x + shift).item() == pytest.approx(4, rel=1e-4)
    weighted = torch.tensor([3.0, 1, 0, 0])[:, None] * directions
    expected = (4 / 3) ** 0.75 * 4**0.25  # shares of 3/4 and 1/4
    assert effective_rank(torch.cat([weighted, -weighted])).item() == pytest.approx(expected, rel=1e-4)


def test_effective_rank_of_one_direction_is_one_in_float32():
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(256, 1, generator=generator) * torch.randn(768, generator=generator)
    assert 1 <= effective_rank(line) < 1.01
    assert effective_rank(line + 0.1 * torch.randn(256, 768, generator=generator)) > 20


@pytest.mark.parametrize(("x", "rank"), [(torch.zeros(9, 4), 1), (torch.full((9, 4), 0.1), 1), (torch.eye(2, 4), None)])
def test_effective_rank_where_nothing_varies_and_of_two_tokens(x, rank):
    value = effective_rank(x)
    assert value.isnan() if rank is None else value == rank


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_effective_rank_of_what_is_not_finite_is_nan(bad):
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    x[3, 2] = bad
    assert effective_rank(x).isnan() and token_std(x).isnan()
