"""Datasets: the shipped samples, tables of the Hub, the cache, and everything that may be wrong with them."""

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
from conftest import keys, message

from train.data import loading
from train.data.reference import DataError
from zoo.catalog import DATASETS

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


def test_samples_load_whole_and_equal_what_pillow_sees(name: str, samples: Path) -> None:
    dataset = loading.load(name, samples)
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
    dataset = loading.load(name, samples)
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
    one, two = loading.load(name, samples), loading.load(name, samples)
    assert torch.equal(one.validation.images, two.validation.images)
    assert torch.equal(one.train.labels, two.train.labels)


DIGESTS = {"mnist": "58b1bb72cefa5271", "cifar10": "9d308c063d88d337"}


def test_the_cut_stays_the_one_of_earlier_runs(name: str, samples: Path) -> None:
    """Who goes on from published weights, or learns from them, would else validate on what they were trained on."""
    assert loading.load(name, samples).digest()[:16] == DIGESTS[name]


def test_of_the_complete_datasets_as_many_are_held_out_as_in_the_paper() -> None:
    assert [(data.train_images, data.validation_images) for data in DATASETS.values()] == [
        (60_000, 10_000),
        (50_000, 5_000),
    ]


def test_data_dir_may_come_from_the_environment(samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_DATA_DIR", str(samples))
    assert len(loading.load("mnist").test) == 1000


HUB = {
    "mnist": ("ylecun/mnist", None),
    "cifar10": ("uoft-cs/cifar10", None),
    "owner/birds": ("owner/birds", None),
    "owner/birds:small": ("owner/birds", "small"),
}


@pytest.mark.parametrize("name", HUB)
def test_without_a_folder_the_hub_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda source, configuration: asked.append((source, configuration)) or {}
    )
    with pytest.raises(DataError, match="no split 'train'"):
        loading.load(name)
    assert asked == [HUB[name]]


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[Path]]:
    """Decoded arrays are kept in a folder of this test's own; lists them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return lambda: sorted((tmp_path / "cache" / "decoded").glob("*"))


def copy_of(samples: Path, name: str, folder: Path) -> Path:
    shutil.copytree(samples / name, folder / name)
    return folder


def test_cache_is_used_and_a_damaged_one_rebuilt(
    samples: Path, caches: Callable[[], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loading.load("mnist", samples)
    assert len(caches()) == 2
    opened = PIL.Image.open
    monkeypatch.setattr(PIL.Image, "open", lambda *_: pytest.fail("decoded again"))
    cached = loading.load("mnist", samples)
    monkeypatch.setattr(PIL.Image, "open", opened)
    for file, damage in zip(
        caches(), (lambda b: b[: len(b) // 2], lambda b: b[:5000] + b"damage" + b[5006:]), strict=True
    ):
        file.write_bytes(damage(file.read_bytes()))
    again = loading.load("mnist", samples)
    for dataset in (cached, again):
        for split in ("train", "validation", "test"):
            assert torch.equal(getattr(first, split).images, getattr(dataset, split).images)
            assert torch.equal(getattr(first, split).labels, getattr(dataset, split).labels)
    assert len(caches()) == 2
    assert all(file.suffix == ".npz" for file in caches())


def test_changed_files_are_not_answered_from_the_cache(samples: Path, tmp_path: Path) -> None:
    folder = copy_of(samples, "mnist", tmp_path)
    before = loading.load("mnist", folder)
    file = folder / FILES["mnist"] / "test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(file).slice(0, 70), file)
    after = loading.load("mnist", folder)
    assert (len(before.test), len(after.test)) == (1000, 70)


def test_unknown_name() -> None:
    with pytest.raises(DataError) as error:
        loading.load("minst")
    assert all(word in message(error) for word in ("'minst'", "'mnist'", "'cifar10'", "folder", "Hub id"))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        loading.load("cifar10", tmp_path)
    assert all(word in message(error) for word in ("'cifar10'", str(tmp_path)))


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
    with pytest.raises(DataError) as error:
        loading.load("mnist", folder)
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

    with pytest.raises(DataError) as error:
        loading.load("mnist", rewrite(samples, tmp_path, damage))
    assert "image 17 " in message(error)


def test_image_of_another_size_is_named(samples: Path, tmp_path: Path) -> None:
    def damage(found: list[dict]) -> None:
        png = io.BytesIO()
        PIL.Image.new("L", (27, 28)).save(png, "PNG")
        found[9]["image"]["bytes"] = png.getvalue()

    with pytest.raises(DataError) as error:
        loading.load("mnist", rewrite(samples, tmp_path, damage))
    assert all(word in message(error) for word in ("image 9 ", "(28, 27, 1)", "(28, 28, 1)"))


@pytest.mark.parametrize("label", [-1, 10, None])
def test_label_without_a_class_is_refused(label: int | None, samples: Path, tmp_path: Path) -> None:
    def damage(found: list[dict]) -> None:
        found[3]["label"] = label

    with pytest.raises(DataError) as error:
        loading.load("mnist", rewrite(samples, tmp_path, damage))
    assert "label" in message(error)


def test_label_without_an_image_is_refused(samples: Path, tmp_path: Path) -> None:
    def damage(found: list[dict]) -> None:
        found[3]["image"] = None

    with pytest.raises(DataError) as error:
        loading.load("mnist", rewrite(samples, tmp_path, damage))
    assert "labels without an image" in message(error)


def test_no_image_column(tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"text": ["a"] * 20, "label": [0] * 20}), tmp_path / "table" / "train.parquet")
    with pytest.raises(DataError) as error:
        loading.load(str(tmp_path / "table"))
    assert all(word in message(error) for word in ("Image", "ClassLabel", "text (Value)"))


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
    loaded = loading.load(str(tmp_path / "birds"), image_size=8)
    order = sorted(labels)
    assert loaded.class_names == tuple(map(str, order))
    assert [order[label] for label in loaded.test.labels] == labels[::-1]
    for split in (loaded.train, loaded.validation, loaded.test):
        assert [10 * labels.index(order[label]) for label in split.labels] == split.images[:, 0, 0, 0].tolist()
    write("validation", [*labels[:1], labels[1] * 2])
    with pytest.raises(DataError, match="none of the training images"):
        loading.load(str(tmp_path / "birds"), image_size=8)


def test_digests_tell_images_labels_and_cuts_apart(samples: Path) -> None:
    whole = loading.load("mnist", samples)
    assert whole.digest() == loading.load("mnist", samples).digest()
    labels = whole.train.labels.clone()
    labels[0] += 1
    others = [
        replace(whole, train=replace(whole.train, labels=labels)),
        replace(whole, train=whole.train.take(slice(1, None))),
        replace(whole, train=whole.validation, validation=whole.train),
    ]
    assert len({whole.digest(), *(other.digest() for other in others)}) == 4
