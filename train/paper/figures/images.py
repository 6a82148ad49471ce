"""The paper's Figures 3 and 4: images of the datasets, and the same images as the improved networks train on them."""

from pathlib import Path

import numpy as np
import timm
import torch
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from train.data import loading
from train.data.augment import augment, draw
from train.data.preprocess import Preprocess
from train.files import atomic_write
from train.training import models, recipes
from zoo.catalog import DATASETS

SAMPLES = models.REPOSITORY / "train" / "samples"
# Of the random numbers of the augmentation.
SEED = 0
# How often each image is augmented.
TIMES = 2
NETWORK = "improved_vgg16"  # the improved networks all have one input size
# In pixels: side of an image, distance between two, room for the names of rows and columns.
SIDE, GAP, LEFT, TOP = 64, 6, 130, 24
INK, PAPER = "#1f2328", "#ffffff"


def write(dataset: str, file: Path) -> None:
    """Write the images as PNG: a column for each class, a row for each of `rows`."""
    found, labels = rows(dataset), DATASETS[dataset].labels
    size = (LEFT + len(labels) * (SIDE + GAP), TOP + len(found) * (SIDE + GAP))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 11)  # matplotlib brings it along
    for column, label in enumerate(labels):
        pen.text((LEFT + column * (SIDE + GAP) + SIDE / 2, TOP / 2), label, INK, font, anchor="mm")
    for row, (name, images) in enumerate(found.items()):
        y = TOP + row * (SIDE + GAP)
        for line, words in enumerate((name, "x".join(map(str, images.shape[1:3])))):
            pen.text((GAP, y + SIDE / 2 + (2 * line - 1) * 8), words, INK, font, anchor="lm")
        for column, image in enumerate(images):
            tile = Image.fromarray(image.squeeze()).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(tile, (LEFT + column * (SIDE + GAP), y))
    # 256 colours are a third of the size, and look the same.
    with atomic_write(file) as temporary:
        sheet.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)


def rows(dataset: str) -> dict[str, np.ndarray]:
    """Return the first sample of each class, and the same images resized and augmented as recipe `paper` does it.

    Args:
        dataset: mnist or cifar10.

    Returns:
        uint8 [10, height, width, channels] by what they are, the dataset's own pixels first.
    """
    train = loading.load(dataset, SAMPLES).train
    first = [int((train.labels == label).nonzero()[0]) for label in range(len(DATASETS[dataset].labels))]
    originals = train.images[first]
    preprocess = Preprocess(models.pretrained_cfg(_network(dataset)))
    found = {"original": originals, "resized": _pixels(preprocess(originals), preprocess)}
    augmentation = recipes.get("paper", NETWORK, dataset).augmentation
    for epoch in range(TIMES):
        draws = draw(len(originals), augmentation, SEED, epoch)
        augmented = augment(originals, draws.uniform, draws.mirrored, augmentation, preprocess)
        found[f"augmented, epoch {epoch + 1}"] = _pixels(augmented, preprocess)
    return {name: images.permute(0, 2, 3, 1).numpy() for name, images in found.items()}


def _network(dataset: str) -> torch.nn.Module:
    with torch.device("meta"):  # its configuration is all that is needed
        return timm.create_model(f"{NETWORK}.{dataset}", in_chans=DATASETS[dataset].image_size[2])


def _pixels(x: Tensor, preprocess: Preprocess) -> Tensor:
    """Undo the normalisation: float32 [n, channels, h, w] -> uint8."""
    return ((x * preprocess.std + preprocess.mean) * 255).round().clamp(0, 255).to(torch.uint8)
