"""What `--dataset` means: one of the paper's datasets, a folder of images, or a dataset on the Hugging Face Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UserError
from zoo import catalog

# What splits are called, in lower case; upper case is read too.
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
}
# Of one's own images, where the dataset has no such split.
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.1


class DataError(UserError):
    """A dataset that cannot be found or read."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How to read a dataset of one's own: the same options give the same splits.

    Attributes:
        image_column: of a table; None finds it.
        label_column: of a table; None finds it.
        split: of a table, to train on; None is "train".
        validation_share: of the images, to hold out where no validation split is given; None is `VALIDATION_SHARE`.
        test_share: of the images, to hold out where no test split is given; None is `TEST_SHARE`.
        skip_unreadable: leave out images that cannot be read.

    Raises:
        DataError: a share is not between 0 and 1, or both together leave no image to train on.
    """

    image_column: str | None = None
    label_column: str | None = None
    split: str | None = None
    validation_share: float | None = None
    test_share: float | None = None
    skip_unreadable: bool = False

    def __post_init__(self) -> None:
        for field in ("validation_share", "test_share"):
            share = getattr(self, field)
            if share is not None and not 0 < share < 1:
                raise DataError(f"{FLAGS[field]} {share:g}: must be above 0 and below 1")
        validation, test = self.shares
        if validation + test >= 1:
            raise DataError(f"{validation:g} to validate and {test:g} to test leave nothing to train on")

    @classmethod
    def of(cls, values: dict[str, Any]) -> "DataOptions":
        """Read the options that a run or a card records."""
        try:
            return cls(**values)
        except TypeError:
            known = ", ".join(FLAGS)
            raise DataError(f"unknown data options {', '.join(values.keys() - FLAGS)}: valid are {known}") from None

    def as_dict(self) -> dict[str, Any]:
        """Return the options that are set, as a run records them."""
        default = DataOptions()
        return {field: getattr(self, field) for field in FLAGS if getattr(self, field) != getattr(default, field)}

    @property
    def shares(self) -> tuple[float, float]:
        """The shares to validate and to test on."""
        return (
            VALIDATION_SHARE if self.validation_share is None else self.validation_share,
            TEST_SHARE if self.test_share is None else self.test_share,
        )

    def given(self, *fields: str) -> list[str]:
        """List the flags of the options that are set, of these fields or of all."""
        return [FLAGS[field] for field in fields or FLAGS if field in self.as_dict()]


# Of `train/fit.py`, by field of `DataOptions`.
FLAGS = {
    "image_column": "--image-column",
    "label_column": "--label-column",
    "split": "--split",
    "validation_share": "--val-split",
    "test_share": "--test-split",
    "skip_unreadable": "--skip-unreadable",
}


@dataclass(frozen=True)
class DatasetRef:
    """A dataset by name, before anything of it is loaded.

    Attributes:
        name: what a run records: "mnist", "cifar10", a folder's absolute path, or a Hub id with its configuration.
        tag: the tag of models trained on it, as in `improved_resnet18.cifar10`.
        hub_id: where it is on the Hub, "owner/name"; None for a folder.
        configuration: the configuration of the Hub's dataset; None for its default.
        folder: the folder of images; None for all others.
    """

    name: str
    tag: str
    hub_id: str | None = None
    configuration: str | None = None
    folder: Path | None = None

    @property
    def paper(self) -> catalog.Dataset | None:
        """The catalog's entry of one of the paper's datasets; None for all others."""
        return catalog.DATASETS.get(self.name)

    @property
    def published_name(self) -> str:
        """What a model card calls it: a folder by its own name, as its path means nothing on another machine."""
        return self.folder.name if self.folder else self.name

    @property
    def title(self) -> str:
        """Its name in texts and plots."""
        return self.paper.title if self.paper else self.published_name


def resolve(dataset: str) -> DatasetRef:
    """Read a `--dataset` argument. A folder that exists wins over a Hub id, the paper's datasets win over both."""
    ref = recorded(dataset)
    if ref.paper is None and Path(dataset).is_dir():
        return recorded(str(Path(dataset).resolve()))
    return ref


def recorded(name: str) -> DatasetRef:
    """Read what a run or a card records, by the name alone: the same on every machine.

    A name that is none of the forms of `DatasetRef.name` is taken for the name of a folder on another machine; it has
    neither a Hub id nor a path.
    """
    for short, entry in catalog.DATASETS.items():
        if name in (short, entry.hub_id):
            return DatasetRef(short, tag=short, hub_id=entry.hub_id)
    if Path(name).is_absolute():
        return DatasetRef(name, tag=_tag(Path(name).name), folder=Path(name))
    if name.count("/") == 1 and not name.startswith("."):
        hub_id, _, configuration = name.partition(":")
        return DatasetRef(name, _tag(name), hub_id, configuration or None)
    return DatasetRef(name, _tag(name))


def _tag(name: str) -> str:
    """The last part of a name; the whole name where its last part alone is that of one of the paper's datasets."""
    last = name.rpartition("/")[2]
    return (name if last in catalog.DATASETS else last).replace("/", "-").replace(":", "-")
