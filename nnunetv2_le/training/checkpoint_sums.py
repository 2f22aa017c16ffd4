"""Whether the weights in a checkpoint are those that were saved."""

import zipfile
from pathlib import Path

_PIECE_BYTES = 2**22


def require_sound(path: Path) -> None:
    """Compare the checksums in a checkpoint, which torch writes and does not look at.

    A quarter of a gigabyte takes a fifth of a second. ``torch.save`` can be told to write no
    checksums; then they are 0.

    Args:
        path: an existing file; what is no archive (an older torch's) has no checksums.

    Raises:
        BadZipFile: naming what is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for entry in filter(lambda entry: entry.CRC, archive.filelist):
            with archive.open(entry) as content:
                while content.read(_PIECE_BYTES):
                    pass
