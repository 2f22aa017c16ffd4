"""What is installed, what it needs and which commands it brings."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent

COMMANDS = (
    "train",
    "ext_trainers",
    "predict",
    "predict_from_modelfolder",
    "evaluate",
    "compare",
    "calibrate",
    "demo",
)

REQUIRED = (
    "nnunetv2>=2.8,<3",
    # nnU-Net brings these too; they are listed because we import them. An older torch has no
    # torch.serialization.safe_globals, with which checkpoints are read.
    "torch>=2.5",
    "batchgenerators",
    "SimpleITK",
    "numpy",
    "scipy",
    "scikit-learn",
    "matplotlib",
    "pandas",
    "tqdm",
    "nibabel",
    "acvl_utils",
    # Ours.
    "connected-components-3d",
    "jaxtyping",
)

TEST = (
    "beartype",
    "crepes",
    "hypothesis",
    "mapie",
    "mypy",
    "pytest",
    "pytest-cov",
    "pytest-xdist",
    "ruff",
    "torchmetrics",
)


def version() -> str:
    """The version, read without importing the package."""
    text = (ROOT / "nnunetv2_le" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


setup(
    name="nnunetv2_le",
    version=version(),
    description="Layer Ensembles in nnU-Net v2: a segmentation, and how far to trust it",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    # Namespace packages too: `ext_trainers` is a folder that nnU-Net searches, not a package.
    packages=find_namespace_packages(
        include=["nnunetv2_le", "nnunetv2_le.*"], exclude=["*.__pycache__"]
    ),
    package_data={"nnunetv2_le": ["py.typed"]},
    install_requires=REQUIRED,
    extras_require={"test": TEST},
    entry_points={
        "console_scripts": [f"nnUNetv2_le_{name}=nnunetv2_le.cli.{name}:main" for name in COMMANDS]
    },
    classifiers=[
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
)
