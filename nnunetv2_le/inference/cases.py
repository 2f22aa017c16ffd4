"""One case: its files, its preprocessing, and what its prediction is."""

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from torch import Tensor

from nnunetv2_le.errors import CaseError, InputError, first_few
from nnunetv2_le.inference.case_checks import (
    IMAGE_ENDINGS,
    require_array,
    require_files,
    require_finite,
    require_numbers,
    say_what_is_odd,
)
from nnunetv2_le.inference.case_geometry import what_failed
from nnunetv2_le.inference.image_resampling import preprocessing_configuration
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.preprocessing import run_preprocessor
from nnunetv2_le.inference.settings import is_utf8, require_utf8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """A case before it is read.

    Attributes:
        name: as nnU-Net names it, without channel number and file ending.
        images: one file a channel.
        previous_stage: segmentation of the previous stage of a cascade.
        channels: the numbers in the files' names; empty where the files were listed in order.
    """

    name: str
    images: tuple[Path, ...]
    previous_stage: Path | None = None
    channels: tuple[int, ...] = ()


@dataclass
class PreparedCase:
    """A case as the network sees it.

    Attributes:
        name: name of the case.
        image: preprocessed channels (and one-hot labels of the previous stage).
        properties: what nnU-Net's reader and preprocessor noted of it.
        others: the same case as other models of the run see it, by the model's name.
    """

    name: str
    image: Float[Tensor, "channels depth height width"]
    properties: dict[str, Any]
    others: dict[str, "PreparedCase"] = field(default_factory=dict)

    def forget_image(self) -> None:
        """Give the image's memory back; its shape stays known, it cannot be predicted again."""
        for seen in (self, *self.others.values()):
            seen.image = seen.image.to("meta")


def find_cases(
    source: Path | Sequence[Sequence[Path]], model: Model, *, previous_stage: Path | None = None
) -> list[Case]:
    """The cases in a folder, or in lists of files.

    Args:
        source: a folder in nnU-Net's naming (CASE_0000.nii.gz, one file a channel), or one list of
            files a case.
        model: decides file ending, and whether a previous stage is needed.
        previous_stage: folder with the segmentations of the previous stage.

    Raises:
        InputError: the folder is missing or has no image, a list is empty or none, two cases share
            a name, or the previous stage is missing.
        SettingError: a folder's path is not UTF-8.
    """
    require_utf8({"-i": source, "-prev_stage_predictions": previous_stage})
    ending = model.dataset_json["file_ending"]
    files = list_images(source, ending) if isinstance(source, Path) else list(source)
    _require_lists(files)
    needs = model.configuration.previous_stage_name
    if needs is not None and previous_stage is None:
        raise InputError(
            f"This model is the second stage of a cascade: it needs the segmentations of {needs}. "
            "Predict those first and name their folder with -prev_stage_predictions."
        )
    cases = []
    for images in files:
        if not images:
            raise InputError("Expected the image files of each case; got an empty list of files.")
        stem = Path(images[0]).name.removesuffix(ending)
        name = re.sub(r"(?<=.)_\d{4}\Z", "", stem)  # listed files may lack a channel's number
        before = previous_stage / f"{name}{ending}" if needs and previous_stage else None
        numbers: tuple[int, ...] = ()
        if isinstance(source, Path):
            numbers = tuple(int(image.name[: -len(ending)][-4:]) for image in images)
        cases.append(Case(name, tuple(Path(image) for image in images), before, numbers))
    counts = Counter(case.name for case in cases)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            "Two inputs share one case name, so one result would overwrite the other: "
            f"{', '.join(twice)}. Rename one."
        )
    return cases


def _require_lists(files: Sequence[Any]) -> None:
    """Refuse files that are not in a list for each case: a path would be taken letter by letter."""
    if plain := [one for one in files if isinstance(one, str | Path)]:
        raise InputError(
            f"Expected one list of files a case, with one file a channel; got {str(plain[0])!r} "
            "without a list around it. Write [[FILE], [FILE]], or name the folder."
        )


def list_images(folder: Path, ending: str) -> list[list[Path]]:
    """The images in a folder in nnU-Net's naming, one list of files a case, by name.

    Raises:
        InputError: the folder is missing, or has no image or an image without a channel number.
    """
    if not folder.is_dir():
        raise InputError(
            f"Expected a folder of images, but {folder} is not a folder. Name it with -i."
        )
    names = _without_notes_of_macos(
        folder, sorted(path.name for path in folder.iterdir() if not path.is_dir())
    )
    if not any(name.endswith(ending) for name in names):
        others = sorted({"".join(Path(name).suffixes[-2:]) for name in names})
        raise InputError(
            f"No image in {folder} ends in {ending}, as this model's dataset demands "
            f"(CASE_0000{ending}); found {', '.join(others[:5]) or 'no file at all'}. Convert the "
            "images or name another folder."
        )
    _say_what_has_another_ending(folder, names, ending)
    # nnU-Net's own function starts twelve processes for this
    found: dict[str, list[Path]] = {}
    for name in names:
        if not name.endswith(ending):
            continue
        parts = re.fullmatch(r"(.+)_\d{4}", name[: -len(ending)])
        if parts is None:
            raise InputError(
                f"Expected images named CASE_0000{ending}, with a channel number; got "
                f"{folder / name}. Rename or remove it."
            )
        if not name.isprintable():
            raise InputError(
                f"Expected names of characters that can be read; got {name!a} in {folder} "
                "(from a system with other characters?). Rename it."
            )
        found.setdefault(parts[1], []).append(folder / name)
    return [found[case] for case in sorted(found)]


def _say_what_has_another_ending(folder: Path, names: list[str], ending: str) -> None:
    """Warn of images that are left out; files of other kinds are none of ours."""
    others = [n for n in names if not n.endswith(ending) and n.lower().endswith(IMAGE_ENDINGS)]
    if others:
        logger.warning(
            "%d images in %s are left out, because they do not end in %s as this model's dataset "
            "demands: %s. Convert or rename them if they belong to this run.",
            len(others),
            folder,
            ending,
            first_few(others),
        )


def _without_notes_of_macos(folder: Path, names: list[str]) -> list[str]:
    """Without AppleDouble files, which macOS writes beside others, with their endings."""
    kept = [name for name in names if not name.startswith("._")]
    if len(kept) < len(names):
        logger.info(
            "%d files named ._* in %s are left out: macOS keeps notes in them, no images.",
            len(names) - len(kept),
            folder,
        )
    return kept


def image_bytes(case: Case) -> int:
    """Size of a case's images in memory, from their headers; 0 where that cannot be told."""
    reader = sitk.ImageFileReader()
    voxels = 0
    if not all(is_utf8(path) for path in case.images):
        return 0
    for path in case.images:
        try:
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
        except RuntimeError:
            return 0
        voxels += math.prod(reader.GetSize())
    return 4 * voxels


def prepare_case(case: Case, model: Model) -> PreparedCase:
    """Read and preprocess a case with nnU-Net's own reader and preprocessor.

    Raises:
        CaseError: a file is missing or unreadable, channels are missing, or intensities are not
            finite.
    """
    require_numbers(case.channels, case.images, model)
    require_files(case.images, case.previous_stage, model)
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused below
            data, labels, properties = run_preprocessor(
                case.images, _previous_stage(case, model), model
            )
    except CaseError:
        raise
    except Exception as error:
        raise CaseError(what_failed(case.images, model, error)) from error
    before = labels if _previous_stage(case, model) else None
    return _prepared(case.name, data, before, properties, model)


def prepare_array(
    image: Float[np.ndarray, "channels z y x"],
    model: Model,
    *,
    spacing_mm: Sequence[float],
    name: str = "array",
    previous_stage: np.ndarray | None = None,
) -> PreparedCase:
    """Preprocess an image that is in memory already.

    Args:
        image: one volume a channel, axes as nnU-Net's reader gives them (z, y, x for SimpleITK).
        model: the model that will predict it.
        spacing_mm: voxel size in millimetres, in the same axis order.
        name: name of the case.
        previous_stage: label volume of the previous stage of a cascade, (z, y, x).

    Raises:
        CaseError: the array does not fit the model, is not finite or cannot be preprocessed.
    """
    require_array(image, model, spacing_mm=spacing_mm, previous_stage=previous_stage)
    with np.errstate(over="ignore"):
        image = image.astype(np.float32, copy=False)
    require_finite(f"The image of {name}", image)
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    # as nnU-Net's readers give labels; its preprocessor marks voxels outside the body with -1
    before = None if previous_stage is None else previous_stage[None].astype(np.float32)
    configuration = preprocessing_configuration(
        model.configuration, preprocessor, needs_labels=before is not None
    )
    spacing = [float(size) for size in spacing_mm]
    rest = (model.plans, configuration, model.dataset_json)
    try:
        data, labels, properties = preprocessor.run_case_npy(
            image, before, {"spacing": spacing}, *rest
        )
    except Exception as error:  # nnU-Net's, of arrays that resampling makes empty or too large
        raise CaseError(
            f"{name}: {image.shape[1:]} voxels of {spacing} mm (z, y, x) cannot be preprocessed "
            f"({type(error).__name__}: {error}). Check spacing_mm, which has to be in millimetres."
        ) from error
    return _prepared(name, data, None if before is None else labels, properties, model)


def _previous_stage(case: Case, model: Model) -> str | None:
    """The file of the previous stage, if this model wants one."""
    if case.previous_stage is None or model.configuration.previous_stage_name is None:
        return None
    return str(case.previous_stage)


def _prepared(
    name: str, data: np.ndarray, labels: np.ndarray | None, properties: dict[str, Any], model: Model
) -> PreparedCase:
    require_finite(f"The image of {name}", data)
    say_what_is_odd(name, data, properties["shape_before_cropping"], model)
    if labels is not None:
        one_hot = convert_labelmap_to_one_hot(
            labels[0], model.label_manager.foreground_labels, data.dtype
        )
        data = np.vstack((data, one_hot))
    tensor = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    return PreparedCase(name, tensor, properties)
