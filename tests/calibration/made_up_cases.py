"""Labelled cases whose scores foretell Dice, and calibrations with every part fitted."""

import numpy as np

from nnunetv2_le.calibration.cases import CalibrationCases, LabelCases


def made_up_table(number, *, seed=0, noise=0.3, seen_by_one_score=False):
    """Dice and six scores; some of what makes a case poor shows in the entropy alone."""
    generator = np.random.default_rng(seed)
    quality = generator.normal(1.5, 0.8, size=number)
    hidden = generator.normal(0.0, 0.0 if seen_by_one_score else 0.8, size=number)
    dice = 1 / (1 + np.exp(-(quality + hidden)))

    def seen(values, scale=0.1):
        return values + generator.normal(scale=noise * scale, size=number)

    agreement = 1 / (1 + np.exp(-seen(quality, 1.0)))
    scores = {
        "aula": 5 * agreement,
        "aula_normalized": agreement,
        "consensus_dice": 1 / (1 + np.exp(-seen(quality, 1.0))),
        "entropy_foreground_mean": np.exp(-seen(hidden, 1.0)) / 10,
        "entropy_image_mean": np.exp(-seen(hidden, 1.0)) / 50,
        "volume_ml": generator.gamma(9.0, size=number),
        "volume_std_ml": generator.gamma(2.0, size=number),
    }
    return LabelCases(scores, dice)


def made_up_cases(number, *, seed=0, **settings):
    """A table of cases with two labels."""
    return CalibrationCases(
        cases=tuple(f"case_{case:03d}" for case in range(number)),
        case=made_up_table(number, seed=seed, **settings),
        labels={
            "anterior": made_up_table(number, seed=seed + 1000, **settings),
            "posterior": made_up_table(number, seed=seed + 2000, **settings),
        },
    )
