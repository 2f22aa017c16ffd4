import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn
from torch.optim import SGD

from nnunetv2_le.errors import SettingError
from nnunetv2_le.training.schedules import (
    CONSTANT_FROM,
    KEEP_RULES,
    cyclic_learning_rate,
    is_kept,
    place_in_cycle,
    require_cycles,
)

# cycles, and epochs enough for them
CYCLES = st.integers(1, 8).flatmap(lambda m: st.tuples(st.just(m), st.integers(2 * m, 60 * m)))


def rates(num_epochs: int, num_cycles: int) -> list[float]:
    return [
        cyclic_learning_rate(
            epoch,
            num_epochs=num_epochs,
            num_cycles=num_cycles,
            initial_rate=0.01,
            restart_rate=0.1,
        )
        for epoch in range(num_epochs)
    ]


def kept(num_epochs: int, num_cycles: int, rule: str) -> list[int]:
    cycles = {"num_epochs": num_epochs, "num_cycles": num_cycles}
    return [e for e in range(num_epochs) if is_kept(e, **cycles, rule=rule)]


def test_the_rate_of_three_cycles_is_the_formula() -> None:
    """400 epochs a cycle, as in the paper: decay to epoch 320 of a cycle, then constant."""
    found = rates(1200, 3)
    assert found[0] == 0.01
    assert found[400] == found[800] == 0.1
    assert found[401] == pytest.approx(0.01 * (1 - 1 / 400) ** 0.9)
    assert found[500] == pytest.approx(0.01 * 0.75**0.9)
    tail = 0.01 * 0.2**0.9
    assert found[320:400] == pytest.approx([tail] * 80)
    assert found[319] > found[320]
    assert found[1:400] == found[401:800] == found[801:]


def test_before_the_tail_one_cycle_is_nnunets_own_schedule() -> None:
    optimizer = SGD(nn.Linear(1, 1).parameters(), 0.01)
    nnunet = PolyLRScheduler(optimizer, 0.01, 100)
    for epoch, rate in enumerate(rates(100, 1)[: int(100 * CONSTANT_FROM) + 1]):
        nnunet.step(epoch)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])


@given(CYCLES)
def test_cycles_divide_the_epochs_and_differ_in_length_by_one_at_most(
    sizes: tuple[int, int],
) -> None:
    num_cycles, num_epochs = sizes
    places = [
        place_in_cycle(e, num_epochs=num_epochs, num_cycles=num_cycles) for e in range(num_epochs)
    ]
    assert [p.cycle for p in places] == sorted(p.cycle for p in places)
    lengths = [sum(p.cycle == cycle for p in places) for cycle in range(num_cycles)]
    assert max(lengths) - min(lengths) <= 1
    assert all(p.length == lengths[p.cycle] for p in places)
    for cycle, length in enumerate(lengths):
        assert [p.epoch for p in places if p.cycle == cycle] == list(range(length))


@given(CYCLES)
def test_the_rate_falls_within_a_cycle_and_rises_between_cycles_alone(
    sizes: tuple[int, int],
) -> None:
    num_cycles, num_epochs = sizes
    found = rates(num_epochs, num_cycles)
    assert all(rate > 0 for rate in found)
    for epoch in range(1, num_epochs):
        place = place_in_cycle(epoch, num_epochs=num_epochs, num_cycles=num_cycles)
        assert (found[epoch] > found[epoch - 1]) is (place.epoch == 0)


def test_late_keeps_the_last_ten_epochs_of_each_cycle() -> None:
    assert kept(1200, 3, "late") == [*range(390, 400), *range(790, 800), *range(1190, 1200)]


def test_sparse_keeps_six_evenly_spaced_epochs_from_seven_tenths_of_each_cycle() -> None:
    assert kept(202, 2, "sparse") == [
        first + epoch for first in (0, 101) for epoch in (71, 77, 82, 88, 94, 100)
    ]
    assert kept(1010, 10, "sparse")[:6] == [71, 77, 82, 88, 94, 100]


def test_short_cycles_keep_fewer_but_nothing_early() -> None:
    assert kept(20, 3, "late") == [5, 11, 12, 18, 19]  # cycles of 6, 7 and 7 epochs
    assert kept(20, 3, "sparse") == [4, 5, 11, 12, 18, 19]
    assert kept(6, 3, "late") == [1, 3, 5]


@given(CYCLES, st.sampled_from(KEEP_RULES))
def test_every_cycle_keeps_its_last_epoch_and_no_restart(sizes: tuple[int, int], rule: str) -> None:
    num_cycles, num_epochs = sizes
    cycles = {"num_epochs": num_epochs, "num_cycles": num_cycles}
    places = [place_in_cycle(epoch, **cycles) for epoch in kept(num_epochs, num_cycles, rule)]
    for cycle in range(num_cycles):
        own = [place for place in places if place.cycle == cycle]
        assert own[-1].epoch == own[-1].length - 1
        assert len(own) <= (10 if rule == "late" else 6)
        assert all(place.epoch > 0 for place in own)
        assert all(place.epoch >= 0.7 * place.length - 1 for place in own)


@pytest.mark.parametrize(
    ("epochs", "cycles", "message"),
    [(5, 3, "need 6 epochs or more, got 5"), (100, 0, "has to be 1 or more, got 0")],
)
def test_cycles_that_cannot_be_are_refused(epochs: int, cycles: int, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        require_cycles(epochs, cycles)


def test_two_epochs_are_a_cycle() -> None:
    require_cycles(6, 3)
    require_cycles(2, 1)
