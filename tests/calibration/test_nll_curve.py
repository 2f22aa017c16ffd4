"""The NLL as a function of the temperature: autograd at the nodes, direct values between them."""

import numpy as np
import pytest
import torch
from calibration.made_up_logits import search_of
from scipy.special import log_softmax

from nnunetv2_le.calibration.nll_curve import (
    LOG_NODES,
    log_temperature_of_minimum,
    nll_at,
    nll_curve,
)


def test_the_nodes_hold_the_nll_and_its_two_derivatives():
    _, kept, _ = search_of((1.5,), cases=1)
    curve = nll_curve(*kept[0], has_regions=False)
    stack, truth = torch.from_numpy(kept[0][0][0]).double(), torch.from_numpy(kept[0][1])
    for node in (0, 4, 10):
        u = torch.tensor(float(LOG_NODES[node]), dtype=torch.float64, requires_grad=True)
        value = torch.nn.functional.cross_entropy((stack / u.exp()).T, truth, reduction="sum")
        (first,) = torch.autograd.grad(value, u, create_graph=True)
        (second,) = torch.autograd.grad(first, u)
        expected = [value.item(), first.item(), second.item()]
        assert curve[node, :, 0] == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_between_the_nodes_the_curve_is_the_nll():
    _, kept, _ = search_of((1.5,), cases=1)
    logits, truth = kept[0]
    curve = nll_curve(logits, truth, has_regions=False)[..., 0]
    for log_temperature in (LOG_NODES[:-1] + LOG_NODES[1:]) / 2:
        scaled = logits[0].astype(float) / np.exp(log_temperature)
        expected = -log_softmax(scaled, axis=0)[truth, np.arange(len(truth))].sum()
        assert nll_at(curve, log_temperature) == pytest.approx(expected, rel=1e-2)


def test_no_node_lies_below_the_minimum():
    _, kept, _ = search_of((0.45, 1.0, 2.7), cases=1)
    curves = nll_curve(*kept[0], has_regions=False)
    for member in range(3):
        curve = curves[..., member]
        lowest = nll_at(curve, log_temperature_of_minimum(curve))
        assert lowest <= curve[:, 0].min()
