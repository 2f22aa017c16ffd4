"""What files and arrays of a case have to be, said in one line where they are not."""

import logging
import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import Shaped
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_le.errors import CaseError
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.nifti_checks import fault, has_bad_intensities, has_voxel_size
from nnunetv2_le.inference.settings import is_utf8

logger = logging.getLogger(__name__)

_KINDS_OF_NUMBERS = "biuf"  # truth values, integers with and without sign, floats
_OF_VOLUMES = (*SimpleITKIO.supported_file_endings, *NibabelIO.supported_file_endings)


# compared in lower case
IMAGE_ENDINGS = tuple({end for kind in LIST_OF_IO_CLASSES for end in kind.supported_file_endings})


def require_numbers(numbers: Sequence[int], images: Sequence[Path], model: Model) -> None:
    """Refuse files that lack a channel before another: each would be taken for the one before it.

    Args:
        numbers: the channel numbers in the files' names, sorted.
        images: these files.
        model: the model.

    Raises:
        CaseError: naming the numbers that were expected and those that came.
    """
    if list(numbers) == list(range(len(numbers))):
        return
    names = model.dataset_json["channel_names"].values()
    expected = ", ".join(f"_{number:04d} ({name})" for number, name in enumerate(names))
    got = ", ".join(f"_{number:04d}" for number in numbers)
    raise CaseError(
        f"Expected the channels {expected} of {images[0].parent}; got {got}: "
        f"{', '.join(path.name for path in images)}. Add or rename files."
    )


def require_files(images: Sequence[Path], previous_stage: Path | None, model: Model) -> None:
    """Refuse files that cannot be what the model needs, before any is read.

    Raises:
        CaseError: more files than channels, or one is missing, cut off, damaged or not finite.
    """
    if len(images) > len(model.dataset_json["channel_names"]):
        require_channels(len(images), images, model)
    for path in (*images, *([previous_stage] if previous_stage else [])):
        _require_file(path)


def _require_file(path: Path) -> None:
    if not is_utf8(path):
        raise CaseError(f"Expected a path in UTF-8; got {str(path)!a}. Rename it.")
    if path.is_dir():
        raise CaseError(f"Expected a file; got the folder {path}. Name the image in it.")
    if not path.is_file():
        raise CaseError(f"{path} does not exist. Check the name and the channel number.")
    if found := fault(path):
        raise CaseError(f"{path} cannot be read: {found}. Copy it again from where it came from.")
    _require_one_volume(path)
    if not has_voxel_size(path):
        logger.warning("%s states no voxel size (pixdim is 0): 1 mm is assumed.", path)
    if has_bad_intensities(path):
        raise CaseError(_not_finite(str(path)))


def require_channels(found: int, images: Sequence[Path], model: Model) -> None:
    """Refuse a wrong number of channels; most readers give one a file, that of PNG up to four.

    Raises:
        CaseError: naming the channels, what came and the files.
    """
    names = model.dataset_json["channel_names"].values()
    if found == len(names):
        return
    files = ", ".join(path.name for path in images)
    if found == len(images):
        raise CaseError(
            f"Expected {len(names)} image file(s), one a channel ({', '.join(names)}); got "
            f"{found}: {files}. Add or remove channels."
        )
    raise CaseError(
        f"Expected {len(names)} channel(s) ({', '.join(names)}); got {found} in {files}. Add or "
        "remove channels."
    )


def require_shape(previous_stage: str, shape: tuple[int, ...], of_image: tuple[int, ...]) -> None:
    """Refuse a segmentation of the previous stage that is not of this image.

    Args:
        previous_stage: what to call it.
        shape: its shape.
        of_image: shape of the image without channels.

    Raises:
        CaseError: the shapes differ.
    """
    if shape != of_image:
        raise CaseError(
            f"Expected {previous_stage} to have the shape of the image, {tuple(of_image)!r}; got "
            f"{tuple(shape)!r}. Predict the previous stage of this very image."
        )


def require_array(
    image: Shaped[np.ndarray, "..."],
    model: Model,
    *,
    spacing_mm: Sequence[float],
    previous_stage: np.ndarray | None,
) -> None:
    """Refuse an image in memory that the model cannot predict.

    Raises:
        CaseError: values, shape or spacing are wrong, or a cascade lacks its previous stage.
    """
    if not isinstance(image, np.ndarray):
        raise CaseError(
            f"Expected a NumPy array as image; got {type(image).__name__!r}. Convert it: "
            "tensor.numpy(), SimpleITK.GetArrayFromImage(image)[None]."
        )
    if image.dtype.kind not in _KINDS_OF_NUMBERS:
        raise CaseError(
            f"Expected real numbers as intensities; got an array of {image.dtype}. Convert it: "
            "abs(image) of complex numbers, image.astype(float) of others."
        )
    expected = len(model.dataset_json["channel_names"])
    if image.ndim != 4 or image.shape[0] != expected or 0 in image.shape:
        raise CaseError(
            f"Expected an array of {expected} channels x depth x height x width, none of length 0; "
            f"got shape {image.shape!r}. Add the channel axis, and a depth of 1 to a 2D image."
        )
    numbers = [size for size in spacing_mm if isinstance(size, Real) and 0 < size < math.inf]
    if len(spacing_mm) != 3 or len(numbers) != 3:
        raise CaseError(
            "Expected spacing_mm to be three sizes above 0, in the order of the array's axes; got "
            f"{tuple(spacing_mm)!r}. Give the voxel size of the image."
        )
    stage = model.configuration.previous_stage_name
    if stage is not None and previous_stage is None:
        raise CaseError(
            f"This model is the second stage of a cascade: it needs the segmentation of {stage}. "
            "Predict that first and give it as previous_stage."
        )
    if previous_stage is not None:
        require_shape("previous_stage", previous_stage.shape, image.shape[1:])


def say_what_is_odd(
    case: str,
    data: Shaped[np.ndarray, "channels depth height width"],
    shape: Sequence[int],
    model: Model,
) -> None:
    """Warn of an image that can be predicted, but whose result may say nothing.

    Args:
        case: its name.
        data: what nnU-Net's preprocessing made of it.
        shape: of the image as it was read, without channels.
        model: the model that will predict it.
    """
    if data.size and all(channel.min() == channel.max() for channel in data):
        logger.warning(
            "%s has one and the same intensity everywhere (after nnU-Net's normalization): its "
            "segmentation and scores say nothing. Look at the image.",
            case,
        )
    if len(model.configuration.patch_size) == 3 and 1 in shape:
        logger.warning(
            "%s is a single slice, but the model was trained on volumes: its segmentation may say "
            "little. Predict the whole volume, or take a 2d model.",
            case,
        )


def require_finite(image: str, values: Shaped[np.ndarray, "channels *space"]) -> None:
    """Refuse an image with values that are no numbers, which some normalizations hide.

    Args:
        image: what to call it.
        values: its intensities.

    Raises:
        CaseError: some are infinite or missing.
    """
    if not all(np.isfinite(channel).all() for channel in values):
        raise CaseError(_not_finite(image))


def _not_finite(image: str) -> str:
    return (
        f"{image} has infinite or missing (NaN) intensities, or ones beyond float32 (3.4e38). "
        "Replace them before predicting."
    )


def _require_one_volume(path: Path) -> None:
    """Refuse vectors and colours, of which nnU-Net's reader makes channels of a wrong axis.

    Several volumes in one file would be channels, but nnU-Net cannot write their segmentation.
    Colours of a PNG or TIFF are channels; other readers see to these.
    """
    if not path.name.endswith(_OF_VOLUMES):
        return
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return  # what reads it says why it cannot
    if reader.GetNumberOfComponents() > 1:
        raise CaseError(
            f"Expected one value a voxel in {path}; got {reader.GetNumberOfComponents()} (a vector "
            "or colour image). Write each channel to a file of its own."
        )
    if (volumes := math.prod(reader.GetSize()[3:])) > 1:
        raise CaseError(
            f"Expected one volume in {path}; got {volumes} (an image of four axes). Write each "
            "channel to a file of its own."
        )
