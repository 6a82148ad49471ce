"""The papers of the architectures, for the links and the citation in a card."""

from dataclasses import dataclass

__all__ = ["PAPERS", "Paper"]


@dataclass(frozen=True)
class Paper:
    """A paper that introduced an architecture.

    Attributes:
        key: of its BibTeX entry.
        authors: as BibTeX has them.
    """

    key: str
    title: str
    authors: str
    venue: str
    year: int
    address: str


# By `zoo.catalog.Network.family`.
PAPERS = {
    "googlenet": Paper(
        "szegedy2015going",
        "Going Deeper with Convolutions",
        "Szegedy, Christian and Liu, Wei and Jia, Yangqing and Sermanet, Pierre and Reed, Scott and "
        "Anguelov, Dragomir and Erhan, Dumitru and Vanhoucke, Vincent and Rabinovich, Andrew",
        "IEEE Conference on Computer Vision and Pattern Recognition",
        2015,
        "https://arxiv.org/abs/1409.4842",
    ),
    "resnet": Paper(
        "he2016deep",
        "Deep Residual Learning for Image Recognition",
        "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
        "IEEE Conference on Computer Vision and Pattern Recognition",
        2016,
        "https://arxiv.org/abs/1512.03385",
    ),
    "vgg": Paper(
        "simonyan2015very",
        "Very Deep Convolutional Networks for Large-Scale Image Recognition",
        "Simonyan, Karen and Zisserman, Andrew",
        "International Conference on Learning Representations",
        2015,
        "https://arxiv.org/abs/1409.1556",
    ),
}
