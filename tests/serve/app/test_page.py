"""What the app shows, without a browser: results, tables, cards, heat maps."""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from serve.app.failures import failure
from serve.app.html.judges import fooled, votes
from serve.app.html.results import OF_PHOTO, OF_SQUARE, digit_result, picture_result, title
from serve.app.html.tables import comparison, confusions, published
from serve.app.inference import Prediction, alike, chosen_model, kinds, offered_kinds, ready_models
from serve.app.inputs import Given, digit_from_drawing, digit_from_file, prepare, prepare_or_example
from serve.app.model_cards import markdown, mistakes, read_cards
from serve.app.occlusion import (
    COPIES,
    GRIDS,
    cover,
    cover_square,
    covered_copies,
    heat_map,
    occlusion_map,
    overlay,
)
from serve.app.page import build
from serve.app.tabs.components import chooser
from serve.app.verdict import verdict
from serve.engine.metrics import Metrics
from serve.engine.models import ModelInfo
from serve.engine.queues import Result, ranked
from serve.errors import ApiError, BadImage, NotReady, Overloaded
from serve.images.decoder import Decoder
from serve.images.digits import Digit
from serve.images.sheet import Sheet
from serve.settings import Settings

LABELS = [str(digit) for digit in range(10)]
PIXELS = np.zeros((28, 28, 1), np.uint8)
EXAMPLES = Path(__file__).parents[3] / "serve" / "examples"


def prediction(best: int, share: float, labels: list[str] = LABELS, model: str = "improved_vgg16.mnist") -> Prediction:
    probabilities = np.full(10, (1 - share) / 9, np.float32)
    probabilities[best] = share
    return Prediction(model, labels, probabilities, 0.0123)


def test_titles() -> None:
    assert title("improved_googlenet.cifar10") == "Improved GoogLeNet"
    assert title("vanilla_vgg16.mnist") == "Vanilla VGG16"
    assert title("resnet50.pets") == "resnet50"


def test_classes_are_ranked_and_equal_ones_keep_their_order() -> None:
    scores = np.array([0.1, 0.3, 0.1, 0.3, 0.2], np.float32)
    assert ranked(scores) == [1, 3, 4, 0, 2]
    assert ranked(scores, 2) == [1, 3]


def test_a_sure_result_names_the_digit_and_has_all_bars() -> None:
    html = digit_result(Digit(PIXELS), prediction(7, 0.98))
    assert '<p class="says short">7 <small>sure, 98.0 %</small></p>' in html
    assert html.count("<li") == 10
    assert "12 ms" in html


@pytest.mark.parametrize(
    ("digit", "words"),
    [(Digit(PIXELS, "several"), "More than one digit"), (Digit(PIXELS, "scribble"), "None that I know")],
)
def test_a_problem_comes_before_any_probability(digit: Digit, words: str) -> None:
    html = digit_result(digit, prediction(7, 0.99))
    assert f'<p class="unsure">{words}</p>' in html
    assert "says short" not in html
    table = comparison(PIXELS, [prediction(7, 0.99)], {}, {}, digit.problem)
    assert "say" not in table.partition("<table")[0]
    assert "none that I know" in table


@pytest.mark.parametrize(
    ("shares", "least", "tone", "classes"),
    [
        ((0.97, 0.02), 0.9, "sure", (0,)),
        ((0.91, 0.02), 0.9, "sure", (0,)),
        ((0.89, 0.02), 0.9, "leaning", (0,)),
        ((0.55, 0.42), 0.9, "torn", (0, 1)),
        ((0.72, 0.25), 0.5, "sure", (0,)),
        ((0.48, 0.40), 0.5, "torn", (0, 1)),
        ((0.48, 0.10), 0.5, "none", ()),
        ((0.30, 0.18), 0.5, "none", ()),
        ((0.80, 0.10), None, "sure", (0,)),
        ((0.70, 0.10), None, "leaning", (0,)),
        ((0.40, 0.10), None, "none", ()),
        ((0.995, 0.001), 0.999, "leaning", (0,)),
    ],
)
def test_the_verdict_follows_from_the_probabilities_and_the_models_own_threshold(
    shares: tuple[float, float], least: float | None, tone: str, classes: tuple[int, ...]
) -> None:
    probabilities = np.full(10, (1 - sum(shares)) / 8, np.float32)
    probabilities[:2] = shares
    found = verdict(probabilities, least)
    assert (found.tone, found.classes) == (tone, classes)
    assert verdict(probabilities, least, fits=False).tone == "none"


@pytest.mark.parametrize(
    ("shares", "familiar", "tone", "classes"),
    [
        ((0.999, 0.0005), False, "none", ()),
        ((0.999, 0.0005), True, "sure", (0,)),
        ((0.80, 0.10), False, "none", ()),
        ((0.80, 0.10), True, "leaning", (0,)),
        ((0.55, 0.40), False, "torn", (0, 1)),
        ((0.40, 0.35), False, "none", ()),
        ((0.40, 0.35), True, "torn", (0, 1)),
        ((0.30, 0.10), True, "unsure", ()),
        ((0.30, 0.10), None, "none", ()),
    ],
)
def test_an_unfamiliar_image_is_none_that_the_model_knows_unless_it_is_between_two(
    shares: tuple[float, float], familiar: bool | None, tone: str, classes: tuple[int, ...]
) -> None:
    probabilities = np.full(10, (1 - sum(shares)) / 8, np.float32)
    probabilities[:2] = shares
    found = verdict(probabilities, 0.95, familiar=familiar)
    assert (found.tone, found.classes) == (tone, classes)
    assert found.words in ("sure", "leaning", "torn between two", "not sure", "none that I know")


def test_a_verdict_on_two_classes_and_on_one() -> None:
    assert verdict(np.array([0.55, 0.45], np.float32)).tone == "torn"
    assert verdict(np.array([0.99, 0.01], np.float32)).tone == "sure"
    assert verdict(np.array([1], np.float32)).tone == "sure"


def test_all_tabs_say_the_same_words() -> None:
    torn = prediction(7, 0.5)
    torn.probabilities[:] = 0
    torn.probabilities[[4, 9]] = 0.5, 0.45
    for html in (digit_result(Digit(PIXELS), torn), picture_result(PIXELS, torn), comparison(PIXELS, [torn], {}, {})):
        assert "4 or 9" in html
        assert "torn between two" in html
    unknown = prediction(3, 0.4)
    for html in (digit_result(Digit(PIXELS), unknown), picture_result(PIXELS, unknown)):
        assert '<p class="unsure">None that I know</p>' in html
        assert "The nearest are 3 (40.0 %) and 0 (6.7 %)." in html
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8 and 9" in picture_result(PIXELS, unknown)


def test_a_photo_with_a_problem_gets_the_advice_to_crop_it() -> None:
    for digit in (Digit(PIXELS, "several"), Digit(None, "several"), Digit(None, "blank"), Digit(None, "dot")):
        said = prediction(7, 0.99) if digit.pixels is not None else None
        assert "crop" in digit_result(digit, said, OF_PHOTO).lower()
        assert "in the square" in digit_result(digit, said, OF_SQUARE)
        assert "crop" not in digit_result(digit, said).lower()


def test_the_sheet_that_was_read_is_outlined() -> None:
    sheet = Sheet(((0.1, 0.2), None, None, (0.25, 0.25)), (640, 480))
    for digit in (Digit(PIXELS, sheet=sheet), Digit(None, "blank", sheet)):
        said = prediction(7, 0.99) if digit.pixels is not None else None
        html = digit_result(digit, said, OF_PHOTO)
        assert 'data-corners="0.100,0.000 1.000,0.000 1.000,0.750 0.175,0.750"' in html
    assert "outlined" not in digit_result(Digit(PIXELS), prediction(7, 0.99), OF_PHOTO)


def test_a_blank_pad_gets_no_guess() -> None:
    html = digit_result(Digit(None, "blank"), None)
    assert "draw one digit" in html
    assert "%" not in html


def test_labels_are_text_and_not_markup() -> None:
    labels = ["<script>alert(1)</script>", *LABELS[1:]]
    found = prediction(0, 0.9, labels, model="<b>.mnist")
    for html in (
        digit_result(Digit(PIXELS), found),
        picture_result(np.zeros((32, 32, 3), np.uint8), found),
        comparison(PIXELS, [found], {}, {}),
    ):
        assert "<script" not in html
        assert "&lt;script" in html
        assert "<b>" not in html


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    made = Decoder(Settings(), Metrics())
    yield made
    made.close()


def test_a_drawing_is_read_from_its_strokes(decoder: Decoder) -> None:
    seven = {"width": 0.07, "points": [0.2, 0.2, 0.7, 0.2, 0.4, 0.8]}
    digit = asyncio.run(digit_from_drawing(decoder, json.dumps({"strokes": [seven]})))
    assert digit.problem is None
    assert digit.pixels is not None
    with pytest.raises(BadImage, match="not JSON"):
        asyncio.run(digit_from_drawing(decoder, "data:image/png;base64,aGVsbG8="))
    assert asyncio.run(digit_from_drawing(decoder, "")).problem == "blank"


def test_white_ink_on_a_transparent_canvas_is_seen(decoder: Decoder, tmp_path: Path) -> None:
    image = Image.new("RGBA", (200, 200), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (90, 40, 105, 160))
    image.save(tmp_path / "canvas.png")
    assert asyncio.run(digit_from_file(decoder, str(tmp_path / "canvas.png"))).problem is None


def test_what_is_read_is_what_is_shown(decoder: Decoder, tmp_path: Path) -> None:
    """Nothing is remembered: a drawing or a photo that fails is not replaced by an earlier one."""
    (tmp_path / "photo.png").write_text("no picture")
    model = running_model(99, "fp32")
    paper = str(EXAMPLES / "digit-3-on-paper.jpg")

    async def pixels(given: Given) -> bool:
        return (await prepare(decoder, given, model)).pixels is not None

    assert asyncio.run(pixels(Given(photo=paper, source="photo")))
    assert not asyncio.run(pixels(Given(photo=paper)))
    assert not asyncio.run(pixels(Given()))
    anything: Any = {"strokes": []}
    assert not asyncio.run(pixels(Given(anything)))  # a client may send it
    for given in (Given("data:image/png;base64,aGVsbG8="), Given(photo=str(tmp_path / "photo.png"), source="photo")):
        with pytest.raises(BadImage):
            asyncio.run(pixels(given))
    example = asyncio.run(prepare_or_example(decoder, Given(), model))
    assert example.is_example
    assert example.pixels is not None


def test_an_image_is_read_at_the_models_own_size(decoder: Decoder) -> None:
    frog = str(EXAMPLES / "picture-frog.png")
    for shape in ((48, 48, 3), (40, 64, 1)):
        model = replace(running_model(90, "fp32"), name="resnet50.pets", image_size=shape)
        prepared = asyncio.run(prepare(decoder, Given(image=frog, picture="another"), model))
        assert prepared.pixels is not None
        assert prepared.pixels.shape == shape
    empty = asyncio.run(prepare_or_example(decoder, Given(picture=frog), model))
    assert empty.pixels is None  # no example would fit classes that nobody knows


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (BadImage(415, "not an image in a format this server reads (JPEG)"), "not a picture that can be read here"),
        (BadImage(413, "the image is too large: 9x9, at most 4 pixels"), "This picture is too large: 9x9"),
        (BadImage(400, "the image is broken: unpack requires a buffer"), "This picture is damaged"),
        (ApiError(410, "the picture is no longer on this server; choose it again"), "choose it again"),
    ],
)
def test_a_failure_is_said_in_plain_words(error: ApiError, says: str) -> None:
    assert says in failure(error)
    assert "unpack" not in failure(error)


@pytest.mark.parametrize("error", [Overloaded(), NotReady("no model for digits is ready")])
def test_a_failure_that_passes_fails_the_call_so_that_the_page_sends_it_again(error: ApiError) -> None:
    with pytest.raises(gr.Error, match=error.message):
        failure(error)


def running_model(accuracy: float, precision: str) -> ModelInfo:
    return ModelInfo("improved_vgg16.mnist", LABELS, (28, 28, 1), accuracy, precision, "cpu", 84_000_000, {})


def card_folder(root: Path, name: str, **metrics: object) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_cards_read_what_is_there(tmp_path: Path) -> None:
    counts = (np.eye(10, dtype=int) * 90 + 1).tolist()
    metrics = {"test_accuracy": 99.7, "paper_test_accuracy": 99.64, "parameters": 84_000_000}
    card_folder(tmp_path, "improved_vgg16.mnist", confusion_matrix=counts, **metrics)
    card_folder(tmp_path, "odd.cifar10", test_accuracy="high", confusion_matrix=[[1, 2], [3]])
    (card_folder(tmp_path, "broken.mnist") / "metrics.json").write_text("{")
    (tmp_path / "empty").mkdir()
    found = read_cards(tmp_path)
    assert sorted(found) == ["broken.mnist", "improved_vgg16.mnist", "odd.cifar10"]
    good, odd = found["improved_vgg16.mnist"], found["odd.cifar10"]
    assert (good.accuracy, good.parameters, good.paper) == (99.7, 84_000_000, 99.64)
    assert good.confusion is not None
    assert good.confusion.shape == (10, 10)
    assert (odd.accuracy, odd.parameters, odd.confusion, odd.paper) == (None, None, None, None)
    html = published(found, {"improved_vgg16.mnist": running_model(99.6, "int8")})
    assert "99.70 %" in html
    assert "99.60 % in int8" in html
    assert "84.0 M" in html
    assert read_cards(tmp_path / "missing") == {}


def test_cards_are_read_again_only_when_they_change(tmp_path: Path) -> None:
    folder = card_folder(tmp_path, "improved_vgg16.mnist", test_accuracy=99.5)
    first = read_cards(tmp_path)["improved_vgg16.mnist"]
    assert read_cards(tmp_path)["improved_vgg16.mnist"] is first
    (folder / "metrics.json").write_text(json.dumps({"test_accuracy": 99.75}))
    os.utime(folder / "metrics.json", ns=(1, 1))
    assert read_cards(tmp_path)["improved_vgg16.mnist"].accuracy == 99.75
    (folder / "README.md").write_text("# old ![plot](plot.png)")
    (folder / "plot.png").write_bytes(b"old")
    assert markdown(folder / "README.md") == "## old ![plot](data:image/png;base64,b2xk)"
    (folder / "plot.png").write_bytes(b"newer")
    assert markdown(folder / "README.md") == "## old ![plot](data:image/png;base64,bmV3ZXI=)"
    (folder / "README.md").write_text("# newer")
    assert markdown(folder / "README.md") == "## newer"
    (folder / "metrics.json").unlink()
    assert read_cards(tmp_path)["improved_vgg16.mnist"].accuracy is None


def built(engine: Any, decoder: Decoder) -> gr.Blocks:
    """Build the page in an event loop: outside of one Gradio would make its own, and leave it open."""

    async def work() -> gr.Blocks:
        return build(engine, decoder)

    return asyncio.run(work())


def page_events(folder: Path, decoder: Decoder) -> dict[tuple[str, ...], Any]:
    """The event functions of the tabs, by tab and name."""
    engine: Any = OneSpot(4, 5)
    engine.settings.models = folder
    page = build(engine, decoder)
    return {
        (function.fn.__qualname__.split(".")[0], str(function.name)): function.fn
        for function in page.fns.values()
        if function.fn
    }


def test_cards_are_not_read_on_the_event_loop(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = card_folder(tmp_path, "one.mnist", confusion_matrix=np.eye(10, dtype=int).tolist())
    (folder / "README.md").write_text("# One")
    on_loop: list[str] = []
    opened: list[str] = []

    def watched(real: Any) -> Any:
        def call(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.is_relative_to(tmp_path):
                opened.append(path.name)
                with suppress(RuntimeError):
                    asyncio.get_running_loop()
                    on_loop.append(str(path))
            return real(path, *arguments, **options)

        return call

    for name in ("read_text", "read_bytes", "iterdir", "stat"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))

    async def work() -> None:
        events = page_events(tmp_path, decoder)
        given = (None, None, None, None, "draw", None, None, None)
        assert "says" in await events["compare_tab", "side_by_side"]("digit", None, None, None, *given)
        assert "What it mixes up" in (await events["understand_tab", "explain"]("digit", "one.mnist", *given))[1]
        table, _, card = await events["models_tab", "enter"]()
        assert "<table" in table
        assert card == await events["models_tab", "read"]("one, MNIST") == "## One"

    opened.clear()
    asyncio.run(work())
    assert {"metrics.json", "README.md"} <= set(opened)
    assert on_loop == []


@pytest.mark.parametrize(("name", "offered"), [("model_cards", True), ("other_models", False)])
def test_the_report_is_offered_with_its_own_models_alone(
    decoder: Decoder, tmp_path: Path, name: str, offered: bool
) -> None:
    (tmp_path / "REPORT.md").write_text("# The project's report\n\n## Cost\nLow. [Why](why.md)\n\n## Time\nShort.\n")
    (tmp_path / name).mkdir()
    (card_folder(tmp_path / name, "one.mnist") / "README.md").write_text("# One")
    (tmp_path / "link").symlink_to(tmp_path / name)

    async def work(folder: Path) -> None:
        events = page_events(folder, decoder)
        _, choice, first = await events["models_tab", "enter"]()
        report = ["Report: Cost", "Report: Time"] if offered else []
        assert [label for label, _ in choice.choices] == ["one, MNIST", *report]
        assert first == "## One"
        assert await events["models_tab", "read"]("Report: Cost") == ("### Cost\nLow. Why\n" if offered else "")

    for folder in (tmp_path / name, tmp_path / "link"):
        asyncio.run(work(folder))


def test_markdown_holds_its_pictures_and_none_from_elsewhere(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    folder = tmp_path / "card"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "curves.png")
    (folder / "README.md").write_text(
        "---\nlicense: apache-2.0\n---\n# A card\n![curves](curves.png) ![other](../secret.png)"
        " ![far](https://example.org/x.png) ![text](README.md)\n"
    )
    text = markdown(folder / "README.md")
    assert text.startswith("## A card")
    assert "![curves](data:image/png;base64," in text
    assert text.count("data:") == 1
    assert text.endswith(" other far text\n")
    assert "example.org" not in text
    assert "secret" not in text


def test_markdown_fits_into_the_page(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "# A\n[there](docs/x.md) [up](#a) [out](https://example.org) [![img](x.png)](y.md)\n```\n# a comment\n```\n## B"
    )
    assert markdown(tmp_path / "README.md") == (
        "## A\nthere up [out](https://example.org) img\n```\n# a comment\n```\n### B"
    )


def test_the_most_frequent_mistakes_come_first() -> None:
    counts = np.diag([100] * 10)
    counts[3, 5], counts[5, 3], counts[9, 4] = 7, 9, 2
    assert mistakes(counts) == [(5, 3, 9), (3, 5, 7), (9, 4, 2)]


def test_confusions_are_those_of_the_predicted_class(tmp_path: Path) -> None:
    counts = np.diag([100] * 10)
    counts[3, 5], counts[8, 5] = 7, 2
    folder = card_folder(tmp_path, "improved_vgg16.mnist", confusion_matrix=counts.tolist())
    card = read_cards(folder.parent)["improved_vgg16.mnist"]
    html = confusions(card, prediction(5, 0.9))
    assert "Of 109 test images that the published weights called 5, 100 were." in html
    assert "The others were 3 (7), 8 (2)." in html
    assert "3 taken for 5: 7" in html
    assert "No confusion matrix" in confusions(None, prediction(5, 0.9))


def test_comparison_counts_the_votes() -> None:
    predictions = [
        prediction(7, 0.9),
        prediction(7, 0.8, model="vanilla_vgg16.mnist"),
        prediction(1, 0.5, model="vanilla_resnet18.mnist"),
    ]
    html = comparison(PIXELS, predictions, {}, {"improved_vgg16.mnist": running_model(99.6, "fp32")})
    assert "2 of 3 models say 7" in html
    assert html.count('<th scope="row">') == 3
    assert '<strong class="other">1</strong>' in html
    assert "84.0 M" in html
    assert "12.3 ms" in html
    assert "99.60 % in fp32" in html
    assert "No two of 2 models agree" in comparison(PIXELS, predictions[1:], {}, {})


def test_networks_are_fooled_when_two_name_different_digits() -> None:
    seven, one = prediction(7, 0.95), prediction(1, 0.95, model="vanilla_vgg16.mnist")
    unknown = prediction(3, 0.2, model="vanilla_resnet18.mnist")
    html = votes([seven, one, unknown])
    assert "You have fooled them" in html
    assert "save-card" in html
    assert re.findall(r"<strong>(.)</strong> <span>([\w ]+)", html) == [
        ("7", "Improved VGG16"),
        ("1", "Vanilla VGG16"),
        ("?", "Vanilla ResNet18"),
    ]
    for agreeing in ([seven, seven], [seven, unknown]):
        assert "Fool them" in votes(agreeing)
        assert "save-card" not in votes(agreeing)
    assert not fooled([seven, one], "scribble")  # no network could read it
    assert "fool" not in votes([seven])


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0, 0), (1, 0.3)])
def test_a_square_covers_where_it_is(x: float, y: float) -> None:
    pixels = np.full((40, 60, 1), 200, np.uint8)
    covered = cover_square(pixels, x, y)
    rows, columns = np.nonzero(covered[..., 0] == 0)
    assert (rows.min(), rows.max()) == (max(0, round(40 * (y - 0.15))), min(40, round(40 * (y + 0.15))) - 1)
    assert (columns.min(), columns.max()) == (max(0, round(60 * (x - 0.15))), min(60, round(60 * (x + 0.15))) - 1)
    assert (pixels == 200).all()


@pytest.mark.parametrize("spot", ["", "x", "1", "1,2,3", "nan,0.5", "0.5,1e9", None, 3, {"x": 1}])
def test_a_square_that_is_nowhere_covers_nothing(decoder: Decoder, tmp_path: Path, spot: Any) -> None:
    async def work() -> str:
        events = page_events(tmp_path, decoder)
        html: str = await events["understand_tab", "cover_one"](spot, "digit", None, None, None, None, None, "draw")
        return html

    assert asyncio.run(work()) == ""


class OneSpot:
    """An engine whose model looks at one pixel alone: bright there is class 1, dark is class 0."""

    def __init__(self, y: int, x: int) -> None:
        self.spot = (y, x)
        self.settings = SimpleNamespace(max_images=50, max_batch=32)
        self.repository = SimpleNamespace(settled=Event(), missing=list)
        self.repository.settled.set()
        self.info = replace(running_model(99, "fp32"), name="one.mnist", accuracy=None, parameters=None)
        self.studies = SimpleNamespace(has_class_maps=AsyncMock(return_value=False))
        self.asked: list[int] = []

    def models(self) -> dict[str, ModelInfo]:
        return {"one.mnist": self.info}

    async def infer(self, model: str, images: np.ndarray) -> Result:
        self.asked.append(len(images))
        probabilities = np.full((len(images), 10), 0.01, np.float32)
        bright = images[:, self.spot[0], self.spot[1]].mean(axis=-1) > 127
        probabilities[:, 0], probabilities[:, 1] = np.where(bright, 0.02, 0.9), np.where(bright, 0.9, 0.02)
        return Result(np.log(probabilities), probabilities, self.info)


@pytest.mark.parametrize("spot", [(4, 5), (14, 14), (20, 25)])
def test_the_heat_map_finds_where_the_model_looks(spot: tuple[int, int]) -> None:
    engine = OneSpot(*spot)
    pixels = np.zeros((28, 28, 1), np.uint8)
    pixels[spot] = 255
    found = asyncio.run(occlusion_map(engine, "one.mnist", pixels))  # type: ignore[arg-type]
    assert found.prediction.best == 1
    assert found.probability_drop == pytest.approx(0.88 / 0.9, abs=1e-3)
    hottest = np.argwhere(found.heat > 0.9).mean(axis=0)
    assert np.abs(hottest - spot).max() <= 4
    assert found.heat[spot] > 0.75
    assert found.heat[0 if spot[0] > 14 else 27, 0] < 0.1
    assert sum(engine.asked) == COPIES + 1
    assert max(engine.asked) <= 32


def test_a_heat_map_is_of_the_class_that_is_asked_for() -> None:
    pixels = np.zeros((28, 28, 1), np.uint8)
    pixels[6, 6], pixels[21, 21] = 255, 255
    copies = covered_copies(pixels)
    assert copies.shape == (1 + COPIES, 28, 28, 1)
    assert np.array_equal(copies[0], pixels)
    logits = np.stack([copies[:, 6, 6, 0] / 255, copies[:, 21, 21, 0] / 400], axis=1).astype(np.float32)
    for index, spot in ((None, (6, 6)), (0, (6, 6)), (1, (21, 21))):
        heat = heat_map(logits, (28, 28), index)
        assert heat.dtype == np.float32
        assert heat.max() == 1
        assert np.abs(np.argwhere(heat > 0.9).mean(axis=0) - spot).max() <= 4


@pytest.mark.parametrize(("shape", "grid"), [((32, 32, 3), GRIDS[0]), ((28, 28, 1), GRIDS[1]), ((40, 56, 3), GRIDS[0])])
def test_covers_reach_every_pixel_and_change_nothing_else(shape: tuple[int, int, int], grid: tuple[int, float]) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    covered, corners, (height, width) = cover(pixels, *grid)
    assert covered.shape == (grid[0] ** 2, *shape)
    assert (covered != pixels).any(axis=(0, 3)).all()
    for image, (y, x) in zip(covered, corners, strict=True):
        outside = np.ones(shape[:2], bool)
        outside[y : y + height, x : x + width] = False
        assert np.array_equal(image[outside], pixels[outside])


def test_a_heat_map_has_colour_and_no_steps_however_little_a_spot_decides() -> None:
    heat = np.zeros((32, 32), np.float32)
    heat[8:12, 20:24] = 1
    shown = overlay(np.full((32, 32, 3), 128, np.uint8), heat).astype(int)
    assert shown.shape == (336, 336, 3)
    red = shown[..., 0] - shown[..., 2]
    assert red.max() > 100
    assert np.abs(np.diff(red, axis=0)).max() < 40
    assert overlay(np.zeros((40, 56, 1), np.uint8), np.zeros((40, 56), np.float32)).shape == (240, 336, 3)


def stand_in(*names: str, settled: bool = True, **accuracies: float) -> Any:
    """An engine with these models."""
    repository = SimpleNamespace(settled=Event(), missing=list)
    if settled:
        repository.settled.set()
    infos = {name: replace(running_model(0, "fp32"), name=name, accuracy=accuracies.get(name[0])) for name in names}
    return SimpleNamespace(models=lambda: infos, repository=repository, settings=Settings(models=Path("nowhere")))


def test_ready_models_are_listed_by_dataset_and_accuracy() -> None:
    engine = stand_in(
        "a.mnist", "b.mnist", "c.cifar10", "d.mnist", "e.pets", "f.birds", "g.pets", "h", a=99.1, b=99.6, g=1
    )
    names = {kind: [model.name for model in ready_models(engine, kind)] for kind in kinds(engine.models())}
    assert names == {
        "digit": ["b.mnist", "a.mnist", "d.mnist"],
        "picture": ["c.cifar10"],
        "image": ["h", "f.birds", "g.pets", "e.pets"],
    }


@pytest.mark.parametrize("name", [None, "gone.mnist", "c.cifar10", "", "/etc/passwd"])
def test_an_unknown_model_means_the_best(name: str | None) -> None:
    engine = stand_in("a.mnist", "b.mnist", "c.cifar10", b=99)
    assert chosen_model(engine, "digit", name).name == "b.mnist"
    assert chosen_model(engine, "digit", "a.mnist").name == "a.mnist"
    with pytest.raises(NotReady, match="no model for images is ready"):
        chosen_model(engine, "image", name)


def test_models_are_compared_with_those_that_know_the_same_classes() -> None:
    engine = stand_in("a.pets", "b.pets", "c.birds", b=90)
    engine.models()["d.pets"] = replace(engine.models()["a.pets"], name="d.pets", labels=["cat", "dog"])
    engine.models()["c.birds"] = replace(engine.models()["a.pets"], name="c.birds", labels=["owl", "wren"])
    assert [model.name for model in alike(engine, engine.models()["a.pets"])] == ["b.pets", "a.pets"]


@pytest.mark.parametrize(
    ("names", "offered"),
    [
        (["a.mnist", "b.cifar10"], ["digit", "picture"]),
        (["a.pets"], ["image"]),
        (["a.pets", "a.mnist", "resnet50"], ["digit", "image"]),
        ([], ["digit", "picture"]),
    ],
)
def test_only_what_has_models_is_offered(decoder: Decoder, names: list[str], offered: list[str]) -> None:
    engine = stand_in(*names)
    assert offered_kinds(engine) == offered
    page = built(engine, decoder)
    tabs = {block.label.lower(): block.visible for block in page.blocks.values() if isinstance(block, gr.Tab)}
    assert [kind for kind in ("digit", "picture", "image") if tabs[kind]] == offered


def test_while_models_load_the_folder_tells_what_is_offered(tmp_path: Path) -> None:
    (tmp_path / "a.pets").mkdir()
    (tmp_path / "a.pets" / "model.onnx").write_bytes(b"")
    engine = stand_in(settled=False)
    engine.settings = Settings(models=tmp_path)
    assert offered_kinds(engine) == ["image"]
    engine.repository.missing = lambda: ["a.pets", "b.mnist"]  # both load still
    assert offered_kinds(engine) == ["digit", "image"]


def test_all_pages_have_the_same_events(decoder: Decoder) -> None:
    """A page that is open stays of use when another server answers it, with other models."""

    def events(*names: str) -> list[Any]:
        page = built(stand_in(*names), decoder)
        return [(number, function.name, len(function.inputs)) for number, function in page.fns.items()]

    assert events("a.mnist") == events("a.pets", "b.cifar10")


def test_the_page_can_be_opened_while_a_model_becomes_ready() -> None:
    digits = replace(running_model(99.6, "fp32"), name="vanilla_vgg16.mnist")
    readings = [{}, {digits.name: digits}]
    engine = SimpleNamespace(models=lambda: readings.pop(0) if len(readings) > 1 else readings[0])
    assert chooser(engine, "digit").choices == []  # type: ignore[arg-type]
    assert chooser(engine, "digit").choices == [("Vanilla VGG16 · 99.60 % in fp32", digits.name)]  # type: ignore[arg-type]
