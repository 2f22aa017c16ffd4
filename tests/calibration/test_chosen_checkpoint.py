"""Cases that chose a checkpoint are not like new ones; who calibrates with them is told."""

from pathlib import Path

import pytest

from nnunetv2_le.calibration.calibrate import CalibrationRequest, _warn_of_chosen_checkpoint


@pytest.mark.parametrize(
    ("checkpoint", "images", "is_said"),
    [
        ("checkpoint_best.pth", None, True),
        ("checkpoint_best.pth", Path("images"), False),
        ("checkpoint_final.pth", None, False),
    ],
)
def test_the_best_checkpoint_is_warned_of_on_its_own_validation_cases(
    checkpoint: str, images: Path | None, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    request = CalibrationRequest(Path("model"), checkpoint_name=checkpoint, images=images)
    _warn_of_chosen_checkpoint(request)
    assert ("chosen by its Dice" in caplog.text) == is_said
