"""The whole way of one's own images: fit, publish, export, serve; then `/classify`, tritonclient and the app."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import reset_accelerate, torch_logits
from gradio_client import Client, handle_file
from PIL import Image
from tritonclient import http as triton

from train import export, publish, verify
from train.data import loading, manifest
from train.training import models

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]
# As people name their folders.
CLASSES = ("lily", 'o\'keeffe "red"', "rose & thorn", "tulip 2", "桜")

pytestmark = [
    pytest.mark.xdist_group("serve"),  # it starts a process that can use all cores
    # gradio_client leaves sockets and its temporary files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Five classes of 20 images, each of its own colour, wider than high."""
    folder = tmp_path / "my flowers"
    generator = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        colour = np.array([label & 4, label & 2, label & 1], bool) * 150
        for i in range(20):
            pixels = generator.integers(0, 90, (40, 56, 3)) + colour
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """`python -m serve`, and the address of it."""
    command = [sys.executable, "-m", "serve", "--models", str(folder), "--port", "0", "--linger", "0"]
    process = subprocess.Popen(
        [*command, "--precision", "fp32"], cwd=ROOT, env={**os.environ}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition(" ")[2]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("network", "flags"),
    [
        ("tiny_colour", ("--epochs", 30)),
        pytest.param("vanilla_resnet18", ("--pretrained", "--epochs", 3), marks=pytest.mark.slow),
    ],
)
def test_from_a_folder_of_images_to_the_app(
    network: str, flags: tuple[object, ...], run: Run, flowers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--model", network, "--dataset", flowers, "--output-dir", tmp_path / "run")
    status, output, errors = run(*options, *flags)
    assert (status, errors) == (0, ""), output
    name = f"{network}.my flowers"
    card = tmp_path / "models" / name
    reset_accelerate()
    assert publish.main([str(tmp_path / "run"), "--output-dir", str(card)]) == 0
    (card / "model.onnx").unlink()
    assert export.main([str(card)]) == 0
    assert verify.main([str(card)]) == 0, capsys.readouterr()

    model, config = models.load_card(card)
    assert config["label_names"] == list(CLASSES)
    dataset = loading.load(str(flowers), None, 32)
    expected = torch_logits(model, dataset.test.images)
    assert (expected.argmax(1) == dataset.test.labels.numpy()).all()
    tested = [row for row in manifest.read(tmp_path / "run" / "files.csv") if row.split == "test"]
    assert {row.label for row in tested} == set(CLASSES)
    with serving(card.parent) as url:
        for row in tested:
            file = flowers / row.file
            answer = httpx.post(f"{url}/classify/{name}", content=file.read_bytes()).raise_for_status().json()
            assert answer["model"] == name
            assert answer["predictions"][0]["label"] == row.label
            assert len(answer["predictions"]) == 5
        with triton.InferenceServerClient(url.removeprefix("http://")) as client:
            pixels = dataset.test.images.permute(0, 2, 3, 1).contiguous().numpy()
            tensor = triton.InferInput("image", list(pixels.shape), "UINT8")
            tensor.set_data_from_numpy(pixels)
            logits = client.infer(name, [tensor]).as_numpy("logits")
            np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-3)
        assert httpx.get(url).raise_for_status().headers["content-type"].startswith("text/html")
        app = Client(url, verbose=False)
        answer = app.predict(image=handle_file(file), model=name, api_name="/classify_image")
        assert answer["model"] == name
        assert answer["predictions"][0]["label"] == row.label
        app.close()
