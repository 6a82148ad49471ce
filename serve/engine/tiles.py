"""For processors that multiply int8 matrices in tiles (AMX): graphs whose convolutions use the tiles too.

For weights whose zero point is 0, ONNX Runtime has special convolutions, made for 8-bit dot products. They use no
tiles; all other convolutions become matrix products, which do. So here the weights and their zero points are lowered by
one: the same network, to the bit, in half to nine tenths of the time on one core. Without tiles it would take a fifth
longer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Numbers of fields and types in ONNX's protocol buffers: their package takes longer to import than a model to load.
GRAPH, INITIALIZER = 7, 5
DIMS, DATA_TYPE, NAME, RAW_DATA = 1, 2, 8, 9
INT8 = 3
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5


@dataclass
class _Tensor:
    sides: int
    type: int
    values: npt.NDArray[np.int8]  # its bytes in the model


def with_tiles(model: bytes) -> bytes | None:
    """Move the zero points of an ONNX model's int8 convolutions to -1; None where it has none at 0.

    They are found by how `train/export.py` names and stores them.
    """
    changed = bytearray(model)
    tensors = dict(_initializers(memoryview(changed)))
    found = False
    for name, weight in tensors.items():
        zero = tensors.get(name.removesuffix("_quantized") + "_zero_point")
        if not name.endswith("_quantized") or weight.type != INT8 or weight.sides != 4:
            continue
        # There is no int8 below -128; the exporter makes weights of -127 to 127.
        if (
            zero is None
            or zero.type != INT8
            or not zero.values.size
            or zero.values.any()
            or weight.values.min() == -128
        ):
            continue
        weight.values -= 1
        zero.values -= 1
        found = True
    return bytes(changed) if found else None


def _initializers(model: memoryview) -> Iterator[tuple[str, _Tensor]]:
    for number, graph in _fields(model):
        if number != GRAPH or isinstance(graph, int):
            continue
        for number, tensor in _fields(graph):
            if number != INITIALIZER or isinstance(tensor, int):
                continue
            name, sides, kind, values = "", 0, 0, memoryview(b"")
            for number, value in _fields(tensor):
                if number == DIMS:  # one per field, or all in one
                    sides += 1 if isinstance(value, int) else sum(byte < 0x80 for byte in value)
                elif isinstance(value, int):
                    kind = value if number == DATA_TYPE else kind
                elif number == NAME:
                    name = str(value, "utf-8")
                elif number == RAW_DATA:
                    values = value
            yield name, _Tensor(sides, kind, np.frombuffer(values, np.int8))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Read the numbers and values of a message's fields: an int, or the bytes of what has a length."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
        elif kind == LENGTH:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise ValueError("the file ends within a field")
            yield key >> 3, message[at : at + length]
            at += length
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            at += 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"no such kind of field: {kind}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Read a number, seven bits per byte, the lowest first; return it, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at
