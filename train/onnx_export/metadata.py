"""The metadata of the ONNX files, and whether a file is up to date.

The metadata name the weights, the card, the code and the library versions that a file was built from.
"""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from train.files import read_json, sha256
from train.training import models

# By precision. Accuracies are measured on these.
FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
# The int8 network once more, with the same results, for processors with AMX: see tiles.py.
AMX_FILE = "model.int8-amx.onnx"
ALL_FILES = (*FILES.values(), AMX_FILE)

# The code that decides the content of the files.
SOURCES = ("train/onnx_export/*.py", "train/speed/fold.py", "train/data/preprocess.py", "zoo/*.py")


# What a card's `config.json` has once it is calibrated; the last two are null for a model that lacks them.
CALIBRATION = ("temperature", "curvature", "abstain_below", "familiarity")

# What the fp32 file of a model states that loses too much in int8, and has no other file.
NO_INT8 = {"int8": "none"}


def files(card: Path) -> tuple[str, ...]:
    """List the ONNX files that a published model has: all, or the fp32 one alone where int8 costs too much."""
    return (FILES["fp32"],) if NO_INT8.items() <= stated(card / FILES["fp32"]).items() else ALL_FILES


def metadata(card: Path, file: str) -> dict[str, str]:
    """What one of a published model's ONNX files must state: what it is built from and, once measured, its accuracy.

    Args:
        card: the folder of the published model.
        file: one of `ALL_FILES`.

    Raises:
        OSError, files.FileError: a file of the card is missing or damaged.
    """
    precision = "fp32" if file == FILES["fp32"] else "int8"
    config = read_json(card / "config.json")
    cfg = config["pretrained_cfg"]
    expected = {
        "model": config["architecture"],
        "tag": cfg["tag"],
        "labels": json.dumps(config["label_names"]),
        "safetensors_sha256": sha256(card / "model.safetensors"),
        "pretrained_cfg": json.dumps(
            {key: cfg[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
        ),
        "sources_sha256": _sources_sha256(),
        "library_versions": json.dumps(_library_versions()),
        "precision": precision,
    }
    expected |= {key: json.dumps(config[key]) for key in CALIBRATION if config.get(key) is not None}
    if file == AMX_FILE:
        expected["variant"] = "amx"
    if (card / "metrics.json").is_file():
        accuracies = read_json(card / "metrics.json")["onnx_test_accuracy"]
        if precision in accuracies:  # not yet, where int8 has become possible
            expected["accuracy"] = f"{accuracies[precision]:.2f}"
    return expected


@cache
def _sources_sha256() -> str:
    digest = hashlib.sha256()
    for pattern in SOURCES:
        for path in sorted(models.REPOSITORY.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _library_versions() -> dict[str, str]:
    """The versions of the libraries that can change a file's content.

    - torch folds the weights, traces the network and exports it;
    - timm has layers of the networks, and loads their weights;
    - onnxscript and onnx-ir translate torch's operators and optimise the graph;
    - onnx infers the shapes that small_maps.py goes by, and writes the file;
    - onnxruntime calibrates and quantises.

    torch's version counts without its build (`+cpu`, `+cu130`), as the export runs on the CPU with any of them.
    ONNX Runtime is asked itself, as its GPU build is another package. numpy and protobuf do not count: they only
    compute and store what the others decide.
    """
    found = {name: version(name) for name in ("onnx", "onnx-ir", "onnxscript", "timm")}
    return {**found, "onnxruntime": onnxruntime.__version__, "torch": version("torch").partition("+")[0]}


def stated(file: Path) -> dict[str, str]:
    """The metadata of an ONNX file; empty if the file is missing or damaged."""
    try:
        return {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    except (FileNotFoundError, DecodeError):
        return {}


def differing(card: Path, file: str) -> list[str]:
    """The keys of `metadata` that one of a published model's ONNX files states differently; none if it is up to date.

    Raises:
        OSError, files.FileError: a file of the card is missing or damaged.
    """
    found, expected = stated(card / file), metadata(card, file)
    # A threshold that the card no longer has must go too.
    return [key for key in {**expected, **dict.fromkeys(CALIBRATION)} if found.get(key) != expected.get(key)]


def outdated(card: Path) -> bool:
    """Whether a published model's ONNX files are missing, or built from other weights, code or library versions."""
    try:
        return any(differing(card, file) for file in files(card))
    except (OSError, ValueError, KeyError):  # a damaged card: `export` says what is wrong with it
        return True
