"""What `--dataset` means: one of the paper's datasets, a folder of images, or a dataset on the Hugging Face Hub."""

from dataclasses import dataclass
from pathlib import Path

from train.errors import UserError
from zoo import catalog


class DataError(UserError):
    """A dataset that cannot be found or read."""


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
