"""Rates per step and per sample, peaks of devices, memory."""

from dataclasses import replace

import pytest
import torch

from data_shards.loading.cost import Cost
from pretrain.reporting.speed import Meter, Peak, Work, gpu_peak, memory_gib, peak


def test_meter_averages_over_the_steps_since_the_last_row():
    meter = Meter(Peak(32.0, ""))
    meter.add(Work(seconds=1.0, data_wait=0.0, samples=20, tokens=1000, flops=8e12))
    meter.add(Work(seconds=3.0, data_wait=1.0, samples=60, tokens=9000, flops=24e12))
    first = meter.take()
    assert (first.step_s, first.data_wait) == (2, 0.5)
    assert (first.samples_per_s, first.tokens_per_s, first.tflops, first.mfu) == (20, 2500, 8, 0.25)
    meter.add(Work(seconds=1.0, data_wait=0.25, samples=10, tokens=100, flops=1e12))
    assert (second := meter.take()).step_s == 1 and second.data_wait == 0.25 and second.samples_per_s == 10
    unknown = Meter(Peak(None, ""))
    unknown.add(Work(1.0, 0.0, 1, 1, 1e12))
    assert unknown.take().mfu is None


def test_what_loading_cost_per_sample():
    meter = Meter(Peak(None, ""))
    step = Work(seconds=2.0, data_wait=0.5, samples=20, tokens=1, flops=1.0)
    meter.add(replace(step, cost=Cost(10, 0.01, 0.04, 0.02, 3_000_000, 6, 0)))
    meter.add(replace(step, cost=Cost(30, 0.03, 0.36, 0.02, 5_000_000, 1, 1)))
    rates = meter.take()
    assert (rates.data_wait, rates.data_wait_share) == (0.5, 0.25)
    assert [rates.read_ms, rates.decode_ms, rates.batch_ms] == pytest.approx([1, 10, 1])
    assert (rates.read_mb_per_s, rates.cache_hits) == (2, 7 / 8)
    meter.add(step)
    assert meter.take().cache_hits is None, "all shards are local"


@pytest.mark.parametrize(
    ("name", "precision", "tf32", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", False, 989.4),
        ("NVIDIA H100 PCIe", "fp16", False, 756),
        ("NVIDIA H200", "fp32", True, 494.7),
        ("NVIDIA A100-SXM4-80GB", "fp32", False, 19.5),
        ("NVIDIA A10", "bf16", False, 125),
        ("NVIDIA L40S", "bf16", False, 362),
        ("NVIDIA L4", "bf16", False, 121),
        ("Tesla V100-SXM2-32GB", "fp32", True, 15.7),
        ("NVIDIA GeForce RTX 4090", "bf16", False, 165.2),
    ],
)
def test_peak_of_known_gpus(name, precision, tf32, tflops):
    assert gpu_peak(name, precision, tf32).tflops == tflops


def test_peak_of_an_unknown_gpu_names_the_key():
    unknown = gpu_peak("Some GPU 9", "bf16", False)
    assert unknown.tflops is None and "Some GPU 9" in unknown.source and "log.peak_tflops" in unknown.source


def test_peak_of_a_cpu_is_measured_unless_configured():
    measured = peak(torch.device("cpu"), "fp32", None)
    assert measured.tflops is not None and 1e-4 < measured.tflops < 50 and "measured" in measured.source
    assert peak(torch.device("cpu"), "fp32", 7.0) == Peak(7.0, "log.peak_tflops")


def test_memory_counts_what_was_allocated():
    before = memory_gib(torch.device("cpu"))
    held = torch.ones(2**26)  # 0.25 GiB
    assert held.sum() and memory_gib(torch.device("cpu")) > 0.2
    assert memory_gib(torch.device("cpu")) >= before
