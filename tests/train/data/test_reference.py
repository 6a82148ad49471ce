"""What `--dataset` means, as typed and as recorded."""

from pathlib import Path

import pytest

from train.data.reference import DatasetRef, recorded, resolve
from zoo.catalog import DATASETS


@pytest.mark.parametrize("short", DATASETS)
def test_the_papers_datasets_by_name_and_by_hub_id(short: str) -> None:
    entry = DATASETS[short]
    for typed in (short, entry.hub_id):
        ref = resolve(typed)
        assert ref == recorded(typed) == DatasetRef(short, tag=short, hub_id=entry.hub_id)
        assert (ref.paper, ref.title, ref.published_name) == (entry, entry.title, short)


def test_the_papers_datasets_win_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("mnist").folder is None
    assert resolve("./mnist").folder == tmp_path / "mnist"


HUB = {
    "owner/name": ("name", "owner/name", None),
    "owner/name:small": ("name-small", "owner/name", "small"),
    "owner/cifar10": ("owner-cifar10", "owner/cifar10", None),
}


@pytest.mark.parametrize("name", HUB)
def test_hub_ids(name: str) -> None:
    ref = resolve(name)
    assert (ref.tag, ref.hub_id, ref.configuration) == HUB[name]
    assert (ref.name, ref.published_name, ref.title, ref.folder, ref.paper) == (name, name, name, None, None)


@pytest.mark.parametrize("typed", ["my insects", "./my insects", "photos/../my insects/"])
def test_a_folder_by_any_path_is_recorded_by_its_absolute_one(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "my insects"
    folder.mkdir()
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    ref = resolve(typed)
    assert ref == DatasetRef(str(folder), tag="my insects", folder=folder)
    assert (ref.published_name, ref.title, ref.paper, ref.hub_id) == ("my insects", "my insects", None, None)
    assert recorded(ref.name) == ref


def test_a_folder_wins_over_a_hub_id_of_its_name_but_not_in_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card says the same in whatever folder it is read."""
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("owner/name").folder == tmp_path / "owner" / "name"
    assert recorded("owner/name").folder is None
    assert recorded("owner/name").hub_id == "owner/name"


@pytest.mark.parametrize("name", ["my insects", "./lost", "a/b/c", "../lost"])
def test_a_name_of_no_known_form_is_neither_on_the_hub_nor_here(name: str) -> None:
    ref = resolve(name)
    assert (ref.name, ref.hub_id, ref.folder, ref.paper) == (name, None, None, None)


def test_a_recorded_folder_keeps_its_tag_where_it_does_not_exist() -> None:
    ref = recorded("/nowhere/my:insects")
    assert (ref.tag, ref.folder, ref.hub_id) == ("my-insects", Path("/nowhere/my:insects"), None)
