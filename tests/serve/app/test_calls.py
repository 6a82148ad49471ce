"""The app's named calls, as gradio_client makes them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageOps

EXAMPLES = Path(__file__).parents[3] / "serve" / "examples"

pytestmark = [
    # gradio_client leaves sockets and its temporary files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def served(shared: SimpleNamespace) -> Iterator[SimpleNamespace]:
    client = Client(shared.url, verbose=False)
    yield SimpleNamespace(client=client, **vars(shared))
    client.close()


def test_the_calls_have_names_and_named_parameters(served: SimpleNamespace) -> None:
    calls = served.client.view_api(return_format="dict")["named_endpoints"]
    parameters = {name: [one["parameter_name"] for one in call["parameters"]] for name, call in calls.items()}
    assert parameters == {
        "/classify_digit": ["image", "model"],
        "/classify_picture": ["image", "model"],
        "/classify_image": ["image", "model"],
        "/compare": ["image", "dataset"],
        "/models": [],
    }


def test_models_are_listed_best_first(served: SimpleNamespace) -> None:
    names = served.client.predict(api_name="/models")
    assert names == ["improved_vgg16.mnist", "vanilla_vgg16.mnist", "improved_resnet18.cifar10", "resnet50.pets"]


def test_classify_digit_takes_the_best_model_or_the_one_named(served: SimpleNamespace) -> None:
    image = EXAMPLES / "digit-4-of-mnist.png"  # has the dataset's size, so it needs no preparation
    pixels = np.asarray(Image.open(image))[..., None]
    for model, expected in ((None, served.strong), ("vanilla_vgg16.mnist", served.weak)):
        chosen = {"model": model} if model else {}
        answer = served.client.predict(image=handle_file(image), **chosen, api_name="/classify_digit")
        assert answer["model"] == expected.name
        assert answer["problem"] is None
        assert answer["predictions"][0]["index"] == expected.best(pixels)
        assert sum(one["probability"] for one in answer["predictions"]) == pytest.approx(1, abs=1e-4)


def test_a_blank_digit_is_called_blank(served: SimpleNamespace, tmp_path: Path) -> None:
    Image.new("RGB", (100, 100), "white").save(tmp_path / "blank.png")
    answer = served.client.predict(image=handle_file(tmp_path / "blank.png"), api_name="/classify_digit")
    assert answer == {"model": None, "predictions": [], "problem": "blank"}


def test_classify_picture_and_compare_agree(served: SimpleNamespace) -> None:
    image = EXAMPLES / "picture-frog.png"
    answer = served.client.predict(image=handle_file(image), api_name="/classify_picture")
    assert answer["predictions"][0]["index"] == served.colour.best(np.asarray(Image.open(image)))
    (compared,) = served.client.predict(image=handle_file(image), dataset="cifar10", api_name="/compare")
    assert compared["predictions"] == answer["predictions"]
    assert compared["milliseconds"] > 0


def test_models_of_ones_own_classify_at_their_own_size(served: SimpleNamespace) -> None:
    image = EXAMPLES / "picture-frog.png"
    answer = served.client.predict(image=handle_file(image), api_name="/classify_image")
    with Image.open(image) as frog:
        crop = ImageOps.fit(frog, (56, 40), Image.Resampling.BILINEAR)
    assert answer["model"] == "resnet50.pets"
    assert answer["predictions"][0]["index"] == served.own.best(np.asarray(crop))
    (compared,) = served.client.predict(image=handle_file(image), dataset="pets", api_name="/compare")
    assert compared["predictions"] == answer["predictions"]
    with pytest.raises(AppError, match="/classify_image uses it"):
        served.client.predict(image=handle_file(image), model="resnet50.pets", api_name="/classify_picture")


def test_errors_say_what_is_wrong(served: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(AppError, match="not an image"):
        served.client.predict(image=handle_file(tmp_path / "text.png"), api_name="/classify_picture")
    image, digit = (handle_file(EXAMPLES / name) for name in ("picture-frog.png", "digit-4-of-mnist.png"))
    with pytest.raises(AppError, match=r"unknown model .*improved_vgg16\.mnist"):
        served.client.predict(image=digit, model="nonsense", api_name="/classify_digit")
    with pytest.raises(AppError, match="valid are cifar10, mnist, pets"):
        served.client.predict(image=image, dataset="imagenet", api_name="/compare")
    for call in ({}, {"dataset": "mnist"}):
        with pytest.raises(AppError, match="no picture was given"):
            served.client.predict(image=None, **call, api_name="/compare")
    for name in ("/classify_digit", "/classify_picture"):
        with pytest.raises(AppError, match="no picture was given"):
            served.client.predict(image=None, api_name=name)
