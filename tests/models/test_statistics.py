import torch

from models.statistics import moments, std_from_moments


def test_std_of_summed_moments_is_that_of_all_weighted_tokens():
    torch.manual_seed(0)
    x, weight = torch.randn(50, 8) * 3 + 100, (torch.rand(50) > 0.3).float()
    packed = moments(x[:20], weight[:20]) + moments(x[20:], weight[20:])
    expected = (x[weight > 0].double().var(0) + 1e-6).sqrt().mean()
    torch.testing.assert_close(std_from_moments(packed), expected)


def test_known_values():
    weight = torch.ones(20000)
    assert abs(float(std_from_moments(moments(torch.randn(20000, 16), weight))) - 1) < 0.01  # data2vec.md section 12
    assert abs(float(std_from_moments(moments(torch.full((20000, 16), 7.0), weight))) - 1e-3) < 1e-9
