"""What an ONNX file says of itself, and whether it is up to date.

The metadata name the weights, the code and the library versions that a file was built from.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from train.files import read_json, sha256
from train.training import models

FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}


# The code that decides what is in a file.
SOURCES = ("train/onnx_export/*.py", "train/speed/fold.py", "train/data/preprocess.py", "zoo/*.py")


def metadata(card: Path, precision: str) -> dict[str, str]:
    """What a published model's ONNX file must say of itself: what it is built from and, once measured, its accuracy.

    Raises:
        OSError, files.FileError: a file of the card is missing, or damaged.
    """
    config = read_json(card / "config.json")
    cfg = config["pretrained_cfg"]
    measured = {}
    if (card / "metrics.json").is_file():
        accuracy = read_json(card / "metrics.json")["onnx_test_accuracy"][precision]
        measured["accuracy"] = f"{accuracy:.2f}"
    return {
        "model": config["architecture"],
        "tag": cfg["tag"],
        "labels": json.dumps(config["label_names"]),
        "safetensors_sha256": sha256(card / "model.safetensors"),
        "pretrained_cfg": json.dumps(
            {key: cfg[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
        ),
        "sources_sha256": _sources_sha256(),
        "precision": precision,
        **measured,
    }


@cache
def _sources_sha256() -> str:
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(models.REPOSITORY.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def stated(file: Path) -> dict[str, str]:
    """The metadata of an ONNX file; an empty dict where there is no such file, or a damaged one."""
    try:
        return {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    except (FileNotFoundError, DecodeError):
        return {}


def differing(card: Path, precision: str) -> list[str]:
    """Which of the metadata of a published model's ONNX file do not say what they must; none if it is up to date."""
    found = stated(card / FILES[precision])
    return [key for key, value in metadata(card, precision).items() if found.get(key) != value]


def outdated(card: Path) -> bool:
    """Whether a published model's ONNX files are missing, or built from other weights, another card or other code."""
    try:
        return any(differing(card, precision) for precision in FILES)
    except (OSError, ValueError, KeyError):  # a damaged card: `export` tells
        return True
