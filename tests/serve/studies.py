"""Study files with results that a test can compute."""

import base64
import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FILTERS = {"first": [(127, 127, 127), (127, 0, -127)]}


def write_study(model: Any, class_maps: bool = True, **metadata: str) -> None:
    """Write the study file of a tiny model.

    The first map is the mean of the colours, the second the first colour less the last one; the other stages are these
    maps, averaged over blocks of 4 and 16 pixels. The class maps are the last stage's first map, times the class.
    """
    height, width, channels = model.shape
    weights = np.zeros((2, channels, 1, 1), np.float32)
    weights[0], weights[1, 0] = 1 / channels, 1
    weights[1, -1] -= 1
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["pixels"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pixels", "weights"], ["first"]),
    ]
    sizes = {"first": 1, "middle": 4, "last": height // 2}
    for name, block in list(sizes.items())[1:]:
        nodes.append(helper.make_node("AveragePool", ["first"], [name], kernel_shape=[block] * 2, strides=[block] * 2))
    constants = {"weights": weights}
    if class_maps:
        by_class = np.zeros((10, 2, 1, 1), np.float32)
        by_class[:, 0, 0, 0] = np.arange(10)
        constants["by_class"] = by_class
        nodes.append(helper.make_node("Conv", ["last", "by_class"], ["class_maps"]))
    outputs = [*sizes, *(["class_maps"] if class_maps else [])]
    graph = helper.make_graph(
        nodes,
        "study",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", *model.shape])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None, None, None]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    stages = [_stage(name, height // block, width // block, block, channels) for name, block in sizes.items()]
    usual = {"safetensors_sha256": "0" * 64, "stages": json.dumps(stages)}
    helper.set_model_props(proto, {**usual, **metadata})
    onnx.save(proto, model.folder / "model.study.onnx")


def _stage(name: str, height: int, width: int, block: int, channels: int) -> dict[str, Any]:
    filters = [
        {
            "inputs": channels,
            "shown": list(range(channels)),
            "size": [1, 1],
            "weights": base64.b64encode(np.array(values[:channels], np.int8).tobytes()).decode(),
        }
        for values in FILTERS.get(name, [])
    ]
    found: dict[str, Any] = {
        "name": name,
        "layer": f"layer of {name}",
        "shape": [2, height, width],
        "rows": [(block * i, block * i + block - 1) for i in range(height)],
        "columns": [(block * i, block * i + block - 1) for i in range(width)],
        "filters": filters or [None, None],
    }
    if name == "last":
        found["classes"] = [[0, 9], [9, 0]]
    return found
