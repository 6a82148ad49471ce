"""The app in a real browser: strokes are drawn, pictures chosen, and the answers read as a visitor reads them."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Response, expect, sync_playwright

pytestmark = [
    pytest.mark.browser,
    # Playwright's own event loop is left open until the last test of the session.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "serve" / "examples"
CARDS = Path(os.environ.get("ZOO_MODEL_CARDS", ROOT / "model_cards"))
PUBLISHED = ["improved_googlenet.mnist", "improved_googlenet.cifar10"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
]
# The tabs, and what shows that one has been filled.
TABS = {
    "Digit": "#pad canvas",
    "Picture": "#picture-answer .answer",
    "Compare": "#comparison tbody tr",
    "Understand": "#study .says",
    "Models": "#card h1",
}
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
# All architectures with their parameters, in the order of the stand-ins' accuracies.
SIX = {
    "improved_googlenet": 5_629_386,
    "improved_resnet18": 11_200_874,
    "improved_vgg16": 83_978_314,
    "vanilla_googlenet": 5_610_154,
    "vanilla_resnet18": 11_181_642,
    "vanilla_vgg16": 134_301_514,
}
Stroke = Sequence[tuple[float, float]]


def ellipse(x: float, y: float, a: float, b: float, start: float = -90, turn: float = 360) -> list[tuple[float, float]]:
    """Points of an arc around (x, y), angles in degrees clockwise from the right."""
    angles = np.deg2rad(start + np.linspace(0, turn, 25))
    return [(x + a * float(np.cos(t)), y + b * float(np.sin(t))) for t in angles]


# In a box of 100 by 100, as most people write them.
DIGITS: dict[int, list[Stroke]] = {
    0: [ellipse(50, 50, 32, 48)],
    1: [[(38, 18), (54, 2), (54, 98)]],
    2: [[*ellipse(50, 28, 30, 27, 190, 190), (55, 65), (22, 98), (80, 98)]],
    3: [[*ellipse(46, 26, 28, 25, 200, 240), *ellipse(46, 73, 32, 26, -75, 235)]],
    4: [[(60, 2), (18, 66), (86, 66)], [(64, 36), (64, 98)]],
    5: [[(76, 3), (28, 3), (24, 44), *ellipse(46, 68, 30, 30, -115, 255)]],
    6: [[(66, 2), (42, 22), (27, 52), *ellipse(50, 72, 25, 25, 180, -360)]],
    7: [[(20, 4), (80, 4), (58, 45), (44, 98)]],
    8: [[*ellipse(50, 26, 23, 23, 90, 360), *ellipse(50, 74, 28, 25, -90, 360)]],
    9: [[*ellipse(48, 28, 25, 26, 0, -360), (72, 60), (66, 98)]],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def url(running: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of published models; their ONNX files are built first where they are not yet."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    if not all((CARDS / name / "model.onnx").exists() for name in PUBLISHED):
        subprocess.run([sys.executable, "train/export.py", "--missing", *PUBLISHED], cwd=ROOT, check=True)
    with running("--models", CARDS) as server:
        yield server.url


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, url: str) -> Page:
    return open_page(context, url)


def open_page(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    page.locator("#pad canvas[aria-busy=false]").wait_for()  # it is there before it can be drawn on
    expect(answer(page)).to_contain_text("draw one digit", ignore_case=True)
    return page


def answer(page: Page, kind: str = "digit") -> Locator:
    return page.locator(f"#{kind}-answer")


def says(page: Page, kind: str = "digit") -> Locator:
    """The class that the answer names."""
    return answer(page, kind).locator(".says")


def draw(page: Page, strokes: Sequence[Stroke], size: float = 160, left: float = 60, top: float = 60) -> None:
    """Strokes in a box of 100, drawn with the mouse at `size` pixels of the 280 of the canvas."""
    canvas = page.locator("#pad canvas")
    canvas.click(trial=True)  # waits until it has come to rest, and nothing lies on it
    box = canvas.bounding_box()
    assert box is not None
    scale = box["width"] / 280
    for stroke in strokes:
        spots = [(left + x * size / 100, top + y * size / 100) for x, y in stroke]
        points = [(box["x"] + x * scale, box["y"] + y * scale) for x, y in spots]
        page.mouse.move(*points[0])
        page.mouse.down()
        for x, y in points[1:]:
            page.mouse.move(x, y, steps=3)
        page.mouse.up()


def set_brush(page: Page, width: int) -> None:
    page.get_by_label("Width of the brush").fill(str(width))


def clear(page: Page) -> None:
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(answer(page)).to_contain_text("Nothing to read yet")


def go(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    page.locator(TABS[tab]).first.wait_for()


@pytest.mark.parametrize(
    ("brush", "size", "left", "top"),
    [(20, 160, 60, 60), (8, 90, 20, 150), (32, 210, 35, 35)],
    ids=["usual", "small", "thick"],
)
def test_every_digit_drawn_is_named(page: Page, brush: int, size: float, left: float, top: float) -> None:
    set_brush(page, brush)
    for digit, strokes in DIGITS.items():
        draw(page, strokes, size, left, top)
        expect(says(page)).to_have_text(re.compile(rf"^{digit} "))
        bars = answer(page).locator(".bars li")
        assert bars.count() == 10
        expect(answer(page).locator(".bars li.first")).to_contain_text(str(digit))
        clear(page)


def test_the_answer_comes_while_one_draws(page: Page) -> None:
    box = page.locator("#pad canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 150, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 300, steps=10)
    expect(says(page)).to_have_text(re.compile("^1 "))
    page.mouse.up()


def test_the_picture_that_the_model_sees_is_shown(page: Page) -> None:
    draw(page, DIGITS[7])
    expect(says(page)).to_be_visible()
    shown = answer(page).get_by_role("img", name="as the model sees it")
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [28, 28]
    assert shown.bounding_box()["width"] > 100  # type: ignore[index]
    assert shown.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"


def test_undo_takes_back_a_stroke(page: Page) -> None:
    draw(page, DIGITS[1])
    expect(says(page)).to_have_text(re.compile("^1 "))
    draw(page, [[(20, 100), (95, 2)], [(0, 0), (100, 60)], [(5, 50), (95, 95)]])
    expect(answer(page)).not_to_contain_text(re.compile("^1 "))
    undo = page.get_by_role("button", name="Undo")
    for _ in range(3):
        undo.click()
    expect(says(page)).to_have_text(re.compile("^1 "))
    undo.click()
    expect(answer(page)).to_contain_text("Nothing to read yet")
    expect(undo).to_be_disabled()


@pytest.mark.parametrize("kind", ["finger", "pen"])
def test_finger_and_pen(browser: Browser, url: str, kind: str) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        page = open_page(context, url)
        box = page.locator("#pad canvas").bounding_box()
        assert box is not None
        devtools = context.new_cdp_session(page)
        for stroke in DIGITS[4]:
            points = [(box["x"] + 60 + 1.6 * x, box["y"] + 60 + 1.6 * y) for x, y in stroke]
            steps = np.concatenate([np.linspace(a, b, 8) for a, b in pairwise(points)]).tolist()
            for i, (x, y) in enumerate(steps):
                last = i == len(steps) - 1
                if kind == "finger":
                    devtools.send(
                        "Input.dispatchTouchEvent",
                        {"type": "touchMove" if i else "touchStart", "touchPoints": [{"x": x, "y": y}]},
                    )
                    if last:
                        devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
                else:
                    event = {"x": x, "y": y, "button": "left", "buttons": 1, "pointerType": "pen", "clickCount": 1}
                    devtools.send("Input.dispatchMouseEvent", {"type": "mouseMoved" if i else "mousePressed", **event})
                    if last:
                        devtools.send("Input.dispatchMouseEvent", {"type": "mouseReleased", **event, "buttons": 0})
        expect(says(page)).to_have_text(re.compile("^4 "))
        assert page.evaluate("scrollY") == 0  # the finger drew, and did not scroll


def test_drawing_with_the_keyboard(page: Page) -> None:
    canvas = page.get_by_label("Drawing pad")
    canvas.focus()
    for _ in range(10):
        page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    expect(says(page)).to_have_text(re.compile("^1 "))
    page.keyboard.press("Delete")
    expect(answer(page)).to_contain_text("Nothing to read yet")


def test_a_dot_two_digits_and_a_scribble_are_no_digit(page: Page) -> None:
    draw(page, [[(50, 50), (50.5, 50.5)]])
    expect(answer(page)).to_contain_text("only a dot")
    clear(page)
    draw(page, DIGITS[3], 80, 30, 90)
    draw(page, DIGITS[7], 80, 160, 90)
    expect(answer(page)).to_contain_text("Unsure")
    expect(answer(page)).to_contain_text("more than one digit")
    clear(page)
    set_brush(page, 12)
    rng = np.random.default_rng(0)
    draw(page, [[(float(x), float(y)) for x, y in rng.uniform(0, 100, (30, 2))]], 220, 30, 30)
    expect(answer(page)).to_contain_text("Unsure")


def test_the_dark_theme_draws_light_on_dark(browser: Browser, url: str) -> None:
    with browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="dark") as context:
        page = open_page(context, url)
        draw(page, DIGITS[5])
        expect(says(page)).to_have_text(re.compile("^5 "))
        corner, ink = page.locator("#pad canvas").evaluate(
            """canvas => {
                const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                return [pixels[0], pixels.filter((_, i) => i % 4 === 0).reduce((a, b) => Math.max(a, b))];
            }"""
        )
        assert corner < 60
        assert ink > 200


def test_another_model_answers_the_same_drawing(page: Page) -> None:
    draw(page, DIGITS[2])
    expect(says(page)).to_have_text(re.compile("^2 "))
    chooser = page.get_by_label("Model and its test accuracy").first
    chooser.click()
    options = page.get_by_role("option")
    names = options.all_inner_texts()
    assert any("GoogLeNet" in name for name in names)
    options.last.click()
    expect(says(page)).to_have_text(re.compile("^2 "))
    expect(answer(page)).to_contain_text(names[-1].strip().split(" · ")[0].lstrip("✓ "))


def upload(page: Page, box: str, file: Path) -> None:
    page.locator(f"#{box} input[type=file]").first.set_input_files(file)


def test_a_photo_of_a_digit(page: Page) -> None:
    page.get_by_role("tab", name="Photo").click()
    upload(page, "digit-photo", EXAMPLES / "digit-3-on-paper.jpg")
    expect(says(page)).to_have_text(re.compile("^3 "))


def test_examples_are_one_click(page: Page) -> None:
    page.get_by_role("tab", name="Photo").click()
    page.locator(".gallery-item").locator("visible=true").first.click()
    expect(says(page)).to_have_text(re.compile(r"^\d "))
    go(page, "Picture")
    page.locator(".gallery-item").locator("visible=true").nth(5).click()
    expect(says(page, "picture")).to_contain_text("frog")


def test_a_picture_is_classified_and_its_crop_shown(page: Page, tmp_path: Path) -> None:
    with Image.open(EXAMPLES / "picture-truck.png") as truck:
        wide = Image.new("RGB", (400, 256), "white")
        wide.paste(truck.resize((256, 256), Image.Resampling.BICUBIC), (72, 0))
    wide.save(tmp_path / "wide.jpg")
    go(page, "Picture")
    upload(page, "picture", tmp_path / "wide.jpg")
    expect(says(page, "picture")).to_contain_text("truck")
    shown = answer(page, "picture").get_by_role("img")
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [32, 32]
    expect(answer(page, "picture")).to_contain_text("airplane, automobile, bird, cat, deer, dog, frog, horse")


def test_a_file_that_is_no_picture_gets_a_line(page: Page, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    go(page, "Picture")
    upload(page, "picture", tmp_path / "broken.png")
    expect(answer(page, "picture")).to_contain_text(re.compile("broken|format"))


def test_compare_shows_every_published_model(page: Page) -> None:
    draw(page, DIGITS[6])
    expect(says(page)).to_be_visible()
    go(page, "Compare")
    rows = page.locator("#comparison tbody tr")
    count = len([folder for folder in CARDS.glob("*.mnist") if (folder / "model.onnx").exists()])
    expect(rows).to_have_count(count)
    for i in range(count):
        text = rows.nth(i).inner_text()
        assert re.search(r"\d %", text)
        assert re.search(r"\d ms", text)
        assert re.search(r"\d M", text)
        assert len(re.findall(r"99\.\d\d %|98\.\d\d %", text)) == 2  # ours and the paper's
    page.get_by_label("The picture").check()
    expect(page.locator("#comparison")).to_contain_text("This is an example")


@pytest.fixture(scope="module")
def six(running: type, tiny: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server of stand-ins for all six architectures, in int8, whose answers are known to the bit."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("six")
    models = []
    for seed, (name, parameters) in enumerate(SIX.items()):
        model = tiny(folder / f"{name}.cifar10", seed=seed, labels=CLASSES)
        # The weights, the paper and the file that runs all have figures of their own.
        model.write("int8", accuracy=f"{91.25 - seed}", parameters=str(parameters))
        figures = {"test_accuracy": 61.5 - seed, "paper_test_accuracy": 81.75 - seed, "parameters": 1}
        (model.folder / "metrics.json").write_text(json.dumps(figures))
        models.append(model)
    with running("--models", folder, "--precision", "int8") as server:
        yield SimpleNamespace(url=server.url, models=models)


@pytest.mark.parametrize("width", [1200, 390])
def test_compare_six(browser: Browser, six: SimpleNamespace, width: int) -> None:
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(six.url)
        go(page, "Picture")
        upload(page, "picture", EXAMPLES / "picture-frog.png")
        expect(answer(page, "picture")).to_contain_text("Improved GoogLeNet")
        go(page, "Compare")
        rows = page.locator("#comparison tbody tr")
        expect(rows).to_have_count(6)
        with Image.open(EXAMPLES / "picture-frog.png") as frog:
            pixels = np.asarray(frog)
        titles = ["Improved GoogLeNet", "Improved ResNet18", "Improved VGG16"]
        titles += [name.replace("Improved", "Vanilla") for name in titles]
        for i, (model, name, parameters) in enumerate(zip(six.models, titles, SIX.values(), strict=True)):
            assert rows.nth(i).locator("th").inner_text() == name
            said, share, time, size, ours, paper = rows.nth(i).locator("td").all_text_contents()
            logits = model.logits(pixels[None])[0]
            exponents = np.exp(logits - logits.max())
            assert said == CLASSES[model.best(pixels)]
            assert share == f"{100 / exponents.sum():.1f} %"
            assert re.fullmatch(r"\d+\.\d ms", time)
            assert size == f"{parameters / 1e6:.1f} M"
            assert ours == f"{91.25 - i:.2f} % in int8"
            assert paper == f"{81.75 - i:.2f} %"
        votes = Counter(CLASSES[model.best(pixels)] for model in six.models)
        verdict = page.locator("#comparison [role=status]").inner_text()
        assert verdict == "{1} of 6 models say {0}".format(*votes.most_common(1)[0])
        # Whole on the page: no cell is cut off at the side, on top of another, or too small to read.
        boxes = [cell.bounding_box() for cell in rows.locator("td").all()]
        assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        sizes = rows.locator("td").evaluate_all(
            "cells => cells.map(cell => parseFloat(getComputedStyle(cell).fontSize))"
        )
        assert min(sizes) >= 14
        assert rows.locator("td").evaluate_all("cells => cells.every(cell => cell.scrollWidth <= cell.clientWidth)")
        # The chooser tells the same accuracy and precision.
        go(page, "Understand")
        expect(page.get_by_label("Model and its test accuracy").locator("visible=true")).to_have_value(
            "Improved GoogLeNet · 91.25 % in int8"
        )


def test_tabs_fit_a_phone_without_a_menu(browser: Browser, url: str) -> None:
    with browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        page = open_page(context, url)
        tops = [page.get_by_role("tab", name=tab, exact=True).bounding_box() for tab in TABS]
        assert len({round(box["y"]) for box in tops if box}) == 1
        assert all(box and box["x"] + box["width"] <= 390 for box in tops)


def test_pictures_are_pasted_one_after_another(page: Page) -> None:
    go(page, "Picture")
    for name in ("frog", "ship"):
        data = base64.b64encode((EXAMPLES / f"picture-{name}.png").read_bytes()).decode()
        page.evaluate(
            """async data => {
                const clipboardData = new DataTransfer();
                const picture = await (await fetch(`data:image/png;base64,${data}`)).blob();
                clipboardData.items.add(new File([picture], "image.png", {type: "image/png"}));
                const event = new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true});
                document.activeElement.dispatchEvent(event);
            }""",
            data,
        )
        expect(says(page, "picture")).to_contain_text(name)


def test_the_clipboard_button_pastes(context: BrowserContext, url: str) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = open_page(context, url)
    go(page, "Picture")
    page.evaluate(
        """async data => {
            const picture = await (await fetch(`data:image/png;base64,${data}`)).blob();
            await navigator.clipboard.write([new ClipboardItem({"image/png": picture})]);
        }""",
        base64.b64encode((EXAMPLES / "picture-frog.png").read_bytes()).decode(),
    )
    page.locator("#picture").get_by_role("button", name="Paste from clipboard").click()
    expect(says(page, "picture")).to_contain_text("frog")


def test_a_photo_is_taken_with_the_camera(context: BrowserContext, url: str) -> None:
    context.grant_permissions(["camera"])
    page = open_page(context, url)
    go(page, "Picture")
    box = page.locator("#picture")
    box.get_by_role("button", name="Capture from camera").click()
    box.get_by_role("button", name="Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#picture video').videoWidth > 0")
    box.get_by_role("button", name="capture photo").click()
    # The browser's stand-in for a camera shows a green test picture, which is none of the ten classes for sure.
    shown = answer(page, "picture").get_by_role("img")
    expect(shown).to_be_visible()
    red, green, blue = shown.evaluate(
        """async image => {
            await image.decode();
            const canvas = new OffscreenCanvas(32, 32).getContext("2d");
            canvas.drawImage(image, 0, 0);
            return [...canvas.getImageData(16, 4, 1, 1).data].slice(0, 3);
        }"""
    )
    assert green > max(red, blue) + 50
    expect(answer(page, "picture").locator(".bars li")).to_have_count(5)


def test_understand_shows_a_heat_map_and_the_confusions(page: Page) -> None:
    go(page, "Picture")
    page.locator(".gallery-item").locator("visible=true").nth(5).click()
    expect(says(page, "picture")).to_contain_text("frog")
    go(page, "Understand")
    study = page.locator("#study")
    expect(study.locator(".says")).to_contain_text("frog")
    heat = study.get_by_role("img", name="Heat map")
    colours = heat.evaluate(
        """async image => {
            await image.decode();
            const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
            canvas.drawImage(image, 0, 0);
            const pixels = canvas.getImageData(0, 0, image.naturalWidth, image.naturalHeight).data;
            let most = 0;
            for (let i = 0; i < pixels.length; i += 4) most = Math.max(most, pixels[i] - pixels[i + 2]);
            return most;
        }"""
    )
    assert colours > 60  # something is warm
    expect(study).to_contain_text("What it mixes up")
    expect(study.locator(".mistakes li")).to_have_count(5)


def test_the_models_page_shows_the_report_and_the_cards_with_their_pictures(page: Page) -> None:
    go(page, "Models")
    expect(page.locator("#published tbody tr")).to_have_count(len(list(CARDS.glob("*/metrics.json"))))
    choice = page.get_by_label("Read", exact=True)
    choice.click()
    options = page.get_by_role("option").all_inner_texts()
    assert any("Improved GoogLeNet, CIFAR-10" in option for option in options)
    assert any(option.endswith("Report") for option in options) == (CARDS.parent / "REPORT.md").exists()
    page.get_by_role("option", name="Improved GoogLeNet, MNIST").click()
    card = page.locator("#card")
    expect(card.get_by_role("heading", name="improved_googlenet.mnist")).to_be_visible()
    assert "license:" not in card.inner_text()
    pictures = card.locator("img")
    assert pictures.count() > 0
    for picture in pictures.all():
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_no_request_leaves_the_machine(context: BrowserContext, url: str) -> None:
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = open_page(context, url)
    draw(page, DIGITS[3])
    expect(says(page)).to_be_visible()
    for tab in TABS:
        go(page, tab)
    assert len(asked) > 10
    assert [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []


def test_with_a_key_the_app_works_for_those_who_have_it(browser: Browser, running: type, six: SimpleNamespace) -> None:
    key = "k\u00e9y-of-the-house"
    with running("--models", six.models[0].folder.parent, environment={"SERVE_API_KEY": key}) as server:
        # The browser asks its user for a name and a password: any name, and the key.
        with browser.new_context(http_credentials={"username": "anyone", "password": key}) as context:
            heard: list[Response] = []
            context.on("response", lambda response: heard.append(response))
            page = context.new_page()
            page.goto(server.url)
            go(page, "Picture")
            upload(page, "picture", EXAMPLES / "picture-frog.png")
            expect(answer(page, "picture").locator(".bars li")).to_have_count(5)
            go(page, "Compare")
            expect(page.locator("#comparison tbody tr")).to_have_count(6)
            # The page itself is refused once, which is the question; then nothing is, and nothing tells the key.
            assert [response.status for response in heard if response.status >= 400] in ([], [401])
            assert not any(key in response.text() for response in heard if response.ok and is_text(response))
            assert key not in page.content()
            assert page.evaluate("[document.cookie, ...Object.values(localStorage)].join()").count(key) == 0
        with browser.new_context(http_credentials={"username": "anyone", "password": "wrong"}) as context:
            refused = context.new_page().goto(server.url)
            assert refused is not None
            assert refused.status == 401
            assert refused.headers["www-authenticate"].startswith("Basic ")
            assert "Deep Image Zoo" not in refused.text()


def is_text(response: Response) -> bool:
    """Whether it has a body that ends, and can be read."""
    return any(kind in response.headers.get("content-type", "") for kind in ("html", "json", "javascript"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_on_a_phone(browser: Browser, url: str, scheme: str) -> None:
    with browser.new_context(
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        color_scheme=scheme,  # type: ignore[arg-type]
    ) as context:
        page = open_page(context, url)
        for tab in TABS:
            go(page, tab)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab


def test_everything_has_a_name_and_takes_the_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    names = []
    for _ in range(14):
        names.append(
            page.evaluate(
                """() => {
                    const e = document.activeElement;
                    const label = e.labels?.length ? [...e.labels].map(l => l.innerText).join(" ") : "";
                    return e.getAttribute("aria-label") || label || e.innerText || "";
                }"""
            ).strip()
        )
        page.keyboard.press("Tab")
    assert "Digit" in names
    assert "Drawing pad" in names
    assert all(names[: names.index("Drawing pad") + 1]), names
    for tab in TABS:
        go(page, tab)
        assert page.locator("img:visible:not([alt])").count() == 0, tab
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, textarea, canvas")].filter(e =>
                e.checkVisibility() && e.type !== "file" && !e.innerText && !e.getAttribute("aria-label")
                && !e.getAttribute("title") && !(e.labels && e.labels.length)).map(e => e.outerHTML.slice(0, 200))"""
        )
        assert nameless == [], tab
        for example in page.locator(".gallery-item:visible").all():
            expect(example).to_have_accessible_name(re.compile(r"^Example: (digit|picture) \w+"))
