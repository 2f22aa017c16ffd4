"""Generated data sets and predictions in the layout that predict writes, without a network.

A prediction is its reference eroded, shifted or noised; its scores know a part of the truth, so
figures have something to find.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage
from skimage import io

LABELS = {"background": 0, "front": 1, "back": 2}


@dataclass(frozen=True)
class MadeUp:
    """A data set with predictions.

    Attributes:
        folder: holds ``labels`` (references) and ``out`` (predictions).
        cases: names of the cases.
    """

    folder: Path
    cases: tuple[str, ...]
    labels: dict[str, Any] = field(default_factory=lambda: dict(LABELS))

    @property
    def references(self) -> Path:
        return self.folder / "labels"

    @property
    def out(self) -> Path:
        return self.folder / "out"


def make(
    folder: Path,
    *,
    num_cases: int = 6,
    shape: tuple[int, ...] = (8, 14, 12),
    ending: str = ".nii.gz",
    labels: dict[str, Any] | None = None,
    num_heads: int = 0,
    probabilities: bool = False,
    seed: int = 0,
) -> MadeUp:
    """Write references, predictions, tables and, if asked for, probabilities and heads."""
    rng = np.random.default_rng(seed)
    made = MadeUp(folder, tuple(f"case_{n:02d}" for n in range(num_cases)), labels or dict(LABELS))
    for path in (made.references, made.out / "cases", made.out / "uncertainty"):
        path.mkdir(parents=True, exist_ok=True)
    describe(made, ending)
    errors = {}
    for number, case in enumerate(made.cases):
        reference = two_blobs(shape, rng)
        noise = 0.3 + 0.5 * number
        channels = softened(reference, rng, noise=noise)
        segmentation = channels.argmax(axis=0)
        write(reference, made.references / f"{case}{ending}")
        write(segmentation, made.out / f"{case}{ending}")
        if probabilities:
            save(channels, made.out / f"{case}.npz")
            entropy = -(channels * np.log(channels)).sum(axis=0).astype(np.float32)
            write_map(entropy, made.out / "uncertainty" / f"{case}_entropy.nii.gz")
        for head in range(num_heads):
            rough = softened(reference, rng, noise=noise + 0.4 * (num_heads - 1 - head))
            save(rough, made.out / "heads" / f"head_{head:02d}" / f"{case}.npz")
        record = {"case": case, "layer_agreement": [0.5 + 0.05 * k for k in range(num_heads - 1)]}
        (made.out / "cases" / f"{case}.json").write_text(json.dumps(record))
        errors[case] = noise
    write_scores(made, errors, rng)
    return made


def describe(made: MadeUp, ending: str) -> None:
    """``dataset.json`` of the predictions."""
    description = {
        "channel_names": {"0": "MRI"},
        "labels": made.labels,
        "numTraining": 1,
        "file_ending": ending,
    }
    if any(isinstance(value, list) for value in made.labels.values()):
        description["regions_class_order"] = [1, 2]
    (made.out / "dataset.json").write_text(json.dumps(description))


def write_scores(made: MadeUp, errors: dict[str, float], rng: np.random.Generator) -> None:
    """``uncertainty.csv``, its label table and ``uncertainty.json``."""
    rows = []
    for number, (case, error) in enumerate(errors.items()):
        rows.append(
            {
                "case": case,
                "consensus_dice": 1 / (1 + error) + rng.normal() * 0.02,
                "entropy_foreground_mean": error + rng.normal() * 0.1,
                "volume_ml": 1.0,
                "num_members": 5,
                "sometimes": np.nan if number == 1 else -error,
                "constant": 1.0,
            }
        )
    table = pd.DataFrame(rows)
    table.to_csv(made.out / "uncertainty.csv", index=False)
    names = [name for name in made.labels if name != "background"]
    per_label = pd.concat(
        [table.assign(label=number + 1, label_name=name) for number, name in enumerate(names)]
    )
    per_label.to_csv(made.out / "uncertainty_per_label.csv", index=False)
    better, worse = {"direction": "higher_is_better"}, {"direction": "higher_is_worse"}
    columns = {
        "consensus_dice": better,
        "entropy_foreground_mean": worse,
        "volume_ml": {"direction": "none"},
        "sometimes": better,
        "constant": better,
    }
    (made.out / "uncertainty.json").write_text(json.dumps({"columns": columns}))


def two_blobs(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Label 1 in the first half of the second axis, label 2 in the other."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"))
    labels = np.zeros(shape, dtype=np.uint8)
    for label, place in ((1, 0.3), (2, 0.7)):
        centre = np.array([0.5, place, 0.5]) * (np.array(shape) - 1) + rng.normal(size=3) * 0.4
        radii = np.maximum(np.array([0.4, 0.2, 0.35]) * np.array(shape), 1)
        inside = (((grid - centre.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
        labels[inside] = label
    return labels


def softened(
    labels: np.ndarray, rng: np.random.Generator, *, noise: float, channels: int = 3
) -> np.ndarray:
    """Probabilities around a label map, the rougher the more noise."""
    logits = np.stack([(labels == channel) * 3.0 for channel in range(channels)])
    rough = rng.normal(size=logits.shape)
    logits += noise * 2 * np.stack([ndimage.gaussian_filter(one, 0.7) for one in rough]) / 0.4
    powers = np.exp(logits - logits.max(axis=0))
    return (powers / powers.sum(axis=0)).astype(np.float32)


def save(probabilities: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, probabilities=probabilities)


def write(labels: np.ndarray, path: Path, *, spacing: Sequence[float] = (1.5, 1.0, 0.8)) -> None:
    """Write a label map as NIfTI or PNG."""
    if path.name.endswith(".png"):
        io.imsave(path, labels[0].astype(np.uint8), check_contrast=False)
        return
    image = sitk.GetImageFromArray(labels.astype(np.uint8))
    image.SetSpacing([float(size) for size in spacing[::-1]])
    sitk.WriteImage(image, str(path))


def write_map(values: np.ndarray, path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
