"""The networks of "Deep Networks for Image Classification". Importing this package registers them with timm."""

__version__ = "0.1.0"  # the project's: pyproject.toml reads it here

from importlib import import_module

from zoo.calibration import probabilities
from zoo.catalog import NETWORKS

__all__ = ["probabilities"]

for _family in sorted({network.family for network in NETWORKS.values()}):
    import_module(f"zoo.{_family}")
