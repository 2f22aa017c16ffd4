"""What a user can choose about a prediction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from nnunetv2_le.errors import SettingError
from nnunetv2_le.types import CALIBRATED_MAPS, DEFAULT_MAPS, HEAD_FAMILIES, Family, Fusion
from nnunetv2_le.uncertainty.map_names import map_names, on_demand_maps


@dataclass(frozen=True)
class PredictionSettings:
    """Settings of a run; the defaults are the commands' defaults.

    Attributes:
        families: families of members that are kept; None keeps the heads and mirrors that there
            are.
        num_samples: dropout samples; None takes 10.
        skip_heads: how many of the first heads do not enter the layer agreement (AULA).
        fusion: how the fused members become the segmentation.
        maps: voxel maps that are written; those made on demand also get columns in the tables.
        save_probabilities: write fused probabilities as nnU-Net does.
        save_heads: write the probabilities of every head.
        save_features: write the pooled features of the encoder, ``features/CASE.npy``.
        step_size: step between tiles as a share of the tile.
        use_mirroring: test-time mirroring along the axes that the model was trained with.
        use_gaussian: weight the centre of tiles more than their border.
        perform_everything_on_device: blend tiles on the device of the network.
    """

    families: tuple[str, ...] | None = None
    num_samples: int | None = None
    skip_heads: int = 0
    fusion: Fusion = "mean"
    maps: tuple[str, ...] = DEFAULT_MAPS
    save_probabilities: bool = False
    save_heads: bool = False
    save_features: bool = False
    step_size: float = 0.5
    use_mirroring: bool = True
    use_gaussian: bool = True
    perform_everything_on_device: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            SettingError: naming the setting, what it takes and what came.
        """
        if not 0 < self.step_size <= 1:
            raise SettingError(
                "-step_size is a share of the tile, above 0 and at most 1; got "
                f"{self.step_size!r}. nnU-Net's is 0.5."
            )
        if self.skip_heads < 0:
            raise SettingError(
                f"-skip_heads is a number of heads, 0 or more; got {self.skip_heads!r}."
            )
        if self.num_samples is not None and self.num_samples < 2:
            raise SettingError(
                f"-num_samples is a number of dropout samples, 2 or more; got {self.num_samples!r}."
            )
        if self.num_samples is not None and "dropout" not in (self.families or ()):
            raise SettingError(
                f"-num_samples {self.num_samples} is a number of dropout samples, but dropout is "
                "not among -members. Add it, or leave -num_samples out."
            )
        if self.fusion not in get_args(Fusion):
            raise SettingError(f"-fusion takes {', '.join(get_args(Fusion))}; got {self.fusion!r}.")


def available_maps(families: Sequence[Family]) -> tuple[str, ...]:
    """Names of the voxel maps that a run with these families has."""
    return map_names(families, on_demand_maps(families))


def require_maps(
    maps: Sequence[str], families: Sequence[Family], *, is_calibrated: bool = False
) -> None:
    """Refuse names of maps that the run does not have.

    Raises:
        SettingError: naming those, and the ones there are.
    """
    known = available_maps(families)
    if is_calibrated:
        known = (*known, *CALIBRATED_MAPS)
    elif any(name in CALIBRATED_MAPS for name in maps):
        raise SettingError(
            f"-maps {' '.join(name for name in maps if name in CALIBRATED_MAPS)} needs a "
            "calibrated model. Calibrate it with nnUNetv2_le_calibrate, and leave out "
            "--no_calibration."
        )
    if unknown := [name for name in maps if name not in known]:
        raise SettingError(
            f"-maps names maps that this run does not have: {' '.join(unknown)}. There are: "
            f"{' '.join(known)}."
        )


def require_heads(settings: PredictionSettings, families: Sequence[Family]) -> None:
    """Refuse settings for heads that the run does not have.

    Raises:
        SettingError: heads are left out or to be written that are not there.
    """
    if settings.skip_heads and not any(family.ordered for family in families):
        raise SettingError(
            f"-skip_heads {settings.skip_heads} leaves heads out of the layer agreement, which "
            "this run does not have: heads are not among its members. Add heads to -members, or "
            "leave -skip_heads out."
        )
    heads = next((family for family in families if family.name in HEAD_FAMILIES), None)
    if heads and heads.ordered and settings.skip_heads > len(heads.members) - 2:
        raise SettingError(
            "Layer agreement needs at least two heads: -skip_heads can be 0 to "
            f"{len(heads.members) - 2} for this model with {len(heads.members)} heads; got "
            f"{settings.skip_heads}."
        )
    if settings.save_heads and heads is None:
        raise SettingError(
            "--save_heads writes the heads of this run, but heads are not among its members. "
            "Add heads to -members, or use a checkpoint with several heads."
        )


def require_part(part_id: int, num_parts: int) -> None:
    """Refuse a part of a run that there is not.

    Raises:
        SettingError: there are no parts, or not this one.
    """
    if num_parts < 1:
        raise SettingError(f"-num_parts is a number of runs, 1 or more; got {num_parts}.")
    if not 0 <= part_id < num_parts:
        raise SettingError(
            f"-part_id counts from 0 to -num_parts - 1 = {num_parts - 1}; got {part_id}."
        )


def require_own_folder(output: Path, others: Mapping[str, Any]) -> None:
    """Refuse to write to a folder that is read: results would be taken for images.

    Args:
        output: OUT.
        others: what is read, by the flag that names it; only folders are compared.

    Raises:
        SettingError: one of them is OUT.
    """
    for flag, folder in others.items():
        if isinstance(folder, Path) and folder.resolve() == output.resolve():
            raise SettingError(
                f"-o has to be another folder than {flag}, but both are {folder}. Name a folder "
                "for results alone with -o."
            )


def require_utf8(paths: Mapping[str, Any]) -> None:
    """Refuse paths that are not UTF-8: ITK ends the process when it is given one.

    Args:
        paths: by the flag that names them; what is no path is not looked at.

    Raises:
        SettingError: naming the flag and the path.
    """
    for flag, path in paths.items():
        if isinstance(path, str | Path) and not is_utf8(path):
            raise SettingError(
                f"Expected {flag} to be a path in UTF-8; got {str(path)!a}. Rename the folder "
                "(was it made on a system with other characters?), or name it by a link."
            )


def is_utf8(path: str | Path) -> bool:
    """Whether a path can be written in UTF-8; one of another encoding comes with surrogates."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True
