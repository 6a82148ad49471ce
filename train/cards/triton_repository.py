"""Published models as a model repository of NVIDIA Triton Inference Server: NAME/config.pbtxt, NAME/1/model.onnx."""

import json
import shutil
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from train.errors import UserError
from train.files import atomic_write, write_text
from train.onnx_export.metadata import FILES

# Images in a run at most, as with this project's own server.
MAX_BATCH = 32
# Microseconds that a request may wait for others, while no full batch waits.
DELAY = 500
LABELS = "labels.txt"
# Triton sends nothing to a model before these runs: the first ones allocate memory and, on a GPU, choose kernels.
WARM_UP = (1, MAX_BATCH)
# fp32 runs on a GPU where Triton finds one. int8 is for CPUs alone.
KINDS = {"fp32": "KIND_AUTO", "int8": "KIND_CPU"}


def write(card: Path, folder: Path, precision: str) -> Path:
    """Write a published model into a Triton model repository, and return its folder there.

    The configuration comes last: what Triton loads is whole.

    Args:
        card: the folder of the published model, with its ONNX files.
        folder: the repository. Other models in it stay.
        precision: fp32 or int8.

    Raises:
        UserError: the card has no file of that precision, it is damaged, or a label does not fit into a labels file.
    """
    source = card / FILES[precision]
    if not source.is_file():
        valid = [name for name, file in FILES.items() if (card / file).is_file()]
        raise UserError(f"{card.name} has no {source.name}; valid are {', '.join(valid) or 'none'}")
    try:
        model = onnx.load(source)
    except DecodeError:
        raise UserError(f"{source} is damaged; build it with: python train/export.py {card}") from None
    shapes = {value.name: _sizes(value) for value in (*model.graph.input, *model.graph.output)}
    labels = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "labels"))
    if wrong := [label for label in labels if len(label.splitlines()) != 1]:
        raise UserError(f"{card.name}: the label {wrong[0]!r} is not one line, as Triton's labels files need")
    target = folder / card.name
    (target / "1").mkdir(parents=True, exist_ok=True)
    with atomic_write(target / "1" / "model.onnx") as temporary:
        shutil.copyfile(source, temporary)
    write_text(target / LABELS, "".join(f"{label}\n" for label in labels))
    write_text(target / "config.pbtxt", config(card.name, shapes["image"], len(labels), precision))
    return target


def _sizes(value: onnx.ValueInfoProto) -> list[int]:
    """The sizes of a tensor without the batch."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]


def config(name: str, size: list[int], classes: int, precision: str) -> str:
    """Write Triton's configuration of a model.

    Args:
        name: the model's name.
        size: [H, W, C] of its images.
        classes: how many it knows.
        precision: fp32 or int8.
    """
    dims = f"[ {', '.join(map(str, size))} ]"
    outputs = ",\n".join(
        f"  {{ name: {_text(output)} data_type: TYPE_FP32 dims: [ {classes} ] label_filename: {_text(LABELS)} }}"
        for output in ("logits", "probabilities")
    )
    warm_up = ",\n".join(
        f"  {{ name: {_text(f'{count} images')} batch_size: {count}\n"
        f'    inputs {{ key: "image" value {{ data_type: TYPE_UINT8 dims: {dims} zero_data: true }} }} }}'
        for count in WARM_UP
    )
    return f"""\
# Written by: python train/export.py --triton FOLDER --precision {precision}
name: {_text(name)}
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [
  {{ name: "image" data_type: TYPE_UINT8 dims: {dims} }}
]
output [
{outputs}
]
dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}
instance_group [
  {{ kind: {KINDS[precision]} count: 1 }}
]
model_warmup [
{warm_up}
]
"""


def _text(text: str) -> str:
    """Quote a text as the format does, any byte that is not plain ASCII as an octal number."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'
