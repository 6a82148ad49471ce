"""The networks and the datasets of this project. Every fact about them that is used more than once is stated here.

A new network is its family file, a row in `NETWORKS` and its model card: see "Adding a network" in CONTRIBUTING.md.
"""

from dataclasses import dataclass

__all__ = ["DATASETS", "DEFAULT_DATASET", "HUB_ORG", "NETWORKS", "PAPER", "Dataset", "Network"]

PAPER = "Deep Networks for Image Classification"
"""The title of the paper (Skoularikis, 2021)."""

HUB_ORG = ""
"""Whose repositories on the Hugging Face Hub hold the weights, each named like its card; empty: nobody's yet.

The environment variable `ZOO_HUB_ORG` names another. `python train/publish.py CARD --push ORG/CARD` fills them.
"""


@dataclass(frozen=True)
class Network:
    """An architecture that this package registers with timm.

    Attributes:
        title: its name in tables and plots.
        family: the module of this package that registers it.
        description: a noun phrase for model cards, in Markdown.
    """

    title: str
    family: str
    description: str


@dataclass(frozen=True)
class Dataset:
    """One of the paper's datasets.

    Attributes:
        title: its name in tables and plots.
        hub_id: its id on the Hugging Face Hub.
        labels: the class names, in the order of the label numbers.
        image_size: height, width and channels of an image, in pixels.
        mean: of each channel, over all pixels of the training split, in units of 0 to 1.
        std: of each channel, likewise.
        train_images: size of the training split.
        validation_images: how many of the training split are held out for validation.
        test_images: size of the test split, by class.
    """

    title: str
    hub_id: str
    labels: tuple[str, ...]
    image_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train_images: int
    validation_images: int
    test_images: tuple[int, ...]


# By the name of the timm model.
NETWORKS = {
    "vanilla_googlenet": Network("GoogLeNet", "googlenet", "torchvision's `googlenet`"),
    "vanilla_resnet18": Network("ResNet18", "resnet", "torchvision's `resnet18`"),
    "vanilla_vgg16": Network("VGG16", "vgg", "torchvision's `vgg16`"),
    "improved_googlenet": Network(
        "Improved GoogLeNet",
        "googlenet",
        "GoogLeNet with a stem of three 3x3 convolutions instead of the 7x7 one",
    ),
    "improved_resnet18": Network(
        "Improved ResNet18",
        "resnet",
        "ResNet18 with a stem of three 3x3 convolutions and dropout of 0.1 before the classifier",
    ),
    "improved_vgg16": Network(
        "Improved VGG16",
        "vgg",
        "VGG16 with BatchNorm after every convolution and a 5x5 adaptive max pool instead of the 7x7 average pool",
    ),
}

# By the tag of the pretrained weights.
#
# Statistics: section 5.1 normalises with "the mean of their per channel mean and standard deviation". This is read as
# the mean and the standard deviation of each channel over all pixels of the training split. (The often used 0.2023,
# 0.1994, 0.2010 for CIFAR-10 average the deviations of single images, and do not bring the variance to one.)
#
# Validation: the paper's logs (Figures 11 to 14) show how many training images it held out.
DATASETS = {
    "mnist": Dataset(
        title="MNIST",
        hub_id="ylecun/mnist",
        labels=tuple("0123456789"),
        image_size=(28, 28, 1),
        mean=(0.13066048,),
        std=(0.30810781,),
        train_images=60_000,
        validation_images=10_000,
        test_images=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    ),
    "cifar10": Dataset(
        title="CIFAR-10",
        hub_id="uoft-cs/cifar10",
        labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        image_size=(32, 32, 3),
        mean=(0.49139968, 0.48215841, 0.44653091),
        std=(0.24703223, 0.24348513, 0.26158784),
        train_images=50_000,
        validation_images=5_000,
        test_images=(1000,) * 10,
    ),
}

DEFAULT_DATASET = "cifar10"
"""Whose weights a model name without a tag stands for."""
