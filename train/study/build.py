"""Build the study file of a published model, and tell whether it is up to date."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from train.files import atomic_write
from train.jobs import KILLED, first_line, in_processes
from train.onnx_export import metadata
from train.onnx_export.graph import OPSET
from train.study import graph
from train.training import models

FILE = "model.study.onnx"
# The code that decides the content of the files, beside that of `metadata.SOURCES`.
SOURCES = "train/study/*.py"
# What a study file states as the other ONNX files do.
SHARED = ("model", "tag", "labels", "safetensors_sha256", "pretrained_cfg", "sources_sha256", "library_versions")


def export(card: Path) -> str:
    """Write the study file of a published model beside its weights.

    A network without maps to show, or one that torch cannot export so, gets a file that returns nothing.

    Returns:
        Why there is nothing to show, in one line; empty if there is something.

    Raises:
        models.ModelError: the folder is no published model.
    """
    model, config = models.load_card(card)
    reason = ""
    try:
        study = graph.build(model, tuple(config["image_size"]))
        stages = json.dumps([_stage(one, study) for one in study.stages])
        proto, properties = graph.halved(study.proto), {"stages": stages}
    except Exception as error:  # torch's exporter raises nearly anything
        reason = first_line(error)
        proto, properties = _empty(config["image_size"]), {"stages": "[]", "reason": reason}
    helper.set_model_props(proto, {**properties, **_expected(card)})
    with atomic_write(card / FILE) as temporary:
        onnx.save(proto, temporary)
    return reason


def outdated(card: Path) -> bool:
    """Tell whether a published model's study file is missing, or built from other weights, code or library versions."""
    try:
        found, expected = metadata.stated(card / FILE), _expected(card)
    except (OSError, ValueError, KeyError):  # a damaged card: `export` says what is wrong with it
        return True
    return any(found.get(key) != value for key, value in expected.items())


def _expected(card: Path) -> dict[str, str]:
    stated = metadata.metadata(card, metadata.FILES["fp32"])
    return {**{key: stated[key] for key in SHARED}, "study_sources_sha256": _sources_sha256()}


@cache
def _sources_sha256() -> str:
    digest = hashlib.sha256()
    for path in sorted(models.REPOSITORY.glob(SOURCES)):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _stage(stage: graph.Stage, study: graph.Study) -> dict[str, Any]:
    """Describe a stage as the metadata hold it; the last one also with the classes that each channel counts for."""
    found: dict[str, Any] = {
        "name": stage.name,
        "layer": stage.layer,
        "shape": stage.shape,
        "rows": stage.field.rows,
        "columns": stage.field.columns,
        "filters": [one and one.as_json() for one in stage.filters],
    }
    if study.class_weights is not None and stage.name == graph.STAGES[-1]:
        weights = study.class_weights
        found["classes"] = [weights.argmax(0).tolist(), weights.argmin(0).tolist()]
    return found


def _empty(image_size: tuple[int, int, int]) -> onnx.ModelProto:
    """Make a graph that returns its input."""
    entry = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, ["batch", *image_size]) for name in ("image", "same")
    ]
    nodes = [helper.make_node("Identity", ["image"], ["same"])]
    return helper.make_model(
        helper.make_graph(nodes, "study", entry[:1], entry[1:]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )


@dataclass(frozen=True)
class Built:
    """A card whose study file has been written.

    Attributes:
        none: why the file has nothing to show, in one line; empty if it has.
        error: why it could not be written, in one line; empty if it was.
    """

    card: Path
    none: str
    error: str
    seconds: float


def export_all(cards: list[Path], jobs: int) -> Iterator[Built]:
    """Export the study files of several published models, `jobs` at a time, each in a process of its own.

    Yields:
        Each card as soon as it is done.
    """
    for card, built in in_processes(_attempt, cards, jobs):
        yield built or Built(card, "", KILLED, seconds=0)


def _attempt(card: Path) -> Built:
    began, none, failure = time.perf_counter(), "", ""
    try:
        none = export(card)
    except Exception as error:  # a damaged card, a full disk; the other models still get their files
        failure = first_line(error)
    return Built(card, none, failure, time.perf_counter() - began)
