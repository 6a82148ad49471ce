"""Predictions of a network for a whole split."""

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from train.data.loading import Split
from train.data.preprocess import Preprocess

# Images that are evaluated at a time, and their pixels at the network's input size: activations grow with these.
BATCH = 500
PIXELS = BATCH * 64 * 64
# A training step keeps the activations of all layers, evaluation those of one or two.
TIMES_TRAINING = 4


def fitting_batch(side: tuple[int, int], most: int = BATCH) -> int:
    """Return how many images of a height and width to evaluate at a time: at most `most`, and fewer large ones.

    500 images of 64x64 pixels, or as many pixels: 40 images of 224x224.
    """
    return max(1, min(most, PIXELS // (side[0] * side[1])))


def following_batch(side: tuple[int, int], trained: int) -> int:
    """Return how many images to evaluate at a time where `trained` images are trained on at a time."""
    return fitting_batch(side, min(BATCH, TIMES_TRAINING * trained))


@torch.inference_mode()
def predict(
    model: nn.Module, split: Split, preprocess: Preprocess, accelerator: Accelerator, batch_size: int | None = None
) -> Tensor:
    """Compute the logits of a split that lies on the device. The model is put into evaluation mode.

    Args:
        model: to evaluate.
        split: its images and labels.
        preprocess: to the network's input.
        accelerator: its processes share the images.
        batch_size: images at a time on each process; None for as many as `fitting_batch` gives.

    Returns:
        float32 [n, classes], in the order of the split, on every process.
    """
    model.eval()
    rows = TensorDataset(torch.arange(len(split)))
    logits = []
    # Not the accelerator's own method, which would keep every loader until the end of the run.
    batch = batch_size or fitting_batch(preprocess.size)
    loader = prepare_data_loader(DataLoader(rows, batch_size=batch), accelerator.device, put_on_device=True)
    for (index,) in loader:
        x = preprocess(split.images[index]).contiguous(memory_format=torch.channels_last)
        logits.append(accelerator.gather_for_metrics(model(x).float()))
    return torch.cat(logits)
