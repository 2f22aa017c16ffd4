"""Taps: each owner sees its own layers, and what is not its own goes to the call around."""

import pytest
import torch
from torch import nn

from nnunetv2_le.errors import SettingError
from nnunetv2_le.network.taps import call_with_taps, cut_off_by_checkpoints, set_taps


def network_of(*owners: str) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    for owner in owners:
        set_taps(network, ["0"], owner=owner)
    return network


def test_an_owner_sees_its_own_layers_where_another_has_taps_of_the_same_names() -> None:
    inner, outer = network_of("inner"), network_of("outer")
    x = torch.ones(1, 1)

    def both() -> torch.Tensor:
        y = outer(x)
        result, seen = call_with_taps(lambda: inner(y), owner="inner")
        assert list(seen) == ["0"]
        assert torch.equal(seen["0"].output, inner[0](y))
        return result

    result, seen = call_with_taps(both, owner="outer")
    assert torch.equal(result, inner(outer(x)))
    assert list(seen) == ["0"]
    assert torch.equal(seen["0"].output, outer[0](x))


def test_two_owners_of_one_layer_both_see_it_and_one_alone_sees_its_own() -> None:
    network, x = network_of("a", "b"), torch.ones(1, 1)
    set_taps(network, ["1"], owner="b")
    for owner, names in (("a", ["0"]), ("b", ["0", "1"])):
        _, seen = call_with_taps(lambda: network(x), owner=owner)
        assert list(seen) == names
    (_, inner), outer = call_with_taps(
        lambda: call_with_taps(lambda: network(x), owner="a"), owner="b"
    )
    assert (list(inner), list(outer)) == (["0"], ["0", "1"])


def test_a_layer_that_runs_twice_is_refused_and_the_next_call_begins_anew() -> None:
    network, x = network_of("a"), torch.ones(1, 1)
    with pytest.raises(SettingError, match="layer '0' ran several times in one call"):
        call_with_taps(lambda: network(network(x)), owner="a")
    network(network(x))  # outside a call nothing is collected
    assert list(call_with_taps(lambda: network(x), owner="a")[1]) == ["0"]


def test_taps_of_an_owner_that_is_not_called_do_nothing() -> None:
    network, x = network_of("earlier"), torch.ones(1, 1)
    set_taps(network, ["1"], owner="a")
    result, seen = call_with_taps(lambda: network[1](network[0](network[0](x))), owner="a")
    assert torch.equal(result, network[1](network[0](network[0](x))))
    assert list(seen) == ["1"]


def test_a_layer_that_runs_in_two_inner_calls_is_refused_by_the_outer_one() -> None:
    network, x = network_of("inner", "outer"), torch.ones(1, 1)

    def twice() -> None:
        for _ in range(2):
            call_with_taps(lambda: network(x), owner="inner")

    with pytest.raises(SettingError, match="layer '0' ran several times in one call"):
        call_with_taps(twice, owner="outer")


def test_without_a_checkpoint_no_layer_is_cut_off() -> None:
    network, x = network_of("a"), torch.ones(1, 1)

    def call() -> torch.Tensor:
        with torch.no_grad():
            features = network[0](x)
        return network[1](features)

    result, seen = call_with_taps(call, owner="a")
    assert not seen["0"].with_gradients
    assert cut_off_by_checkpoints(seen, result) == []
