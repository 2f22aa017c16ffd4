"""Every error that the package raises on purpose.

    LayerEnsembleError                 one clear line for a person, exit code 1
    |-- UnsupportedArchitectureError   (TypeError)          a network that cannot carry heads
    |-- ModelFolderError               (FileNotFoundError)  a model folder that lacks something
    |-- CheckpointError                (ValueError)         a checkpoint that does not fit
    |-- InputError                     (ValueError)         images or tables that cannot be used
    |-- CaseError                      (RuntimeError)       one case failed; the others go on
    |-- OutputError                    (OSError)            a result cannot be written
    `-- SettingError                   (ValueError)         an option that makes no sense

Each message says what was expected, what came, and what to do about it.
"""

from collections.abc import Iterable


class LayerEnsembleError(Exception):
    """Base of all errors that a command reports as one line with exit code 1."""


class UnsupportedArchitectureError(LayerEnsembleError, TypeError):
    """The network has no convolutional encoder and decoder to attach heads to."""


class ModelFolderError(LayerEnsembleError, FileNotFoundError):
    """A model folder lacks a file or fold, or its parts do not fit together."""


class CheckpointError(LayerEnsembleError, ValueError):
    """A checkpoint is corrupt or does not fit the network."""


class InputError(LayerEnsembleError, ValueError):
    """Images, arrays or tables that cannot be used as given."""


class CaseError(LayerEnsembleError, RuntimeError):
    """One case failed; the other cases are not affected."""


class OutputError(LayerEnsembleError, OSError):
    """A result cannot be written where it was asked for."""


class SettingError(LayerEnsembleError, ValueError):
    """An option, or a combination of options, that makes no sense."""


def first_few(names: Iterable[object], most: int = 3) -> str:
    """What a message lists of many: the first ones, and how many more there are."""
    every = [str(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return f"{', '.join(every[:most])}{more}"
