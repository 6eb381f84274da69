import pytest
import torch

from models.statistics import effective_rank, moments, sample_share, std_from_moments, token_std


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


def test_share_between_samples_is_what_positions_do_not_explain():
    torch.manual_seed(0)
    positions, content = torch.randn(1, 50, 40), torch.randn(64, 50, 40)
    real = torch.ones(64, 50, dtype=torch.bool)
    assert float(sample_share(content, real)) == pytest.approx(1, abs=0.03)
    assert float(sample_share(positions.expand(64, -1, -1), real)) == pytest.approx(0, abs=1e-9)
    assert float(sample_share(3 * positions + content, real)) == pytest.approx(0.1, abs=0.01)
    assert float(sample_share(5 + 3 * positions + content, real)) == pytest.approx(0.1, abs=0.01)


def test_share_between_samples_is_of_real_tokens_at_positions_of_two_samples():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 5)
    real = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    noisy = torch.where(real[..., None], x, 1e6)
    noisy[0, 3:] = -1e6  # real, but of no other sample
    share = float(sample_share(noisy, real))
    positions = [x[:3, 0], x[:3, 1], x[:2, 2]]
    between = sum(part.double().var(0).sum() * len(part) for part in positions)
    tokens = torch.cat(positions).double()
    assert share == pytest.approx(min(1, float(between / (tokens - tokens.mean(0)).square().sum())))
    assert sample_share(x[:1], real[:1]).isnan() and sample_share(torch.ones(2, 3, 4), real[:2, :3]).isnan()
