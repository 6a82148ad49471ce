"""Datasets: the shipped samples, folders of pictures, and everything that may be wrong with them."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from train import data

FILES = {"mnist": "mnist/mnist", "cifar10": "cifar10/plain_text"}
IMAGE_COLUMN = {"mnist": "image", "cifar10": "img"}
SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
CLASSES = {
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}


@pytest.fixture(params=["mnist", "cifar10"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def rows(samples: Path, name: str, split: str) -> list[dict]:
    return pq.read_table(samples / FILES[name] / f"{split}-00000-of-00001.parquet").to_pylist()


def decoded(samples: Path, name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Every picture of a file by Pillow alone: uint8 [n, C, H, W], and the labels."""
    found = rows(samples, name, split)
    images = [np.asarray(PIL.Image.open(io.BytesIO(row[IMAGE_COLUMN[name]]["bytes"]))) for row in found]
    return np.stack(images).reshape(-1, *SHAPES[name][1:], SHAPES[name][0]).transpose(0, 3, 1, 2), np.array(
        [row["label"] for row in found]
    )


def keys(split: data.Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


def test_samples_load_whole_and_equal_what_pillow_sees(name: str, samples: Path) -> None:
    dataset = data.load(name, samples)
    assert (dataset.name, dataset.class_names) == (name, CLASSES[name])
    n_validation = {"mnist": 333, "cifar10": 200}[name]
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (2000 - n_validation, n_validation, 1000)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.images.shape == (len(split), *SHAPES[name])
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert split.images.is_contiguous()
    images, labels = decoded(samples, name, "test")
    assert np.array_equal(dataset.test.images, images)
    assert np.array_equal(dataset.test.labels, labels)


def test_validation_is_cut_from_train_and_nothing_is_lost(name: str, samples: Path) -> None:
    dataset = data.load(name, samples)
    images, labels = decoded(samples, name, "train")
    train, validation = keys(dataset.train), keys(dataset.validation)
    assert not train & validation
    assert train | validation == {image.tobytes() for image in images}
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for split in (dataset.train, dataset.validation):
        assert all(
            label_of[image.numpy().tobytes()] == label for image, label in zip(split.images, split.labels, strict=True)
        )
    assert len(set(dataset.validation.labels.tolist())) == 10


def test_validation_is_the_same_every_time(name: str, samples: Path) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    one, two = data.load(name, samples), data.load(name, samples)
    assert torch.equal(one.validation.images, two.validation.images)
    assert torch.equal(one.train.labels, two.train.labels)


def test_of_the_complete_datasets_as_many_are_held_out_as_in_the_paper() -> None:
    assert round(60_000 * data.VALIDATION_FRACTION["mnist"]) == 10_000
    assert round(50_000 * data.VALIDATION_FRACTION["cifar10"]) == 5_000


def test_data_dir_may_come_from_the_environment(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA_DIR", str(samples))
    assert len(data.load("mnist").test) == 1000


HUB = {
    "mnist": ("ylecun/mnist", None),
    "cifar10": ("uoft-cs/cifar10", None),
    "owner/birds": ("owner/birds", None),
    "owner/birds:small": ("owner/birds", "small"),
}


@pytest.mark.parametrize("name", HUB)
def test_without_a_folder_the_hub_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda source, configuration: asked.append((source, configuration)) or {}
    )
    with pytest.raises(data.DataError, match="no split 'train'"):
        data.load(name)
    assert asked == [HUB[name]]


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[Path]]:
    """Decoded arrays are kept in a folder of this test's own; lists them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda: sorted((tmp_path / "cache" / "decoded").glob("*"))


def copy_of(samples: Path, name: str, folder: Path) -> Path:
    shutil.copytree(samples / name, folder / name)
    return folder


def test_cache_is_used_and_a_damaged_one_made_anew(
    samples: Path, caches: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data.load("mnist", samples)
    assert len(caches()) == 2
    opened = PIL.Image.open
    monkeypatch.setattr(PIL.Image, "open", lambda *_: pytest.fail("decoded again"))
    cached = data.load("mnist", samples)
    monkeypatch.setattr(PIL.Image, "open", opened)
    for file, damage in zip(
        caches(), (lambda b: b[: len(b) // 2], lambda b: b[:5000] + b"damage" + b[5006:]), strict=True
    ):
        file.write_bytes(damage(file.read_bytes()))
    again = data.load("mnist", samples)
    for dataset in (cached, again):
        for split in ("train", "validation", "test"):
            assert torch.equal(getattr(first, split).images, getattr(dataset, split).images)
            assert torch.equal(getattr(first, split).labels, getattr(dataset, split).labels)
    assert len(caches()) == 2
    assert all(file.suffix == ".npz" for file in caches())


def test_changed_files_are_not_answered_from_the_cache(samples: Path, tmp_path: Path) -> None:
    folder = copy_of(samples, "mnist", tmp_path)
    before = data.load("mnist", folder)
    file = folder / FILES["mnist"] / "test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).slice(0, 70), file)
    after = data.load("mnist", folder)
    assert (len(before.test), len(after.test)) == (1000, 70)


def picture(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(str(path).encode())).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
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
    dataset = data.load(str(pictures), image_size=24)
    assert dataset.class_names == ("ants", "bees", "wasps")
    # Of 36 a tenth is held out to validate, another to test.
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (28, 4, 4)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert all(split.images.shape[1:] == (3, 24, 24) for split in splits)
    everything = [image for split in splits for image in keys(split)]
    assert len(everything) == len(set(everything)) == 36
    labels = torch.cat([split.labels for split in splits])
    assert labels.bincount().tolist() == [12, 12, 12]


def test_the_folder_that_one_is_in(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = data.load(str(pictures), image_size=8)
    monkeypatch.chdir(pictures)
    assert data.load(".", image_size=8).digest() == named.digest()


def test_folder_with_splits_keeps_its_test_split(pictures: Path) -> None:
    whole = pictures.parent / "split"
    shutil.copytree(pictures, whole / "train")
    for label in ("ants", "bees", "wasps"):
        picture(whole / "test" / label / "one.png")
    dataset = data.load(str(whole), image_size=24)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (32, 4, 3)
    shutil.rmtree(whole / "test" / "bees")
    with pytest.raises(data.DataError) as error:
        data.load(str(whole), image_size=24)
    assert "no picture of class 'bees' left to test on" in message(error)


def test_of_a_small_folder_every_class_is_tested(tmp_path: Path) -> None:
    """A tenth of the pictures are fewer than there are classes."""
    for label in map(str, range(8)):
        for i in range(4):
            picture(tmp_path / "small" / label / f"{i}.png")
    dataset = data.load(str(tmp_path / "small"), image_size=8)
    assert dataset.test.labels.bincount().tolist() == [1] * 8
    assert (len(dataset.train), len(dataset.validation)) == (21, 3)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert len({image for split in splits for image in keys(split)}) == 32


def test_every_class_is_learnt_whatever_is_held_out(tmp_path: Path) -> None:
    for label in range(30):
        for i in range(3):
            picture(tmp_path / "few" / f"{label:02}" / f"{i}.png", size=(8, 8))
    dataset = data.load(str(tmp_path / "few"), image_size=8)
    assert set(dataset.train.labels.tolist()) == set(dataset.test.labels.tolist()) == set(range(30))
    for file in (tmp_path / "few").glob("*/0.png"):
        file.unlink()
    shutil.copytree(tmp_path / "few", tmp_path / "split" / "train")
    shutil.copytree(tmp_path / "few", tmp_path / "split" / "test")
    dataset = data.load(str(tmp_path / "split"), image_size=8)
    assert set(dataset.train.labels.tolist()) == set(range(30))
    assert (len(dataset.train) + len(dataset.validation), len(dataset.validation) > 0) == (60, True)


def test_names_of_classes_that_no_picture_has_are_left_out(samples: Path, tmp_path: Path) -> None:
    """As the Hub's EMNIST has one."""
    shutil.copytree(samples / "mnist", tmp_path / "digits")
    for file in (tmp_path / "digits").rglob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.filter(pa.compute.not_equal(table["label"], 3)), file)
    dataset = data.load(str(tmp_path / "digits"), image_size=28)
    assert dataset.class_names == tuple("012456789")
    whole = data.load("mnist", samples)
    kept = whole.test.labels != 3
    names = [dataset.class_names[label] for label in dataset.test.labels]
    assert names == [str(label) for label in whole.test.labels[kept].tolist()]


def test_a_class_of_one_picture_is_refused(pictures: Path) -> None:
    for label in ("ants", "wasps"):
        for file in list((pictures / label).iterdir())[1:]:
            file.unlink()
    with pytest.raises(data.DataError) as error:
        data.load(str(pictures), image_size=8)
    assert "no picture of class 'ants' and of 1 more left to train on" in message(error)


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
            lying = PIL.Image.fromarray(upright).transpose(PIL.Image.Transpose.ROTATE_90)
            lying.save(folder / label / f"{i}.png", exif=exif)
    images = data.load(str(folder), image_size=40).train.images
    assert (images[:, :, :, :20] == 0).all()
    assert (images[:, :, :, 20:] == 255).all()


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    for label in ("one", "two"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(10):
            hidden = PIL.Image.new("RGBA", (9, 9), (200, 0, 0, 0))
            hidden.putpixel((4, 4), (0, 0, 255, 255))
            hidden.save(tmp_path / "pictures" / label / f"{i}.png")
    images = data.load(str(tmp_path / "pictures"), image_size=9).train.images
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
            deep = PIL.Image.fromarray(shades[::-1, ::-1])
            assert deep.mode == mode
            deep.save(tmp_path / "pictures" / label / f"{i}.tif", exif=exif)
    images = data.load(str(tmp_path / "pictures"), image_size=64).train.images.numpy()
    assert (np.abs(images - shades / 257) <= 1).all()


def test_8_bit_grey_in_wider_numbers_is_taken_as_it_is(pictures: Path) -> None:
    shutil.rmtree(pictures / "ants")
    (pictures / "ants").mkdir()
    for i in range(12):
        PIL.Image.fromarray(np.full((9, 9), 200 + i, np.int32)).save(pictures / "ants" / f"{i}.tif")
    train = data.load(str(pictures), image_size=8).train
    assert train.images[train.labels == 0].min() >= 200


@pytest.mark.parametrize(
    ("pixel", "reason"), [(np.float32(0.5), "floating-point"), (np.int32(-1), "from -1 to"), (np.int32(65536), "65536")]
)
def test_pixels_of_no_known_range_are_refused(pictures: Path, pixel: np.generic, reason: str) -> None:
    PIL.Image.fromarray(np.full((9, 9), pixel)).save(pictures / "ants" / "odd.tif")
    with pytest.raises(data.DataError) as error:
        data.load(str(pictures), image_size=8)
    assert all(word in message(error) for word in ("odd.tif", reason))


def message(error: pytest.ExceptionInfo[data.DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_unknown_name() -> None:
    with pytest.raises(data.DataError) as error:
        data.load("minst")
    assert all(word in message(error) for word in ("'minst'", "'mnist'", "'cifar10'", "folder", "Hub id"))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(data.DataError) as error:
        data.load("cifar10", tmp_path)
    assert all(word in message(error) for word in ("'cifar10'", str(tmp_path)))


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    with pytest.raises(data.DataError) as error:
        data.load("mnist", tmp_path)
    assert str(tmp_path / "mnist") in message(error)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "not parquet"])
def test_corrupt_parquet(damage: str, samples: Path, tmp_path: Path) -> None:
    folder = copy_of(samples, "mnist", tmp_path)
    file = folder / FILES["mnist"] / "train-00000-of-00001.parquet"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":  # in the pictures and in the footer
        for i in range(1000, len(content), 5000):
            content[i] ^= 0xFF
        content[-40] ^= 0xFF
    elif damage == "emptied":
        content = bytearray()
    else:
        content = bytearray(b"a,b\n1,2\n" * 100)
    file.write_bytes(content)
    with pytest.raises(data.DataError) as error:
        data.load("mnist", folder)
    assert "'mnist'" in message(error)


def rewrite(samples: Path, folder: Path, change: Callable[[list[dict]], None]) -> Path:
    """MNIST's samples with their training rows changed."""
    copy_of(samples, "mnist", folder)
    file = folder / FILES["mnist"] / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    found = table.slice(0, 60).to_pylist()
    change(found)
    pq.write_table(pa.Table.from_pylist(found, schema=table.schema), file)
    return folder


@pytest.mark.parametrize("content", [b"", b"no picture", "half"])
def test_damaged_image_is_named(content: bytes | str, samples: Path, tmp_path: Path) -> None:
    def damage(found: list[dict]) -> None:
        good = found[17]["image"]["bytes"]
        found[17]["image"]["bytes"] = good[: len(good) // 2] if content == "half" else content

    with pytest.raises(data.DataError) as error:
        data.load("mnist", rewrite(samples, tmp_path, damage))
    assert "image 17 " in message(error)


def test_image_of_another_size_is_named(samples: Path, tmp_path: Path) -> None:
    def damage(found: list[dict]) -> None:
        png = io.BytesIO()
        PIL.Image.new("L", (27, 28)).save(png, "PNG")
        found[9]["image"]["bytes"] = png.getvalue()

    with pytest.raises(data.DataError) as error:
        data.load("mnist", rewrite(samples, tmp_path, damage))
    assert all(word in message(error) for word in ("image 9 ", "(28, 27, 1)", "(28, 28, 1)"))


@pytest.mark.parametrize("label", [-1, 10, None])
def test_label_without_a_class_is_refused(label: int | None, samples: Path, tmp_path: Path) -> None:
    def damage(found: list[dict]) -> None:
        found[3]["label"] = label

    with pytest.raises(data.DataError) as error:
        data.load("mnist", rewrite(samples, tmp_path, damage))
    assert "label" in message(error)


def test_label_without_an_image_is_refused(samples: Path, tmp_path: Path) -> None:
    def damage(found: list[dict]) -> None:
        found[3]["image"] = None

    with pytest.raises(data.DataError) as error:
        data.load("mnist", rewrite(samples, tmp_path, damage))
    assert "labels without an image" in message(error)


def test_no_image_column(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"text": ["a"] * 20, "label": [0] * 20}), tmp_path / "table" / "train.parquet")
    with pytest.raises(data.DataError) as error:
        data.load(str(tmp_path / "table"))
    assert all(word in message(error) for word in ("Image", "ClassLabel", "text (Value)"))


def test_pictures_without_classes(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "flat" / f"{i}.png")
    with pytest.raises(data.DataError) as error:
        data.load(str(tmp_path / "flat"), image_size=8)
    assert "ClassLabel" in message(error)


def test_pictures_of_one_class(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / "one" / "ants" / f"{i}.png")
    with pytest.raises(data.DataError) as error:
        data.load(str(tmp_path / "one"), image_size=8)
    assert "at least two sub-folders" in message(error)


@pytest.mark.parametrize("labels", [["wren", "owl", "crow"], [7, 3, 11]])
def test_labels_without_names_of_classes(tmp_path: Path, labels: list[str] | list[int]) -> None:
    """Words or numbers; the test split has secret labels, the one for validation has not."""

    def write(split: str, values: list[str] | list[int]) -> None:
        images = []
        for value in values:
            stream = io.BytesIO()
            shade = 10 * labels.index(value) if value in labels else 255
            PIL.Image.new("L", (8, 8), shade).save(stream, "PNG")
            images.append({"bytes": stream.getvalue(), "path": None})
        table = datasets.Dataset.from_dict({"image": images, "target": values}).cast_column("image", datasets.Image())
        table.to_parquet(tmp_path / "birds" / f"{split}.parquet")

    secret = [-1] * 3 if isinstance(labels[0], int) else [None] * 3
    write("train", labels * 10)
    write("validation", labels[::-1])
    write("test", secret)
    loaded = data.load(str(tmp_path / "birds"), image_size=8)
    order = sorted(labels)
    assert loaded.class_names == tuple(map(str, order))
    assert [order[label] for label in loaded.test.labels] == labels[::-1]
    for split in (loaded.train, loaded.validation, loaded.test):
        assert [10 * labels.index(order[label]) for label in split.labels] == split.images[:, 0, 0, 0].tolist()
    write("validation", [*labels[:1], labels[1] * 2])
    with pytest.raises(data.DataError, match="none of the training images"):
        data.load(str(tmp_path / "birds"), image_size=8)


def test_digests_tell_images_labels_and_cuts_apart(samples: Path) -> None:
    whole = data.load("mnist", samples)
    assert whole.digest() == data.load("mnist", samples).digest()
    labels = whole.train.labels.clone()
    labels[0] += 1
    others = [
        replace(whole, train=replace(whole.train, labels=labels)),
        replace(whole, train=whole.train.take(slice(1, None))),
        replace(whole, train=whole.validation, validation=whole.train),
    ]
    assert len({whole.digest(), *(other.digest() for other in others)}) == 4


def test_too_few_pictures(tmp_path: Path) -> None:
    for label in ("ants", "bees"):
        picture(tmp_path / "few" / label / "0.png")
    with pytest.raises(data.DataError) as error:
        data.load(str(tmp_path / "few"), image_size=8)
    assert "only 2 training images" in message(error)
