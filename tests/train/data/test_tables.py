"""Datasets of tables that are not the paper's: which columns and splits are read."""

import io
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest
from conftest import message

from train.data import loading
from train.data.reference import DataError, DataOptions

BIRDS = ["crow", "owl", "wren"]


def cell(shade: int) -> dict[str, Any]:
    stream = io.BytesIO()
    PIL.Image.new("L", (8, 8), shade).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def table(features: dict[str, Any], n: int = 30, shade: int = 0) -> datasets.Dataset:
    """Images of the shades 0, 1, ..., masks that are white, and labels in turn."""
    columns: dict[str, list[Any]] = {}
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            columns[name] = [cell(255 if name == "mask" else shade + i) for i in range(n)]
        elif isinstance(feature, datasets.ClassLabel):
            columns[name] = [i % len(feature.names) for i in range(n)]
        else:
            columns[name] = [f"word {i % 2}" if feature.dtype == "string" else i / 7 for i in range(n)]
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    def call(splits: dict[str, datasets.Dataset], **options: Any) -> loading.Dataset:
        monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(splits))
        return loading.load("owner/birds", image_size=8, options=DataOptions(**options))

    return call


IMAGE, LABEL, OTHER = datasets.Image(), datasets.ClassLabel(names=BIRDS), datasets.ClassLabel(names=["day", "night"])


@pytest.mark.parametrize("name", ["image", "img", "picture"])
def test_a_mask_is_not_taken_for_the_image(load: Any, name: str) -> None:
    dataset = load({"train": table({"mask": IMAGE, name: IMAGE, "label": LABEL})})
    assert dataset.train.images.max() < 30
    assert f"of the image columns 'mask', {name!r}, {name!r} is read" in dataset.summary()


def test_image_columns_of_unknown_names_are_to_be_chosen(load: Any) -> None:
    splits = {"train": table({"mask": IMAGE, "before": IMAGE, "label": LABEL})}
    with pytest.raises(DataError) as error:
        load(splits)
    assert "several image columns, 'mask', 'before': choose one by --image-column" in message(error)
    dataset = load(splits, image_column="before")
    assert dataset.train.images.max() < 30
    assert not dataset.notes


def test_columns_of_labels(load: Any) -> None:
    splits = {"train": table({"time": OTHER, "label": LABEL, "words": datasets.Value("string"), "image": IMAGE})}
    assert load(splits).class_names == tuple(BIRDS)
    assert "of the label columns 'time', 'label', 'label' is read" in load(splits).summary()
    assert load(splits, label_column="time").class_names == ("day", "night")
    assert load(splits, label_column="words").class_names == ("word 0", "word 1")
    with pytest.raises(DataError, match="several label columns, 'time', 'place': choose one by --label-column"):
        load({"train": table({"time": OTHER, "place": OTHER, "image": IMAGE})})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image_column": "photo"}, ["--image-column 'photo'", "no such image column, only 'image'"]),
        ({"image_column": "label"}, ["--image-column 'label'", "only 'image'"]),
        ({"label_column": "image"}, ["--label-column 'image'", "only 'label'"]),
        ({"label_column": "weight"}, ["--label-column 'weight'", "only 'label'"]),
        ({"split": "all"}, ["no split 'all', only 'train'"]),
    ],
)
def test_a_column_or_split_that_cannot_be_used(load: Any, options: dict[str, str], words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        load({"train": table({"image": IMAGE, "label": LABEL, "weight": datasets.Value("float32")})}, **options)
    assert all(word in message(error) for word in words)


def test_measurements_are_no_classes(load: Any) -> None:
    with pytest.raises(DataError, match="needs an Image column, and a ClassLabel"):
        load({"train": table({"image": IMAGE, "target": datasets.Value("float32")})})


def test_the_split_to_train_on(load: Any) -> None:
    features = {"image": IMAGE, "label": LABEL}
    splits = {"full": table(features), "test": table(features, 9, shade=100)}
    with pytest.raises(DataError, match=r"no split 'train', only 'full', 'test' \(--split NAME"):
        load(splits)
    dataset = load(splits, split="full")
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (30, 9)
    assert sorted(dataset.test.images[:, 0, 0, 0].tolist()) == list(range(100, 109))
    dataset = load(splits, split="test")
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 9
    assert dataset.train.images.min() >= 100


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "dev"])
def test_splits_are_used_for_what_they_are_called(load: Any, validation: str) -> None:
    features = {"image": IMAGE, "label": LABEL}
    splits = {"train": table(features), validation: table(features, 6, 100), "test": table(features, 9, 200)}
    dataset = load(splits)
    assert sorted(dataset.train.images[:, 0, 0, 0].tolist()) == list(range(30))
    assert sorted(dataset.validation.images[:, 0, 0, 0].tolist()) == list(range(100, 106))
    assert sorted(dataset.test.images[:, 0, 0, 0].tolist()) == list(range(200, 209))


def test_a_folder_of_classes_has_no_columns(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        (tmp_path / "own" / label).mkdir(parents=True)
        PIL.Image.new("L", (8, 8)).save(tmp_path / "own" / label / "0.png")
    with pytest.raises(DataError) as error:
        loading.load(str(tmp_path / "own"), image_size=8, options=DataOptions(label_column="label"))
    assert "--label-column" in message(error)
    assert "no table" in message(error)
