"""The cache of decoded images: bounded, optional, shared, and never read under other class names."""

import io
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from train.data import cache, loading


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of decoded images, of this test's own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def insects(tmp_path: Path) -> Path:
    """Bees are red, wasps are green."""
    for label, colour in (("bee", (200, 0, 0)), ("wasp", (0, 200, 0))):
        (tmp_path / "insects" / label).mkdir(parents=True)
        for i in range(10):
            PIL.Image.new("RGB", (8, 8), (*colour[:2], i)).save(tmp_path / "insects" / label / f"{i}.png")
    return tmp_path / "insects"


def not_decoded(*_: object) -> None:
    pytest.fail("decoded again")


def colour_of(dataset: loading.Dataset, name: str) -> list[int]:
    """Red and green of a class's first image."""
    first = dataset.train.images[dataset.train.labels == dataset.class_names.index(name)][0]
    return first[:2, 0, 0].tolist()


@pytest.mark.parametrize("added", ["ant", "cow", "zebra"])
def test_an_empty_class_folder_does_not_swap_the_names(insects: Path, folder: Path, added: str) -> None:
    """Labels are numbers of names: they are not read with other names than those they were written with."""
    loading.load(str(insects), image_size=8)
    (insects / added).mkdir()
    after = loading.load(str(insects), image_size=8)
    assert after.class_names == ("bee", "wasp")
    assert (colour_of(after, "bee"), colour_of(after, "wasp")) == ([200, 0], [0, 200])


def test_other_names_of_the_classes_of_a_table(folder: Path, tmp_path: Path) -> None:
    """The library's fingerprint may be the same for tables that differ in their features alone."""

    def decode(names: list[str]) -> loading.Dataset:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        encoded = []
        for i in range(20):
            stream = io.BytesIO()
            PIL.Image.new("RGB", (8, 8), (i, i % 2, 0)).save(stream, "PNG")
            encoded.append({"bytes": stream.getvalue(), "path": None})
        table = datasets.Dataset.from_dict({"image": encoded, "label": [i % 2 for i in range(20)]}, features=features)
        table._fingerprint = "the same"
        return table

    files = set()
    for names in (["bee", "wasp"], ["wasp", "bee"]):
        table = decode(names)
        options = {"name": "insects", "image_column": "image", "label_column": "label", "size": 8}
        loading.decoding.decode(table, classes=names, **options)
        files = set(folder.iterdir()) | files
    assert len(files) == 2


@pytest.mark.parametrize("obstacle", ["the cache is a file", "its folder is a file", "read-only"])
def test_an_unwritable_cache_does_not_end_a_run(
    insects: Path, folder: Path, obstacle: str, caplog: pytest.LogCaptureFixture
) -> None:
    if obstacle == "the cache is a file":
        folder.parent.write_text("")
    elif obstacle == "its folder is a file":
        folder.parent.mkdir()
        folder.write_text("")
    else:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        folder.mkdir(parents=True)
        folder.chmod(0o500)
    dataset = loading.load(str(insects), image_size=8)
    assert colour_of(dataset, "bee") == [200, 0]
    assert "decoded images are not cached" in caplog.text
    assert all("\n" not in record.message for record in caplog.records)


def test_a_full_disk_does_not_end_a_run(
    insects: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Path, **_: np.ndarray) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert colour_of(loading.load(str(insects), image_size=8), "wasp") == [0, 200]
    assert "No space left on device" in caplog.text
    assert list(folder.iterdir()) == []


def test_a_cache_that_can_only_be_read_is_read(insects: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loading.load(str(insects), image_size=8)

    def refused(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(PIL.Image, "open", not_decoded)
    assert loading.load(str(insects), image_size=8).digest() == before.digest()


def entry(folder: Path, name: str, age: int) -> Path:
    """A file of about 1,000 bytes that was used so many seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_bytes(bytes(1000))
    now = folder.stat().st_mtime
    os.utime(file, (now - age, now - age))
    return file


def arrays(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((n, 1, 10, 10), np.uint8), np.zeros(n, np.int64)


def test_the_least_recently_used_files_are_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 4000)
    oldest, unfinished, newest = (
        entry(folder, name, age) for name, age in (("a.npz", 300), (".b-x1.npz", 200), ("c.npz", 100))
    )
    cache.write(folder / "new.npz", *arrays(15))  # 15 * (100 + 8) bytes, and what the format adds
    assert 1600 < (folder / "new.npz").stat().st_size < 3000
    assert not oldest.exists()
    assert not unfinished.exists()
    assert newest.exists()
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4000


def test_reading_a_file_counts_as_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 4000)
    cache.write(folder / "read.npz", *arrays(2))
    size = (folder / "read.npz").stat().st_size
    os.utime(folder / "read.npz", (0, 0))
    other = entry(folder, "other.npz", 100)
    assert cache.read(folder / "read.npz") is not None
    monkeypatch.setattr(cache, "MAX_BYTES", 2 * size + 500)
    cache.write(folder / "new.npz", *arrays(2))
    assert (folder / "read.npz").exists()
    assert not other.exists()


def test_changes_of_a_folder_do_not_pile_up(insects: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading.load(str(insects), image_size=8)
    (first,) = folder.iterdir()
    monkeypatch.setattr(cache, "MAX_BYTES", 3 * first.stat().st_size)
    for i in range(10):
        PIL.Image.new("RGB", (8, 8), (199, 0, i)).save(insects / "bee" / f"more{i}.png")
        loading.load(str(insects), image_size=8)
        assert sum(file.stat().st_size for file in folder.iterdir()) <= cache.MAX_BYTES
    monkeypatch.setattr(PIL.Image, "open", not_decoded)
    loading.load(str(insects), image_size=8)  # the newest is still there


def test_a_split_larger_than_the_bound_removes_no_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 4000)
    other = entry(folder, "other.npz", 100)
    cache.write(folder / "large.npz", *arrays(100))
    assert list(folder.iterdir()) == [other]


def use(folder: Path) -> None:
    for i in range(100):
        file = folder / f"{i % 7}.npz"
        if found := cache.read(file):
            assert (found[0] == i % 7).all()
            assert (found[1] == i % 7).all()
        else:
            cache.write(file, np.full((4, 1, 10, 10), i % 7, np.uint8), np.full(4, i % 7))


def test_several_use_it_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While each removes what the others wrote: what is read is whole, and the bound holds at the end."""
    monkeypatch.setattr(cache, "MAX_BYTES", 3000)
    with ThreadPoolExecutor(4) as pool:  # files are all that they share, as processes do
        for done in [pool.submit(use, folder) for _ in range(4)]:
            done.result()
    cache.write(folder / "last.npz", *arrays(1))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 3000


def test_a_file_removed_before_it_is_read_is_decoded_again(insects: Path, folder: Path) -> None:
    before = loading.load(str(insects), image_size=8)
    shutil.rmtree(folder)
    after = loading.load(str(insects), image_size=8)
    assert torch.equal(before.train.images, after.train.images)
    assert len(list(folder.iterdir())) == 1
