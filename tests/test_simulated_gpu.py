"""The simulated GPU tells devices apart and works in half precision under autocast."""

import pytest
import torch
from torch import nn

from tests.simulated_gpu import (
    GPU,
    GpuTensor,
    gpu_autocast,
    needs_simulated_gpu,
    simulated_gpu,
)

pytestmark = needs_simulated_gpu


def test_tensors_go_there_and_back():
    values = torch.arange(6.0).reshape(2, 3)
    with simulated_gpu():
        there = values.to("cuda")
        assert there.device == GPU
        assert torch.zeros(3, device="cuda").device == GPU
        assert values.to(there).device == GPU
        back = (there[:, 1:] * 2).cpu()
    assert not isinstance(back, GpuTensor)
    assert torch.equal(back, values[:, 1:] * 2)


def test_views_write_to_the_whole():
    with simulated_gpu(), torch.inference_mode():
        there = torch.zeros(2, 3, device=GPU)
        there[0] += 1
        there[:, 1:].copy_(torch.full((2, 2), 5.0))
        assert there.cpu().tolist() == [[1, 5, 5], [0, 5, 5]]


def test_devices_do_not_mix():
    with simulated_gpu():
        there = torch.ones(3).to(GPU)
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()


def test_networks_work_there_in_half_precision_under_autocast():
    network = nn.Conv2d(1, 2, 3)
    image = torch.ones(1, 1, 5, 5)
    expected = network(image)
    with simulated_gpu(), torch.inference_mode():
        there = network.to(GPU)
        assert there.weight.device == GPU
        assert torch.equal(there(image.to(GPU)).cpu(), expected)
        with gpu_autocast():
            assert there(image.to(GPU)).dtype == torch.bfloat16
