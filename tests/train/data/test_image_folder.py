"""One's own pictures: folders of them, how they are cut and brought to a size, and what cannot be taken."""

import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import keys, message

from serve.images import formats
from train.data import decoding, loading
from train.data.reference import DataError


def picture(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list("/".join(path.parts[-3:]).encode())).integers(
        0, 256, (*size[::-1], 4), dtype=np.uint8
    )
    PIL.Image.fromarray(noise, "RGBA").convert(mode).save(path, **options)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three classes, pictures of differing sizes and modes, no test split."""
    folder = tmp_path / "pictures"
    for i in range(12):
        picture(folder / "bees" / f"{i}.png", size=(20 + i, 50 - i))
        picture(folder / "ants" / f"{i}.png", mode=("RGBA", "L", "P", "LA")[i % 4])
        picture(folder / "wasps" / f"{i}.jpg", size=(64, 64), mode=("RGB", "L", "CMYK")[i % 3])
    return folder


def test_folder_of_pictures(pictures: Path) -> None:
    dataset = loading.load(str(pictures), image_size=24)
    assert dataset.class_names == ("ants", "bees", "wasps")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert all(split.images.shape[1:] == (3, 24, 24) for split in splits)
    everything = [image for split in splits for image in keys(split)]
    assert len(everything) == len(set(everything)) == 36
    labels = torch.cat([split.labels for split in splits])
    assert labels.bincount().tolist() == [12, 12, 12]
    assert all(split.labels.bincount(minlength=3).min() > 0 for split in splits)
    assert len(dataset.train) > 2 * (len(dataset.validation) + len(dataset.test))


def test_each_size_is_decoded_and_kept_by_itself(pictures: Path) -> None:
    shapes = [loading.load(str(pictures), image_size=size).test.images.shape[1:] for size in (8, 12, 8)]
    assert shapes == [(3, 8, 8), (3, 12, 12), (3, 8, 8)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
def test_pictures_are_cut_and_resized_as_the_server_does_it(tmp_path: Path, mode: str) -> None:
    """A network is asked about what it was trained on."""
    file = tmp_path / "one.png"
    picture(file, size=(50, 37), mode=mode)
    with PIL.Image.open(file) as image:
        fitted = np.asarray(decoding.fit(image, 24))
    np.testing.assert_array_equal(fitted, formats.fit(formats.decode(file.read_bytes()), (24, 24, 3)))


def test_the_folder_that_one_is_in(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = loading.load(str(pictures), image_size=8)
    monkeypatch.chdir(pictures)
    assert loading.load(".", image_size=8).digest() == named.digest()


def test_folder_with_splits_keeps_its_test_split(pictures: Path) -> None:
    whole = pictures.parent / "split"
    shutil.copytree(pictures, whole / "train")
    for label in ("ants", "bees", "wasps"):
        picture(whole / "test" / label / "one.png")
    dataset = loading.load(str(whole), image_size=24)
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (36, 3)
    assert len(dataset.validation) >= 3
    shutil.rmtree(whole / "test" / "bees")
    with pytest.raises(DataError) as error:
        loading.load(str(whole), image_size=24)
    assert "no image of class 'bees' left to test on" in message(error)


def test_of_a_small_folder_every_class_is_tested(tmp_path: Path) -> None:
    """A tenth of the pictures are fewer than there are classes."""
    for label in map(str, range(8)):
        for i in range(4):
            picture(tmp_path / "small" / label / f"{i}.png")
    dataset = loading.load(str(tmp_path / "small"), image_size=8)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert all(set(split.labels.tolist()) == set(range(8)) for split in splits)
    assert len({image for split in splits for image in keys(split)}) == 32


def test_every_class_is_learnt_whatever_is_held_out(tmp_path: Path) -> None:
    for label in range(30):
        for i in range(3):
            picture(tmp_path / "few" / f"{label:02}" / f"{i}.png", size=(8, 8))
    dataset = loading.load(str(tmp_path / "few"), image_size=8)
    assert set(dataset.train.labels.tolist()) == set(dataset.test.labels.tolist()) == set(range(30))
    for file in (tmp_path / "few").glob("*/0.png"):
        file.unlink()
    shutil.copytree(tmp_path / "few", tmp_path / "split" / "train")
    shutil.copytree(tmp_path / "few", tmp_path / "split" / "test")
    dataset = loading.load(str(tmp_path / "split"), image_size=8)
    assert set(dataset.train.labels.tolist()) == set(range(30))
    assert (len(dataset.train) + len(dataset.validation), len(dataset.validation) > 0) == (60, True)


def test_names_of_classes_that_no_picture_has_are_left_out(samples: Path, tmp_path: Path) -> None:
    """As the Hub's EMNIST has one."""
    shutil.copytree(samples / "mnist", tmp_path / "digits")
    for file in (tmp_path / "digits").rglob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.filter(pa.compute.not_equal(table["label"], 3)), file)
    dataset = loading.load(str(tmp_path / "digits"), image_size=28)
    assert dataset.class_names == tuple("012456789")
    whole = loading.load("mnist", samples)
    kept = whole.test.labels != 3
    names = [dataset.class_names[label] for label in dataset.test.labels]
    assert names == [str(label) for label in whole.test.labels[kept].tolist()]


def test_a_class_of_one_picture_is_refused(pictures: Path) -> None:
    for label in ("ants", "wasps"):
        for file in list((pictures / label).iterdir())[1:]:
            file.unlink()
    with pytest.raises(DataError) as error:
        loading.load(str(pictures), image_size=8)
    assert "no image of class 'ants' and of 1 more left to test on" in message(error)


def test_pictures_are_turned_upright_and_cropped_to_the_middle(tmp_path: Path) -> None:
    """Left half black, right half white, between grey margins; stored lying on its side, with a tag that says so."""
    upright = np.full((40, 80, 3), 128, np.uint8)
    upright[:, 20:40], upright[:, 40:60] = 0, 255
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    folder = tmp_path / "pictures"
    for label in ("one", "two"):
        (folder / label).mkdir(parents=True)
        for i in range(10):
            upright[0, 20], upright[1, 20] = i, 10 * (label == "two")  # no two are the same
            lying = PIL.Image.fromarray(upright).transpose(PIL.Image.Transpose.ROTATE_90)
            lying.save(folder / label / f"{i}.png", exif=exif)
    images = loading.load(str(folder), image_size=40).train.images
    assert (images[:, :, 2:, :20] == 0).all()
    assert (images[:, :, :, 20:] == 255).all()


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    for label in ("one", "two"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(10):
            hidden = PIL.Image.new("RGBA", (9, 9), (200, i, 5 * (label == "one"), 0))
            hidden.putpixel((4, 4), (0, 0, 255, 255))
            hidden.save(tmp_path / "pictures" / label / f"{i}.png")
    images = loading.load(str(tmp_path / "pictures"), image_size=9).train.images
    assert (images[:, :, 4, 4] == torch.tensor([0, 0, 255])).all()
    assert (images[:, :, 0] == 255).all()


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", "<u2"), ("I;16B", ">u2"), ("I", "<i4")])
def test_16_bit_grey_keeps_its_shades(tmp_path: Path, mode: str, dtype: str) -> None:
    """A gradient from black to white; stored upside down, with a tag that says so."""
    shades = np.linspace(0, 65535, 64 * 64).astype(dtype).reshape(64, 64)
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    for label in ("one", "two"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(10):
            shades[0, 1] = i + 10 * (label == "one")  # no two are the same
            deep = PIL.Image.fromarray(shades[::-1, ::-1])
            assert deep.mode == mode
            deep.save(tmp_path / "pictures" / label / f"{i}.tif", exif=exif)
    images = loading.load(str(tmp_path / "pictures"), image_size=64).train.images.numpy()
    assert (np.abs(images - shades / 257) <= 1).all()


def test_8_bit_grey_in_wider_numbers_is_taken_as_it_is(pictures: Path) -> None:
    shutil.rmtree(pictures / "ants")
    (pictures / "ants").mkdir()
    for i in range(12):
        PIL.Image.fromarray(np.full((9, 9), 200 + i, np.int32)).save(pictures / "ants" / f"{i}.tif")
    train = loading.load(str(pictures), image_size=8).train
    assert train.images[train.labels == 0].min() >= 200


@pytest.mark.parametrize(
    ("pixel", "reason"), [(np.float32(0.5), "floating-point"), (np.int32(-1), "from -1 to"), (np.int32(65536), "65536")]
)
def test_pixels_of_no_known_range_are_refused(pictures: Path, pixel: np.generic, reason: str) -> None:
    PIL.Image.fromarray(np.full((9, 9), pixel)).save(pictures / "ants" / "odd.tif")
    with pytest.raises(DataError) as error:
        loading.load(str(pictures), image_size=8)
    assert all(word in message(error) for word in ("odd.tif", reason))


def test_names_of_files_decide_nothing(tmp_path: Path) -> None:
    """`datasets` takes "train" and "test" in them for splits, and leaves out all other pictures."""
    folder = tmp_path / "trains"
    for i in range(6):
        picture(folder / "cat" / f"train_{i}.png")
        picture(folder / "dog" / ("beagle test 1.png" if i == 0 else f"{i}.png"))
        picture(folder / "eel" / f"{i}.png")
    dataset = loading.load(str(folder), image_size=8)
    assert dataset.class_names == ("cat", "dog", "eel")
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 18


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Test"), ("TRAINING", "Testing")])
def test_folders_of_splits_in_any_case(tmp_path: Path, names: tuple[str, str]) -> None:
    """Pictures to test on are not trained on."""
    folder = tmp_path / "split"
    for name, count in zip(names, (10, 4), strict=True):
        for label in ("cat", "dog"):
            for i in range(count):
                picture(folder / name / label / f"{i}.png")
    dataset = loading.load(str(folder), image_size=8)
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train) + len(dataset.validation), len(dataset.test)) == (20, 8)
    alone = loading.load(str(shutil.copytree(folder / names[1], tmp_path / "held")), image_size=8)
    tested = keys(dataset.test)
    assert len(tested) == 8
    assert tested == set().union(*map(keys, (alone.train, alone.validation, alone.test)))


def test_tables_by_configuration_and_split_are_no_folder_of_pictures(samples: Path, tmp_path: Path) -> None:
    """The layout that the Hub converts datasets to."""
    for split in ("train", "test"):
        (tmp_path / "digits" / "default" / split).mkdir(parents=True)
        shutil.copy(
            samples / "mnist" / "mnist" / f"{split}-00000-of-00001.parquet",
            tmp_path / "digits" / "default" / split / "0000.parquet",
        )
    assert loading.load(str(tmp_path / "digits"), image_size=28).class_names == tuple("0123456789")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("bus", "car", "train"):
        for i in range(5):
            picture(tmp_path / "vehicles" / label / f"{i}.png")
    assert loading.load(str(tmp_path / "vehicles"), image_size=8).class_names == ("bus", "car", "train")


def test_a_path_is_no_pattern(tmp_path: Path) -> None:
    for folder, labels in (("own1", "abc"), ("own[1]", "de")):
        for label in labels:
            for i in range(5):
                picture(tmp_path / folder / label / f"{i}.png")
    assert loading.load(str(tmp_path / "own[1]"), image_size=8).class_names == ("d", "e")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("cat/persian/0.png", ["persian", "folder within a class", "'cat'"]),
        ("0.png", ["0.png", "in no class"]),
        ("train/cat/0.png", ["train/cat", "folder within a class"]),
    ],
)
def test_what_is_not_ordered_by_class_is_refused(tmp_path: Path, file: str, words: list[str]) -> None:
    folder = tmp_path / "odd"
    for label in ("cat", "dog"):
        for i in range(5):
            picture(folder / label / f"{i}.png")
    picture(folder / file)
    with pytest.raises(DataError) as error:
        loading.load(str(folder), image_size=8)
    assert all(word in message(error) for word in words)


def test_a_class_of_the_test_split_alone_is_refused(tmp_path: Path) -> None:
    for i in range(5):
        for place in ("train/cat", "train/dog", "test/cat", "test/cow"):
            picture(tmp_path / "split" / place / f"{i}.png")
    with pytest.raises(DataError) as error:
        loading.load(str(tmp_path / "split"), image_size=8)
    assert "cow is a class without training images" in message(error)


def test_files_that_are_no_pictures_are_named(pictures: Path) -> None:
    before = loading.load(str(pictures), image_size=8)
    assert "left out" not in before.summary()
    (pictures / "ants" / "0.json").write_text("{}")
    (pictures / "ants" / "z.svg").write_text("")
    (pictures / "ants" / ".DS_Store").write_text("")
    (pictures / ".ipynb_checkpoints").mkdir()
    after = loading.load(str(pictures), image_size=8)
    assert after.digest() == before.digest()
    (note,) = after.notes
    assert note.startswith("2 of 38 files are not images that Pillow reads and are left out (1 .json, 1 .svg)")
    assert note.endswith("ants/0.json")


def test_a_picture_that_is_replaced_is_read_again(pictures: Path) -> None:
    before = loading.load(str(pictures), image_size=8)
    PIL.Image.new("RGB", (40, 30), (1, 2, 3)).save(pictures / "bees" / "0.png")
    assert loading.load(str(pictures), image_size=8).digest() != before.digest()


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError) as error:
        loading.load("mnist", tmp_path)
    assert str(tmp_path / "mnist") in message(error)


def test_pictures_without_classes(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "flat" / f"{i}.png")
    with pytest.raises(DataError) as error:
        loading.load(str(tmp_path / "flat"), image_size=8)
    assert "0.png is in no class: each class needs a sub-folder of " in message(error)


@pytest.mark.parametrize("content", [(), ("a/", "b/"), ("notes.txt",), ("a/video.mp5", "b/video.mp5")])
def test_folders_without_an_image(tmp_path: Path, content: tuple[str, ...]) -> None:
    folder = tmp_path / "none"
    for name in content or ("",):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).mkdir(exist_ok=True) if name.endswith("/") or not name else (folder / name).touch()
    with pytest.raises(DataError) as error:
        loading.load(str(folder), image_size=8)
    if content == ("notes.txt",):  # may be a form of table that the `datasets` library knows
        assert "cannot load dataset" in message(error)
        return
    assert "it holds no image in a sub-folder for each class" in message(error)
    assert ("2 .mp5" in message(error)) == ("a/video.mp5" in content)


@pytest.mark.parametrize("splits", [("",), ("train", "test")])
def test_a_folder_within_a_folder_is_named(tmp_path: Path, splits: tuple[str, ...]) -> None:
    """As archives are unpacked: pets/pets/cat."""
    for split in splits:
        for label in ("ants", "bees"):
            for i in range(4):
                picture(tmp_path / "my pets" / "my pets" / split / label / f"{i}.png")
    with pytest.raises(DataError) as error:
        loading.load(str(tmp_path / "my pets"), image_size=8)
    inner = tmp_path / "my pets" / "my pets"
    assert f"one folder deeper: --dataset '{inner}'" in message(error)
    assert len(loading.load(str(inner), image_size=8).class_names) == 2


def test_very_large_images_are_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    for label in ("ants", "bees"):
        for i in range(4):
            picture(tmp_path / "wide" / label / f"{i}.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 700)  # those above it are warned of, those above twice refused
    loading.load(str(tmp_path / "wide"), image_size=8)
    assert not recwarn.list


def test_iphones_photos_are_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    for label, red in (("ants", 250), ("bees", 10)):
        for i in range(4):
            file = tmp_path / "photos" / label / f"IMG_{i}.HEIC"
            file.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (64, 48), (red, 30 * i, 0)).save(file, "HEIF")
    dataset = loading.load(str(tmp_path / "photos"), image_size=8)
    assert [int(dataset.test.images[dataset.test.labels == label, 0].float().mean() > 127) for label in (0, 1)] == [
        1,
        0,
    ]


def test_pictures_of_one_class(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "one" / "ants" / f"{i}.png")
    with pytest.raises(DataError) as error:
        loading.load(str(tmp_path / "one"), image_size=8)
    assert "at least two classes" in message(error)
    assert "it has 1" in message(error)


def test_one_class_with_pictures_among_several_names(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})
    rows = {"image": [PIL.Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(20)], "label": [1] * 20}
    (tmp_path / "one").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "one" / "train.parquet")
    with pytest.raises(DataError) as error:
        loading.load(str(tmp_path / "one"), image_size=8)
    assert "images of at least two classes" in message(error)
    assert "it has 1" in message(error)


def test_too_few_pictures(tmp_path: Path) -> None:
    for label in ("ants", "bees"):
        picture(tmp_path / "few" / label / "0.png")
    with pytest.raises(DataError) as error:
        loading.load(str(tmp_path / "few"), image_size=8)
    assert "no image of class 'ants' and of 1 more left to test on" in message(error)
