"""Packages for setuptools; everything else stands in pyproject.toml.

The checkpoints lie at the top of the repository, where people look for them, and inside the package in a wheel, where
`refine infer` finds them after an installation. A package named `refine.checkpoints` that is mapped to that folder does
both; only the lite ones and U2-NetP are small enough for a wheel.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["refine", "refine.*"]), "refine.checkpoints"],
    package_dir={"refine.checkpoints": "checkpoints"},
    package_data={
        "refine": ["py.typed"],
        "refine.checkpoints": ["*_lite.safetensors", "*_lite_free.safetensors", "u2netp.safetensors", "*.md"],
    },
    include_package_data=False,
)
