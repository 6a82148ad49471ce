"""The exported graph: batches of every size, an empty one among them."""

import numpy as np
import onnx
import pytest
import torch
from conftest import torch_logits

from train.onnx_export import graph, runtime, small_maps
from train.training import models


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
