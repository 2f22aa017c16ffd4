"""Feature vectors of the cases that a network was calibrated on, and the bytes of their file.

The file is a NumPy archive with one array a fold, not a pickle: reading it runs nothing.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nnunetv2_le.errors import InputError

FEATURES_FILE = "calibration_features.npz"


@dataclass(frozen=True)
class KnownFeatures:
    """Feature vectors of the known cases of one fold's network.

    Attributes:
        features: of each case.
        groups: the patient of each case; empty: every case is one.
    """

    features: Float[np.ndarray, "cases features"]
    groups: tuple[str, ...] = ()


def packed(features: dict[str, KnownFeatures]) -> bytes:
    """The file of these features, by fold; no bytes without any."""
    if not features:
        return b""
    stream = io.BytesIO()
    arrays: dict[str, Any] = {fold: np.asarray(known.features) for fold, known in features.items()}
    np.savez(stream, **arrays)
    return stream.getvalue()


def checksum(content: bytes) -> str:
    """SHA-256 of the file, as ``calibration.json`` names it; empty without a file."""
    return hashlib.sha256(content).hexdigest() if content else ""


def read_features(path: Path, *, sha256: str, made_with: str) -> dict[str, np.ndarray]:
    """The arrays of a file of features, by fold.

    Args:
        path: of the file.
        sha256: the checksum that it has to have.
        made_with: name of the file that says so, for the message.

    Raises:
        InputError: it cannot be read, or is another file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} belongs to the calibration and cannot be read: {error.strerror}; calibrate "
            "again"
        ) from error
    if checksum(content) != sha256:
        raise InputError(
            f"{path} is not the file that {made_with} was written with; calibrate again"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
