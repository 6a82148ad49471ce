"""The exported graph: batches of every size, an empty one among them."""

import numpy as np
import onnx
import pytest
import torch
from conftest import torch_logits

from train.onnx_export import graph, quantize, runtime, small_maps
from train.training import models
from zoo.calibration import Calibration, calibrated


@pytest.mark.parametrize("side", [32, 48])
def test_batches_of_every_size(side: int) -> None:
    """At 48 the graph resizes the images."""
    torch.manual_seed(0)
    model = models.create("tiny_net", "cifar10", 10, 3, side=side).eval()
    proto = graph.build(model, (32, 32, 3))
    small_maps.as_products(proto)
    onnx.checker.check_model(proto)
    session = runtime.session(proto.SerializeToString())
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for count in (0, 1, 3):
        pixels = images[:count].permute(0, 2, 3, 1).numpy()
        logits, probabilities = session.run(["logits", "probabilities"], {"image": pixels})
        assert logits.shape == probabilities.shape == (count, 10)
        np.testing.assert_allclose(logits, torch_logits(model, images[:count]), atol=1e-4)


@pytest.mark.parametrize("calibration", [Calibration(0.25), Calibration(0.25, 2.0)])
def test_calibration_changes_the_probabilities_alone(calibration: Calibration) -> None:
    torch.manual_seed(0)
    model = models.create("tiny_net", "cifar10", 10, 3).eval()
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    plain, changed = (graph.build(model, (32, 32, 3), numbers) for numbers in (None, calibration))
    for build in (lambda proto: proto, lambda proto: quantize.quantize(proto, pixels)):
        (logits, before), (same, after) = (
            runtime.session(build(proto).SerializeToString()).run(["logits", "probabilities"], {"image": pixels})
            for proto in (plain, changed)
        )
        np.testing.assert_array_equal(same, logits)
        np.testing.assert_allclose(before, torch.from_numpy(logits).softmax(1), atol=1e-5)
        np.testing.assert_allclose(after, calibrated(torch.from_numpy(logits), *calibration), atol=1e-5)
        assert np.abs(after - before).max() > 0.01
