"""Writing a case: segmentation, probabilities, voxel maps and its scores. Files appear whole or not at all.

Everything is written under a temporary name in the same folder tree and renamed when it is complete; ``cases/CASE.json`` comes
last, so that its presence means that the case is done.
"""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float

from nnunetv2_le.errors import OutputError
from nnunetv2_le.inference.model import Model
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.records import case_record
from nnunetv2_le.inference.settings import PredictionSettings

_MAP_COMPRESSION = 1  # float maps hardly compress; higher levels of gzip cost seconds and save a few percent


class CaseWriter:
    """Writes cases of one run into one folder.

    Args:
        folder: OUT.
        model: decides file ending and how nnU-Net writes segmentations.
        settings: decides which files there are.
    """

    def __init__(self, folder: Path, model: Model, settings: PredictionSettings) -> None:
        self.folder = folder
        self.model = model
        self.settings = settings
        self.ending: str = model.dataset_json["file_ending"]

    def is_done(self, case: str) -> bool:
        """Whether an earlier run wrote all that this one would write."""
        return all(path.is_file() for path in self.files(case))

    def files(self, case: str) -> list[Path]:
        """The files of a case, in the order in which they are written."""
        files = [self.folder / f"{case}{self.ending}"]
        if self.settings.save_probabilities:
            files += [self.folder / f"{case}.npz", self.folder / f"{case}.pkl"]
        files += [self._map_file(case, name) for name in self.settings.maps]
        return [*files, self.record_file(case)]

    def record_file(self, case: str) -> Path:
        """The file whose presence means that the case is done."""
        return self.folder / "cases" / f"{case}.json"

    def write(self, prediction: CasePrediction) -> None:
        """Write all files of a case.

        Raises:
            OutputError: a file cannot be written (no space, no permission).
        """
        try:
            self._write(prediction)
        except OSError as error:
            raise OutputError(
                f"The results of {prediction.case} cannot be written to {self.folder} ({error.strerror or error}). Free "
                f"space or choose another folder, then go on with --continue_prediction."
            ) from error

    def _write(self, prediction: CasePrediction) -> None:
        case, settings = prediction.case, self.settings
        self.record_file(case).unlink(missing_ok=True)
        writer = self.model.plans.image_reader_writer_class()
        segmentation = prediction.segmentation()
        replace_whole(
            self.folder / f"{case}{self.ending}",
            lambda path: writer.write_seg(segmentation, str(path), prediction.properties),
            ending=self.ending,
        )
        del segmentation
        if settings.save_probabilities:
            self._write_probabilities(self.folder, prediction, None)
        for name in settings.maps:
            write_map(self._map_file(case, name), prediction.voxel_map(name), prediction.properties)
        if settings.save_heads:
            self._write_heads(prediction)
        record = case_record(prediction, skip_heads=settings.skip_heads, fusion=settings.fusion)
        write_json(self.record_file(case), record)

    def _write_heads(self, prediction: CasePrediction) -> None:
        """A folder a head in nnU-Net's own layout, so that nnUNetv2_ensemble can combine any of them."""
        members = prediction.accumulated.member_logits
        for family in prediction.plan.families:
            if family.name != "heads" or members is None:
                continue
            for position, number in enumerate(prediction.plan.numbers(family)):
                folder = self.folder / "heads" / f"head_{position:02d}"
                folder.mkdir(parents=True, exist_ok=True)
                for name in ("dataset.json", "plans.json"):
                    content = self.model.dataset_json if name[0] == "d" else self.model.plans.plans
                    if not (folder / name).is_file():
                        write_json(folder / name, content)
                self._write_probabilities(folder, prediction, members[number])

    def _write_probabilities(
        self, folder: Path, prediction: CasePrediction, logits: np.ndarray | None
    ) -> None:
        """Probabilities and properties as nnU-Net saves them."""
        probabilities = prediction.probabilities(logits)
        replace_whole(
            folder / f"{prediction.case}.npz",
            lambda path: np.savez_compressed(path, probabilities=probabilities),
            ending=".npz",
        )
        replace_whole(
            folder / f"{prediction.case}.pkl",
            lambda path: path.write_bytes(pickle.dumps(prediction.properties)),
            ending=".pkl",
        )

    def _map_file(self, case: str, name: str) -> Path:
        return self.folder / "uncertainty" / f"{case}_{name}.nii.gz"


def replace_whole(target: Path, write: Callable[[Path], Any], *, ending: str) -> None:
    """Write a file under a hidden name beside its own, then rename it: it is there whole or not at all.

    Args:
        target: the file.
        write: writes to the path that it is given.
        ending: file ending that ``write`` needs to see.
    """
    hidden = target.parent / f".{target.name[: -len(ending)]}.{os.getpid()}.part{ending}"
    try:
        write(hidden)
        if not hidden.is_file():
            raise OSError(f"nothing was written to {hidden}")
        os.replace(hidden, target)
    except RuntimeError as error:  # SimpleITK's way to report a failed write
        raise OSError(_last_line(error)) from error
    finally:
        hidden.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    text = json.dumps(content, indent=2, allow_nan=False)
    replace_whole(path, lambda part: part.write_text(text, encoding="utf-8"), ending=".json")


def write_map(
    path: Path, values: Float[np.ndarray, "z y x"], properties: dict[str, Any]
) -> None:
    """Write a voxel map as float32 NIfTI with the geometry of the image.

    Args:
        path: a ``.nii.gz`` file.
        values: the map on the image's grid, axes as nnU-Net's reader gave them.
        properties: what nnU-Net's reader noted of the image.
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    if "nibabel_stuff" in properties:
        image = _nibabel_image(values, properties["nibabel_stuff"])
        replace_whole(path, lambda part: nibabel.save(image, part), ending=".nii.gz")
        return
    picture = _sitk_image(values, properties)
    replace_whole(
        path,
        lambda part: sitk.WriteImage(picture, str(part), True, _MAP_COMPRESSION),
        ending=".nii.gz",
    )


def _sitk_image(values: np.ndarray, properties: dict[str, Any]) -> sitk.Image:
    geometry = properties.get("sitk_stuff")
    if geometry and len(geometry["spacing"]) == 2:
        values = values[0]
    image = sitk.GetImageFromArray(values)
    if geometry is None:
        image.SetSpacing([abs(float(size)) for size in _reversed(properties["spacing"])])
        return image
    image.SetSpacing(geometry["spacing"])
    image.SetOrigin(geometry["origin"])
    image.SetDirection(geometry["direction"])
    return image


def _nibabel_image(values: np.ndarray, geometry: dict[str, Any]) -> nibabel.Nifti1Image:
    """NIfTI with the original affine; arrays of the reorienting reader are turned back first."""
    volume = values.transpose(2, 1, 0)
    if "reoriented_affine" not in geometry:
        return nibabel.Nifti1Image(volume, affine=geometry["original_affine"])
    image = nibabel.Nifti1Image(volume, affine=geometry["reoriented_affine"])
    back = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"),
        nibabel.orientations.io_orientation(geometry["original_affine"]),
    )
    return image.as_reoriented(back)


def _reversed(values: Sequence[float]) -> list[float]:
    return list(values)[::-1]


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
