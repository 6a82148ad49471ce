"""Folders as people have them: what else lies in them, how they are named, and what is said of it."""

import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any, Literal

import PIL.Image
import pytest
from conftest import keys, message

from train.data import loading, manifest
from train.data.reference import DataError, DataOptions


def image(path: Path, shade: int) -> None:
    """A small image of one colour, another one for each class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = os.fsencode(path.parent.name)
    PIL.Image.new("RGB", (8, 8), (shade, sum(name) % 256, len(name))).save(path)


def fill(folder: Path, labels: tuple[str, ...] = ("ant", "bee"), n: int = 20, first: int = 0) -> Path:
    for label in labels:
        for i in range(first, first + n):
            image(folder / label / f"{i}.png", i)
    return folder


@pytest.fixture
def insects(tmp_path: Path) -> Path:
    return fill(tmp_path / "insects")


def load(folder: Path, **options: Any) -> loading.Dataset:
    return loading.load(str(folder), image_size=8, options=DataOptions(**options))


def size(dataset: loading.Dataset) -> int:
    return sum(map(len, (dataset.train, dataset.validation, dataset.test)))


def test_one_line_says_what_was_read(insects: Path) -> None:
    for i in range(3):
        (insects / "bee" / f"{i}.png").unlink()
    dataset = load(insects)
    sizes = tuple(map(len, (dataset.train, dataset.validation, dataset.test)))
    assert dataset.summary() == (
        "Read 37 images of 2 classes (17 to 20 in each class): "
        "{} to train, {} to validate, {} to test".format(*sizes)
    )  # fmt: skip


STRAY = {
    "labels.csv": "file,label\nant/0.png,ant\n",
    "train.csv": "a,b\n1,2\n",
    "annotations.json": '[{"a": 1}]',
    "metadata.jsonl": '{"file_name": "ant/0.png", "label": "ant"}\n',
    "metadata.csv": "file_name,label\nant/0.png,ant\n",
    "data.parquet": "PAR1",
    "README.md": "# Insects\n",
    "data/notes.csv": "a\n1\n",
    "ant/metadata.csv": "file_name\n0.png\n",
    "ant/labels.json": "{}",
}


@pytest.mark.parametrize("file", STRAY)
def test_a_stray_file_loses_no_image(insects: Path, file: str) -> None:
    before = load(insects)
    (insects / file).parent.mkdir(exist_ok=True)
    (insects / file).write_text(STRAY[file])
    after = load(insects)
    assert after.digest() == before.digest()
    if file != "data/notes.csv":
        (note,) = after.notes
        assert note.startswith("1 of 41 files are not images")
        assert note.endswith(f"among them {file}")


def test_a_stray_table_beside_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        fill(tmp_path / "split" / split)
    before = load(tmp_path / "split")
    (tmp_path / "split" / "train.csv").write_text("a\n1\n")
    (tmp_path / "split" / "train" / "metadata.csv").write_text("file_name\n")
    assert load(tmp_path / "split").digest() == before.digest()


CLUTTER = [
    ".DS_Store", "Thumbs.db", "desktop.ini", "ant/.DS_Store", "ant/THUMBS.DB", "ant/._0.png", "__MACOSX/ant/0.png",
    "__MACOSX/x/._1.png", ".git/config", ".ipynb_checkpoints/0.png", "ant/.ipynb_checkpoints/0.png", "@eaDir/a/0.png",
]  # fmt: skip


@pytest.mark.parametrize("file", CLUTTER)
def test_what_systems_and_tools_leave_is_passed_over(insects: Path, file: str) -> None:
    before = load(insects)
    (insects / file).parent.mkdir(exist_ok=True, parents=True)
    (insects / file).write_bytes(b"no image")
    after = load(insects)
    assert (after.digest(), after.notes) == (before.digest(), ())


@pytest.mark.parametrize("file", ["train.png", "test.jpg", "ant.png"])
def test_an_image_beside_the_classes_is_in_no_class(insects: Path, file: str) -> None:
    image(insects / file, 0)
    with pytest.raises(DataError) as error:
        load(insects)
    assert all(word in message(error) for word in (file, "is in no class"))


@pytest.mark.parametrize("file", ["train.png", "validation_1.png", "test 3.png"])
def test_an_image_of_a_class_may_be_called_like_a_split(insects: Path, file: str) -> None:
    image(insects / "ant" / file, 99)
    assert size(load(insects)) == 41


@pytest.mark.parametrize("name", ["mnist", "cifar10", "MNIST"])
def test_a_folder_called_like_the_papers_datasets(tmp_path: Path, name: str) -> None:
    """A model of it could not be published: it would pass for one of that dataset."""
    fill(tmp_path / name)
    with pytest.raises(DataError) as error:
        load(tmp_path / name)
    words = ("is called like the paper's dataset: rename it", f"--dataset {name.lower()} --data-dir {tmp_path}")
    assert all(word in message(error) for word in words)


NAMES = [("train", "val", "test"), ("Training", "Valid", "Testing"), ("train", "dev", "eval")]


@pytest.mark.parametrize("names", NAMES)
def test_each_split_is_used_for_what_it_is_called(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for i, name in enumerate(names):
        fill(tmp_path / "split" / name, n=5, first=10 * i)
    dataset = load(tmp_path / "split")
    for i, split in enumerate((dataset.train, dataset.validation, dataset.test)):
        assert sorted(set(split.images[:, 0, 0, 0].tolist())) == list(range(10 * i, 10 * i + 5))
        assert len(split) == 10
    assert not dataset.notes


def test_without_a_folder_to_test_on_a_share_is_cut(tmp_path: Path) -> None:
    fill(tmp_path / "split" / "train", n=30)
    fill(tmp_path / "split" / "val", n=5, first=100)
    dataset = load(tmp_path / "split")
    assert dataset.validation.images[:, 0].min() >= 100
    assert len(dataset.validation) == 10
    assert len(dataset.train) + len(dataset.test) == 60
    assert dataset.test.labels.bincount().min() > 0


def test_folders_to_validate_and_test_on_alone(tmp_path: Path) -> None:
    for name in ("val", "test"):
        fill(tmp_path / "split" / name)
    with pytest.raises(DataError, match=r"folders of splits \(test, val\), but none is called 'train'"):
        load(tmp_path / "split")


def test_a_folder_beside_the_splits_is_named(tmp_path: Path) -> None:
    for name in ("train", "test"):
        fill(tmp_path / "split" / name)
    before = load(tmp_path / "split")
    fill(tmp_path / "split" / "raw", ("a", "b"), n=2)
    after = load(tmp_path / "split")
    assert after.digest() == before.digest()
    assert "folders beside the splits are left out: raw" in after.summary()


def test_images_of_the_test_split_that_are_trained_on_are_counted(tmp_path: Path) -> None:
    fill(tmp_path / "split" / "train")
    fill(tmp_path / "split" / "test", n=3, first=18)
    assert "4 test images are in the training split too, as test/ant/18.png" in load(tmp_path / "split").summary()


@pytest.mark.parametrize("nested", ["notes.txt", ".thumbnail.png"])
def test_a_folder_without_images_in_a_class(insects: Path, nested: str) -> None:
    (insects / "ant" / "more").mkdir()
    (insects / "ant" / "more" / nested).write_text("")
    assert size(load(insects)) == 40


def test_extensions_in_any_case(insects: Path) -> None:
    for file in list(insects.glob("ant/*.png")):
        file.rename(file.with_suffix(".PNG"))
    assert size(load(insects)) == 40


def test_links(insects: Path, tmp_path: Path) -> None:
    """To files and folders they are as good as those; one to nowhere is an image that is missing."""
    fill(tmp_path / "elsewhere", ("cow",))
    (insects / "cow").symlink_to(tmp_path / "elsewhere" / "cow")
    image(tmp_path / "elsewhere" / "one.png", 77)
    (insects / "ant" / "linked.png").symlink_to(tmp_path / "elsewhere" / "one.png")
    dataset = load(insects)
    assert (dataset.class_names, size(dataset)) == (("ant", "bee", "cow"), 61)
    (tmp_path / "elsewhere" / "one.png").unlink()
    with pytest.raises(DataError) as error:
        load(insects)
    assert "(ant/linked.png) cannot be read: No such file or directory (--skip-unreadable" in message(error)
    assert "1 of 61 images cannot be read" in load(insects, skip_unreadable=True).summary()


def test_unreadable_images_are_skipped_and_counted(insects: Path) -> None:
    whole = (insects / "ant" / "3.png").read_bytes()
    (insects / "ant" / "3.png").write_bytes(whole[: len(whole) // 2])
    (insects / "bee" / "empty.png").write_bytes(b"")
    with pytest.raises(DataError) as error:
        load(insects)
    assert all(word in message(error) for word in ("ant/3.png", "--skip-unreadable leaves such images out"))
    for _ in range(2):  # the second time from the cache
        dataset = load(insects, skip_unreadable=True)
        assert size(dataset) == len(dataset.files) == 39
        (note,) = dataset.notes
        assert note.startswith("2 of 41 images cannot be read and are left out, among them ant/3.png (")
        for name in ("train", "validation", "test"):
            files = [row.file for row in dataset.files if row.split == name]
            shades = getattr(dataset, name).images[:, 0, 0, 0].tolist()
            assert [f"{Path(file).stem}" for file in files] == list(map(str, shades))
    with pytest.raises(DataError):  # what was skipped then is no excuse now
        load(insects)


def test_nothing_but_unreadable_images(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        (tmp_path / "own" / label).mkdir(parents=True)
        (tmp_path / "own" / label / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image can be read"):
        load(tmp_path / "own", skip_unreadable=True)


def test_classes_without_images_are_named(insects: Path) -> None:
    (insects / "cow").mkdir()
    dataset = load(insects)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.notes == ("classes without images are left out: 'cow'",)


@pytest.mark.parametrize(("first", "second"), [("ant", "ANT"), ("ant", " ant"), ("ant", "ant ")])
def test_classes_whose_names_are_nearly_the_same(tmp_path: Path, first: str, second: str) -> None:
    """Letters are such classes: a and A."""
    dataset = load(fill(tmp_path / "letters", (first, second, "bee")))
    assert dataset.class_names == tuple(sorted((first, second, "bee")))
    first, second = sorted((first, second))
    assert f"{first!r} and {second!r} differ in case or spaces alone and are kept apart" in dataset.summary()


ODD = ("a, b", 'the "best"', "it's", " leading", "日本語", "naïve", "a|b", "$x$", "#1", "-5", "__background__", "50%")


def test_odd_names_of_classes(tmp_path: Path) -> None:
    dataset = load(fill(tmp_path / "odd", ODD, n=4))
    assert dataset.class_names == tuple(sorted(ODD))
    assert "\n" not in dataset.summary()
    manifest.write(dataset.files, tmp_path / "files.csv")
    assert manifest.read(tmp_path / "files.csv") == list(dataset.files)
    assert {row.label for row in dataset.files} == set(ODD)


@pytest.mark.parametrize("name", [b"two\nlines", b"tab\there", b"\xff\xfe", b"bell\x07"])
def test_names_that_are_no_text_cannot_be_classes(insects: Path, name: bytes) -> None:
    image(insects / os.fsdecode(name) / "0.png", 0)
    with pytest.raises(DataError) as error:
        load(insects)
    assert "cannot be a class: its name has control characters or is not UTF-8" in message(error)
    str(error.value).encode()  # can be printed


@pytest.mark.parametrize("name", [b"\xff.png", b"new\nline.png", b"\xe9t\xe9.png"])
def test_files_of_any_name_are_read(insects: Path, tmp_path: Path, name: bytes) -> None:
    image(insects / "ant" / os.fsdecode(name), 77)
    dataset = load(insects)
    assert size(dataset) == 41
    manifest.write(dataset.files, tmp_path / "files.csv")
    assert manifest.read(tmp_path / "files.csv") == list(dataset.files)
    shutil.copy(insects / "ant" / "0.png", insects / "bee" / os.fsdecode(name))
    load(insects).summary().encode()  # can be printed


def test_a_name_is_the_same_however_its_unicode_is_composed(tmp_path: Path) -> None:
    """Some systems take letters and their accents apart, and others do not."""
    forms: tuple[tuple[str, Literal["NFC", "NFD"]], ...] = (("train", "NFC"), ("test", "NFD"))
    for split, form in forms:
        fill(tmp_path / "split" / split, (unicodedata.normalize(form, "épée"), "bee"), first=30 * (form == "NFD"))
    assert load(tmp_path / "split").class_names == ("bee", unicodedata.normalize("NFC", "épée"))
    fill(tmp_path / "split" / "train", (unicodedata.normalize("NFD", "épée"),))
    with pytest.raises(DataError, match="two folders of one name"):
        load(tmp_path / "split")


def test_a_class_of_one_image_is_named(insects: Path) -> None:
    image(insects / "cow" / "0.png", 0)
    with pytest.raises(DataError) as error:
        load(insects)
    assert "no image of class 'cow' left to test on: add some (three different ones are enough)" in message(error)
    shutil.copy(insects / "cow" / "0.png", insects / "cow" / "1.png")
    with pytest.raises(DataError):  # nor is a copy another image
        load(insects)


def test_keys_are_of_all_images(insects: Path) -> None:
    dataset = load(insects)
    assert len(keys(dataset.train) | keys(dataset.validation) | keys(dataset.test)) == 40
