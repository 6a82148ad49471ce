"""The list of what a run saw, and what changed since."""

from pathlib import Path

import PIL.Image
import pytest

from train.data import loading, manifest
from train.data.manifest import Row
from train.files import FileError

ROWS = [
    Row("ant/0.png", "a0", "ant", "train"),
    Row("ant/1.png", "a1", "ant", "test"),
    Row("bee/0.png", "b0", "bee", "train"),
    Row("bee/1.png", "b1", "bee", "validation"),
    Row("bee/copy.png", "b1", "bee", "validation"),
]


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [*ROWS, Row('a "b", c/ü\n.png', "x", ' comma, "quote" ', "train"), Row("\\udcff.png", "y", "日本", "test")]
    manifest.write(rows, tmp_path / manifest.FILE)
    assert manifest.read(tmp_path / manifest.FILE) == rows


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "file,sha256,label,split\nonly,three,cells\n"])
def test_a_damaged_list(tmp_path: Path, content: str) -> None:
    (tmp_path / manifest.FILE).write_text(content)
    with pytest.raises(FileError, match=r"files\.csv is damaged"):
        manifest.read(tmp_path / manifest.FILE)


def test_no_list(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"has no files\.csv"):
        manifest.read(tmp_path / manifest.FILE)


CHANGES = {
    "nothing": (ROWS, None),
    "renamed": ([Row("ant/z.png", *ROWS[0][1:]), *ROWS[1:]], None),
    "sorted otherwise": (ROWS[::-1], None),
    "added": ([*ROWS, Row("ant/2.png", "a2", "ant", "train")], "1 added (ant/2.png)"),
    "a copy removed": (ROWS[:-1], "1 removed (bee/copy.png)"),
    "edited": (
        [Row("ant/0.png", "new", "ant", "train"), *ROWS[1:]],
        "1 added (ant/0.png), 1 removed (ant/0.png)",
    ),
    "another split": (
        [Row("ant/0.png", "a0", "ant", "test"), *ROWS[1:]],
        "1 in another class or split (ant/0.png: from 'ant', train, to 'ant', test)",
    ),
    "another class": (
        [Row("bee/9.png", "a0", "bee", "train"), *ROWS[1:4]],
        "1 removed (bee/copy.png), 1 in another class or split (ant/0.png: from 'ant', train, to 'bee', train)",
    ),
    "a class renamed": (
        [row._replace(label="wasp") if row.label == "bee" else row for row in ROWS],
        "3 in another class or split (bee/0.png: from 'bee', train, to 'wasp', train)",
    ),
    "many": (ROWS[3:], "3 removed (ant/0.png, ...)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed(change: str) -> None:
    now, words = CHANGES[change]
    assert manifest.difference(ROWS, now) == words


def test_every_image_of_a_folder_is_listed(tmp_path: Path) -> None:
    for label in ("ant", "bee"):
        (tmp_path / "insects" / label).mkdir(parents=True)
        for i in range(20):
            PIL.Image.new("RGB", (8, 8), (i, ord(label[0]), 0)).save(tmp_path / "insects" / label / f"{i}.png")
    dataset = loading.load(str(tmp_path / "insects"), image_size=8)
    assert sorted(row.file for row in dataset.files) == sorted(
        f"{label}/{i}.png" for label in ("ant", "bee") for i in range(20)
    )
    for split in ("train", "validation", "test"):
        mine = [row for row in dataset.files if row.split == split]
        images, labels = getattr(dataset, split).images, getattr(dataset, split).labels
        assert [row.label for row in mine] == [dataset.class_names[label] for label in labels]
        assert [int(Path(row.file).stem) for row in mine] == images[:, 0, 0, 0].tolist()
        for row in mine:
            assert row.file.startswith(row.label)


def test_the_papers_datasets_need_no_list(samples: Path) -> None:
    assert loading.load("mnist", samples).files == ()
