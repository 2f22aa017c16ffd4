"""A tiny data set with labels, its split, and a model of random weights for each fold."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from inference.model_folders import TinyImage, TinyModel

from nnunetv2_le.cli.calibrate import main as calibrate
from nnunetv2_le.cli.predict_from_modelfolder import main as predict

DATASET = "Dataset999_Tiny"
PROMISES = (
    *("-alpha", "0.1", "-set_alpha", "0.1", "-contour_alpha", "0.2", "-outlier_alpha", "0.1"),
    *("-tolerance", "0.3"),
)
WAYS = ("-device", "cpu", "--disable_progress_bar", "-npp", "0", "-nps", "0")


@dataclass(frozen=True)
class LabelledDataset:
    """Where everything lies.

    Attributes:
        model: model folder with two folds.
        raw: folder of the raw data set.
        split: ``splits_final.json``.
        new: folder of images without labels.
    """

    model: Path
    raw: Path
    split: Path
    new: Path

    def calibrate(self, *more: str, folds: tuple[str, ...] = ("0", "1")) -> int:
        return calibrate(["-m", str(self.model), "-f", *folds, *PROMISES, *WAYS, *more])

    def predict(self, output: Path, *more: str, folds: tuple[str, ...] = ("0", "1")) -> int:
        where = ["-m", str(self.model), "-i", str(self.new), "-o", str(output)]
        return predict([*where, "-f", *folds, *WAYS, *more])

    def copied_model(self, folder: Path, *, calibrated: bool = False) -> "LabelledDataset":
        """The same with a model folder that a test may change."""
        left_out = None if calibrated else shutil.ignore_patterns("calibration*")
        model = Path(shutil.copytree(self.model, folder / "model", ignore=left_out))
        return LabelledDataset(model, self.raw, self.split, self.new)


def write(folders: Any, model: TinyModel, *, num_cases: int = 24) -> LabelledDataset:
    """Generate everything below nnU-Net's folders; every second case is of fold 1."""
    raw, split = folders.raw / DATASET, folders.preprocessed / DATASET / "splits_final.json"
    names = [f"case_{number:02d}" for number in range(num_cases)]
    for number, name in enumerate(names):
        files = TinyImage(shape=(14, 16 + number % 5, 16), num_channels=model.num_channels).write(
            raw / "imagesTr", name
        )
        _write_labels(files[0], raw / "labelsTr" / f"{name}.nii.gz", share=0.2 + 0.02 * number)
    new = folders.raw.parent / "new"
    for name in ("first", "second"):
        TinyImage(shape=(15, 18, 17), spacing=(1.0, 1.2, 1.0), border=2).write(new, name)
    split.parent.mkdir(parents=True)
    folds = [{"train": names[1 - n :: 2], "val": names[n::2]} for n in range(2)]
    split.write_text(json.dumps(folds))
    folder = model.write(folders.results / DATASET / "Trainer__nnUNetPlans__3d_fullres")
    return LabelledDataset(folder, raw, split, new)


def _write_labels(image: Path, labels: Path, *, share: float) -> None:
    """The brightest voxels, half of them one label and half the other."""
    picture = sitk.ReadImage(str(image))
    values = sitk.GetArrayFromImage(picture)
    array = (values > np.quantile(values, 1 - share)).astype(np.uint8)
    array[:, : array.shape[1] // 2] *= 2
    written = sitk.GetImageFromArray(array)
    written.CopyInformation(picture)
    labels.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(written, str(labels))
