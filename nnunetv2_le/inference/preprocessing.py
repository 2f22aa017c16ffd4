"""From the files of a case to what nnU-Net's preprocessor makes of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from nnunetv2_le.inference.case_checks import require_channels, require_finite, require_shape
from nnunetv2_le.inference.image_resampling import preprocessing_configuration
from nnunetv2_le.inference.model import Model


def run_preprocessor(
    images: Sequence[Path], before: str | None, model: Model
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What nnU-Net's preprocessor makes of a case, and what it notes of it.

    Args:
        images: files of the case.
        before: segmentation of the previous stage of a cascade.
        model: the model.
    """
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    files = [str(path) for path in images]
    configuration = preprocessing_configuration(
        model.configuration, preprocessor, needs_labels=before is not None
    )
    rest = (model.plans, configuration, model.dataset_json)
    if type(preprocessor).run_case is not DefaultPreprocessor.run_case:
        result: tuple[np.ndarray, np.ndarray, dict[str, Any]]
        result = preprocessor.run_case(files, before, *rest)
        require_channels(len(result[0]), images, model)
        return result
    # The same steps, without a second copy of the image.
    reader = model.plans.image_reader_writer_class()
    image, properties = reader.read_images(files)
    require_channels(len(image), images, model)
    require_finite(f"The image {', '.join(path.name for path in images)}", image)
    labels = None if before is None else reader.read_seg(before)[0]
    if labels is not None:
        require_shape(f"{before}", labels.shape[1:], image.shape[1:])
    result = preprocessor.run_case_npy(image.view(_OwnImage), labels, properties, *rest)
    return result


class _OwnImage(np.ndarray):
    """An image that was read for nnU-Net's preprocessor alone, which first copies what it gets."""

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> np.ndarray:  # type: ignore[override]
        """The image itself where it has the type."""
        plain = self.view(np.ndarray)
        return plain if plain.dtype == dtype else plain.astype(dtype, *args, **kwargs)
