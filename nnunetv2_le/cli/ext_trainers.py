"""``nnUNetv2_le_ext_trainers``: the folder for ``nnUNet_extTrainer``, and nothing else on stdout.

Example::

    export nnUNet_extTrainer="$(nnUNetv2_le_ext_trainers)"
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nnunetv2_le.cli.common import run_main


@dataclass(frozen=True)
class ExtTrainersRequest:
    """Nothing to choose."""


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments: none."""
    return argparse.ArgumentParser(
        prog="nnUNetv2_le_ext_trainers",
        description="Prints the folder that the environment variable nnUNet_extTrainer has to "
        "name, so that nnU-Net's own commands find the layer-ensemble trainers: "
        'export nnUNet_extTrainer="$(nnUNetv2_le_ext_trainers)"',
    )


def run(request: ExtTrainersRequest) -> None:
    """Print the folder."""
    from nnunetv2_le.training.registry import trainers_folder

    sys.stdout.write(f"{trainers_folder()}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return run_main(build_parser(), lambda _: ExtTrainersRequest(), run=run, argv=argv)


if __name__ == "__main__":
    sys.exit(main())
