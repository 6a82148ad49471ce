"""Predictions of a network for a whole split."""

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from train.data.loading import Split
from train.data.preprocess import Preprocess

BATCH = 500


@torch.inference_mode()
def predict(model: nn.Module, split: Split, preprocess: Preprocess, accelerator: Accelerator) -> Tensor:
    """Compute the logits of a split that lies on the device. The model is put into evaluation mode.

    Returns:
        float32 [n, classes], in the order of the split, on every process.
    """
    model.eval()
    rows = TensorDataset(torch.arange(len(split)))
    logits = []
    # Not the accelerator's own method, which would keep every loader until the end of the run.
    loader = prepare_data_loader(DataLoader(rows, batch_size=BATCH), accelerator.device, put_on_device=True)
    for (index,) in loader:
        x = preprocess(split.images[index]).contiguous(memory_format=torch.channels_last)
        logits.append(accelerator.gather_for_metrics(model(x).float()))
    return torch.cat(logits)
