"""The limit on the files that visitors leave on the disk."""

import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from watching import eventually

from serve.app.upload_quota import BLOCK, OFTEN, UploadQuota

MOST = 2**20


def page(*sets: set[str], kept: set[str] = frozenset()) -> Any:  # type: ignore[assignment]
    return SimpleNamespace(temp_file_sets=sets, blocks={1: SimpleNamespace(keep_in_cache=kept), 2: object()})


def files(folder: Path, *sizes: int) -> list[str]:
    names = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.png"
        path.write_bytes(bytes(size))
        names.append(str(path))
        time.sleep(0.02)  # a file system's clock is coarse
    return names


def occupied(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*.jpg"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def test_the_oldest_files_go_first(tmp_path: Path) -> None:
    names = files(tmp_path, *[MOST // 4] * 6)
    uploaded, shown = set(names[::2]), set(names[1::2])
    UploadQuota(page(uploaded, shown), MOST).prune()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.png", "3.png", "4.png", "5.png"]
    assert uploaded == {names[2], names[4]}
    assert shown == {names[3], names[5]}


def test_the_pages_own_files_stay_and_missing_ones_are_forgotten(tmp_path: Path) -> None:
    names = files(tmp_path, MOST, MOST, MOST)
    gone = str(tmp_path / "gone.png")
    uploaded = {*names, gone}
    UploadQuota(page(uploaded, kept={names[0]}), MOST).prune()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "2.png"]
    assert uploaded == {names[0], names[2]}


def test_small_files_count_with_the_block_they_take_on_the_disk(tmp_path: Path) -> None:
    names = files(tmp_path, 1, 1, 1)
    UploadQuota(page(set(names)), 2 * BLOCK).prune()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "2.png"]


def test_a_check_is_due_after_many_bytes_or_many_requests() -> None:
    quota = UploadQuota(page(), MOST)
    assert [quota.due(MOST // 16) for _ in range(4)] == [False, True, False, True]
    assert [quota.due(0) for _ in range(2 * OFTEN)].count(True) == 2


def test_endless_uploads_do_not_fill_the_disk(running: Any, tiny: Any, tmp_path: Path, encode: Any) -> None:
    model = tiny(tmp_path / "models" / "improved_resnet18.cifar10").write()
    uploads = tmp_path / "uploads"
    noise = np.random.default_rng(0).integers(0, 256, (40, 200, 200, 3), np.uint8)
    program = f"import serve.app.page; serve.app.page.KEPT = {MOST}; from serve.__main__ import main; main()"
    with (
        running(
            *("--models", tmp_path / "models", "--max-body", MOST // 16),
            environment={"GRADIO_TEMP_DIR": str(uploads)},
            program=("-c", program),
        ) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for pixels in noise:
            data = encode(pixels, "JPEG", quality=90)
            assert MOST // 64 < len(data) < MOST // 16
            (path,) = client.post("/gradio_api/upload", files={"files": ("a.jpg", data)}).json()
        # The server deletes files after its response: a listed file may be gone a moment later.
        assert eventually(lambda: MOST // 2 < occupied(uploads) < 1.2 * MOST), occupied(uploads)
        # The newest file is still there.
        answer = client.post("/gradio_api/run/classify_picture", json={"data": [{"path": path}, model.name]})
        assert answer.status_code == 200, answer.text
