"""Learning rates that go in cycles, and which checkpoints of a cycle are kept.

Conventions: epochs and cycles count from 0, as in nnU-Net's log. N epochs make M cycles; cycle k
has the epochs floor(k N / M) to floor((k + 1) N / M) - 1, so lengths differ by one at most.

References:
    Zhao et al., "Efficient Bayesian Uncertainty Estimation for nnU-Net", MICCAI 2022,
    arXiv:2212.06278: the schedule, and checkpoints of the last epochs of each cycle.
    Katz and Mendelson, UnnUNet, 2023, https://github.com/KanielDatz/UnnUNet (its description): the
    two rules for checkpoints.

Deviations: ``documentation/decisions/013-cycles-of-the-learning-rate.md``.
"""

from typing import Literal, NamedTuple, get_args

from nnunetv2_le.errors import SettingError

KeepRule = Literal["late", "sparse"]

KEEP_RULES: tuple[str, ...] = get_args(KeepRule)
LATE_EPOCHS = 10  # of each cycle: Zhao et al., UnnUNet's ``late``
SPARSE_EPOCHS = 6  # of each cycle: UnnUNet's ``sparse``
KEPT_FROM = 0.7  # share of a cycle before which nothing is kept: UnnUNet's ``sparse``
CONSTANT_FROM = 0.8  # share of a cycle from which the rate is constant: gamma of Zhao et al.
RESTART_RATE = 0.1  # of a restart's epoch: alpha_r of Zhao et al.


class CyclePlace(NamedTuple):
    """Where an epoch lies.

    Attributes:
        cycle: its cycle.
        epoch: its number within the cycle.
        length: epochs of the cycle.
    """

    cycle: int
    epoch: int
    length: int


def require_cycles(num_epochs: int, num_cycles: int) -> None:
    """Refuse cycles that are too short to restart and then learn.

    Raises:
        SettingError: no cycle, or fewer than two epochs for each.
    """
    if num_cycles < 1:
        raise SettingError(f"The number of cycles has to be 1 or more, got {num_cycles}.")
    if num_epochs < 2 * num_cycles:
        raise SettingError(
            f"{num_cycles} cycles of the learning rate need {2 * num_cycles} epochs or more, got "
            f"{num_epochs}. Train for longer, or in fewer cycles (-num_cycles)."
        )


def place_in_cycle(epoch: int, *, num_epochs: int, num_cycles: int) -> CyclePlace:
    """The cycle of an epoch, and its number there."""
    cycle = ((epoch + 1) * num_cycles - 1) // num_epochs
    first = cycle * num_epochs // num_cycles
    behind = (cycle + 1) * num_epochs // num_cycles
    return CyclePlace(cycle, epoch - first, behind - first)


def cyclic_learning_rate(
    epoch: int,
    *,
    num_epochs: int,
    num_cycles: int,
    initial_rate: float,
    restart_rate: float,
    exponent: float = 0.9,
) -> float:
    """Learning rate of an epoch.

    ``a(t) = a_r`` in the first epoch of a cycle (t = 0) other than the first cycle, else
    ``a(t) = a_0 (1 - min(t, gamma T) / T)^0.9``: nnU-Net's polynomial decay over the epochs t of a
    cycle of T epochs, constant from gamma T on.

    Args:
        epoch: of the whole training.
        num_epochs: of the whole training.
        num_cycles: cycles in it.
        initial_rate: a_0, where the decay starts.
        restart_rate: a_r, of one epoch, to leave the minimum that the last cycle found.
        exponent: of the decay; nnU-Net's.

    Source: Zhao et al. 2022, its schedule for several modes (gamma 0.8, a_0 0.01, a_r 0.1).
    """
    place = place_in_cycle(epoch, num_epochs=num_epochs, num_cycles=num_cycles)
    if place.cycle and place.epoch == 0:
        return restart_rate
    passed = min(place.epoch, CONSTANT_FROM * place.length)
    return float(initial_rate * (1 - passed / place.length) ** exponent)


def is_kept(epoch: int, *, num_epochs: int, num_cycles: int, rule: KeepRule) -> bool:
    """Whether the network after an epoch becomes a member of the checkpoint ensemble.

    ``late``: the last 10 epochs of each cycle. ``sparse``: 6 epochs from 0.7 of the cycle to its
    last one, evenly spaced, rounded to whole epochs. A short cycle keeps fewer: with either rule
    nothing from before 0.7 of it, always its last epoch.

    Args:
        epoch: of the whole training.
        num_epochs: of the whole training.
        num_cycles: cycles in it.
        rule: which epochs are kept.
    """
    place = place_in_cycle(epoch, num_epochs=num_epochs, num_cycles=num_cycles)
    last = place.length - 1
    first = min(round(KEPT_FROM * place.length, 9), last)  # 0.7 is no binary number
    if rule == "late":
        return place.epoch >= max(first, place.length - LATE_EPOCHS)
    step = (last - first) / (SPARSE_EPOCHS - 1)
    return place.epoch in {round(last - number * step) for number in range(SPARSE_EPOCHS)}
