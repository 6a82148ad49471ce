"""Splits by content: what an image's split depends on, and what it does not."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from conftest import keys, message

from train.data import loading, splitting
from train.data.reference import DataError, DataOptions


def digests(contents: range | list[int]) -> np.ndarray:
    return np.stack([np.frombuffer(hashlib.sha256(str(i).encode()).digest(), np.uint8) for i in contents])


def splits(contents: range | list[int], labels: np.ndarray, *shares: float | None) -> dict[int, int]:
    """The split of each content: 0 to train, 1 to validate, 2 to test on."""
    found = splitting.by_content(digests(contents), labels, *(shares or (0.1, 0.1)))
    assert sorted(np.concatenate(found).tolist()) == list(range(len(contents)))
    return {contents[i]: split for split, index in enumerate(found) for i in index}


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.3, 0.05), (0.01, 0.5)])
def test_shares(shares: tuple[float, float]) -> None:
    counts = np.bincount(list(splits(range(20_000), np.arange(20_000) % 4, *shares).values())) / 20_000
    np.testing.assert_allclose(counts, (1 - sum(shares), *shares), atol=0.01)


@pytest.mark.parametrize(("share", "given"), [((0.1, None), 2), ((None, 0.1), 1)])
def test_a_split_that_is_given_is_not_cut(share: tuple[float | None, float | None], given: int) -> None:
    labels = np.arange(1000) % 5
    found, both = splits(range(1000), labels, *share), splits(range(1000), labels)
    assert given not in found.values()
    assert [i for i in found if found[i]] == [i for i in both if both[i] not in (0, given)]


@pytest.mark.parametrize("n", [3, 4, 5, 10, 100])
def test_every_class_is_in_every_split(n: int) -> None:
    labels = np.repeat(np.arange(40), n)
    found = np.array([split for _, split in sorted(splits(range(40 * n), labels).items())])
    for label in range(40):
        assert set(found[labels == label]) == {0, 1, 2}


def test_of_two_images_one_is_tested_on_and_one_trained_on() -> None:
    labels = np.repeat(np.arange(100), 2)
    assert np.bincount(list(splits(range(200), labels).values())).tolist() == [100, 0, 100]
    assert set(splits([1], np.array([0])).values()) == {0}


@pytest.mark.parametrize("per_class", [10, 50, 500])
def test_an_image_that_is_added_takes_none_from_training(per_class: int) -> None:
    """Nor does one that is removed, other than in place of the last one held out of its class."""
    n = 20 * per_class
    labels = np.arange(n) % 20
    before = splits(range(n), labels)
    more = splits(range(n + 300), np.arange(n + 300) % 20)
    assert not [i for i in before if before[i] == 0 and more[i] != 0]
    assert np.mean([before[i] == more[i] for i in before]) > 0.85 + 0.14 * (per_class > 10)
    fewer = splits(range(5, n), labels[5:])
    assert sum(before[i] != fewer[i] for i in fewer) <= 5


def test_the_order_of_the_images_decides_nothing() -> None:
    order = np.random.default_rng(0).permutation(500)
    labels = np.arange(500) % 7
    assert splits(order.tolist(), labels[order]) == splits(range(500), labels)


def test_images_of_one_content_share_a_split() -> None:
    contents = digests([i // 3 for i in range(300)])
    found = splitting.by_content(contents, np.arange(300) // 150, 0.2, 0.2)
    of = {i: split for split, index in enumerate(found) for i in index}
    assert all(of[i] == of[i - i % 3] for i in range(300))


def test_contents_in_several_classes_are_found() -> None:
    contents = digests([0, 1, 2, 0, 3, 1, 2])
    found = splitting.contradictory(contents, np.array([0, 0, 1, 1, 1, 0, 2]))
    assert found.tolist() == [True, False, True, True, False, False, True]


@pytest.fixture
def insects(tmp_path: Path) -> Path:
    for label in ("ant", "bee"):
        (tmp_path / "insects" / label).mkdir(parents=True)
        for i in range(40):
            image(tmp_path / "insects" / label / f"{i}.png")
    return tmp_path / "insects"


def image(path: Path, colour: tuple[int, int, int] | None = None) -> None:
    """A small image of one colour, a different one for each class and name."""
    PIL.Image.new("RGB", (8, 8), colour or (len(path.stem), ord(path.parent.name[0]), int(path.stem))).save(path)


def of_splits(dataset: loading.Dataset) -> dict[bytes, str]:
    return {key: name for name in ("train", "validation", "test") for key in keys(getattr(dataset, name))}


def add(folder: Path) -> None:
    for i in range(40, 60):
        image(folder / "ant" / f"{i}.png")


def remove(folder: Path) -> None:
    for i in range(0, 40, 4):
        (folder / "bee" / f"{i}.png").unlink()


def rename(folder: Path) -> None:
    for file in list(folder.glob("*/*.png")):
        file.rename(file.with_name(f"{file.parent.name}-{1000 - int(file.stem)}.PNG"))


def move(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    shutil.copytree(folder.with_name("elsewhere"), folder)


@pytest.mark.parametrize("change", [add, remove, rename, move])
def test_the_splits_of_a_folder_stay(insects: Path, change: Callable[[Path], None]) -> None:
    before = of_splits(loading.load(str(insects), image_size=8))
    change(insects)
    after = of_splits(loading.load(str(insects), image_size=8))
    both = before.keys() & after.keys()
    assert len(both) >= 70
    assert {key: before[key] for key in both} == {key: after[key] for key in both}


def test_copies_of_a_file_share_its_split(insects: Path) -> None:
    before = of_splits(loading.load(str(insects), image_size=8))
    for file in list(insects.glob("*/*.png")):
        shutil.copy(file, file.with_name(f"copy of {file.name}"))
    dataset = loading.load(str(insects), image_size=8)
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 160
    assert of_splits(dataset) == before
    assert not keys(dataset.train) & (keys(dataset.test) | keys(dataset.validation))


def test_images_that_are_in_two_classes_are_left_out(insects: Path) -> None:
    before = loading.load(str(insects), image_size=8)
    shutil.copy(insects / "ant" / "3.png", insects / "bee" / "other.png")
    after = loading.load(str(insects), image_size=8)
    assert after.notes == (
        "2 images that are the same in several classes are left out, among them ant/3.png and bee/other.png",
    )
    assert len(after.files) == len(before.files) - 1


def test_shares_of_ones_own(insects: Path) -> None:
    default = loading.load(str(insects), image_size=8)
    options = DataOptions(validation_share=0.4, test_share=0.1)
    more = loading.load(str(insects), image_size=8, options=options)
    assert 20 <= len(more.validation) <= 44
    assert keys(more.test) == keys(default.test)
    assert keys(more.validation) > keys(default.validation)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"validation_share": 0.0}, ["--val-split 0:", "above 0 and below 1"]),
        ({"test_share": 1.0}, ["--test-split 1:", "above 0 and below 1"]),
        ({"validation_share": float("nan")}, ["--val-split nan:"]),
        ({"validation_share": 0.6, "test_share": 0.4}, ["0.6 to validate", "0.4 to test", "nothing to train on"]),
        ({"validation_share": 0.95}, ["0.95 to validate", "0.1 to test"]),
    ],
)
def test_shares_that_make_no_sense(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        DataOptions(**options)
    assert all(word in message(error) for word in words)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"validation_share": 0.2}, "--val-split"), ({"test_share": 0.2}, "--test-split"),
        ({"split": "test"}, "--split"), ({"image_column": "image"}, "--image-column"),
        ({"label_column": "label"}, "--label-column"), ({"skip_unreadable": True}, "--skip-unreadable"),
    ],
)  # fmt: skip
def test_the_papers_datasets_take_no_options(samples: Path, options: dict[str, Any], flag: str) -> None:
    with pytest.raises(DataError, match=f"^{flag}: dataset 'mnist' is read and split as in the paper"):
        loading.load("mnist", samples, options=DataOptions(**options))


def test_two_images_a_class_are_too_few_to_validate(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        (tmp_path / "few" / label).mkdir(parents=True)
        for i in range(2):
            image(tmp_path / "few" / label / f"{i}.png")
    with pytest.raises(DataError, match="only 4 training images of 2 classes: too few to cut a validation split"):
        loading.load(str(tmp_path / "few"), image_size=8)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_share_of_a_split_that_is_given_is_refused(insects: Path, tmp_path: Path, split: str) -> None:
    shutil.copytree(insects, tmp_path / "given" / "train")
    shutil.copytree(insects, tmp_path / "given" / split)
    share: dict[str, Any] = {f"{split}_share": 0.2}
    with pytest.raises(DataError, match=f"has a {split} split of its own"):
        loading.load(str(tmp_path / "given"), image_size=8, options=DataOptions(**share))
