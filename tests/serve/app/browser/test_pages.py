"""The app's other tabs in a real browser, and what holds for all: phones, keyboards, names, no request elsewhere."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Response, expect

from serve.app.verdict import Verdict, verdict

from .conftest import CARDS, CHROMIUM, EXAMPLES, MARKS
from .driving import DIGITS, TABS, Visitor, answer, draw, go, open_page, says, upload

pytestmark = MARKS

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
    """A server of stand-ins for all six architectures, in int8, whose outputs are known to the bit."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("six")
    models = []
    for seed, (name, parameters) in enumerate(SIX.items()):
        model = tiny(folder / f"{name}.cifar10", seed=seed, labels=CLASSES)
        # The weights, the paper and the file that runs all have accuracies of their own.
        model.write("int8", accuracy=f"{91.25 - seed}", parameters=str(parameters))
        metrics = {"test_accuracy": 61.5 - seed, "paper_test_accuracy": 81.75 - seed, "parameters": 1}
        (model.folder / "metrics.json").write_text(json.dumps(metrics))
        models.append(model)
    with running("--models", folder, "--precision", "int8") as server:
        yield SimpleNamespace(url=server.url, models=models)


@pytest.mark.parametrize("width", [1200, 390])
def test_compare_six(desktop: Visitor, six: SimpleNamespace, width: int) -> None:
    page = desktop.go_to(six.url, size=(width, 900))
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
    verdicts: list[Verdict] = []
    for i, (model, name, parameters) in enumerate(zip(six.models, titles, SIX.values(), strict=True)):
        assert rows.nth(i).locator("th").inner_text() == name
        said, share, time, size, ours, paper = rows.nth(i).locator("td").all_text_contents()
        logits = model.logits(pixels[None])[0]
        exponents = np.exp(logits - logits.max())
        verdicts.append(verdict(exponents / exponents.sum()))
        named = verdicts[-1].classes or (model.best(pixels),)
        assert said == f"{' or '.join(CLASSES[index] for index in named)} {verdicts[-1].words}"
        assert share == f"{100 / exponents.sum():.1f} %"
        assert re.fullmatch(r"\d+\.\d ms", time)
        assert size == f"{parameters / 1e6:.1f} M"
        assert ours == f"{91.25 - i:.2f} % in int8"
        assert paper == f"{81.75 - i:.2f} %"
    votes = Counter(CLASSES[one.classes[0]] for one in verdicts if len(one.classes) == 1)
    ((best, count),) = votes.most_common(1)
    agreement = f"{count} of 6 models say {best}" if count > 1 else "No two of 6 models agree"
    assert page.locator("#comparison [role=status]").inner_text() == agreement
    # No cell is cut off, covers another, or is too small to read.
    boxes = [cell.bounding_box() for cell in rows.locator("td").all()]
    assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
    sizes = rows.locator("td").evaluate_all("cells => cells.map(cell => parseFloat(getComputedStyle(cell).fontSize))")
    assert min(sizes) >= 14
    assert rows.locator("td").evaluate_all("cells => cells.every(cell => cell.scrollWidth <= cell.clientWidth)")
    # The dropdown shows the same accuracy and precision.
    go(page, "Understand")
    expect(page.get_by_label("Model and its test accuracy").locator("visible=true")).to_have_value(
        "Improved GoogLeNet · 91.25 % in int8"
    )


def test_tabs_fit_a_phone_without_a_menu(phone: Visitor, url: str) -> None:
    page = phone.open(url, size=(390, 844))
    tops = [page.get_by_role("tab", name=tab, exact=True).bounding_box() for tab in TABS]
    assert len({round(box["y"]) for box in tops if box}) == 1
    assert all(box and box["x"] + box["width"] <= 390 for box in tops)


def warmth(image: Locator) -> int:
    """How far red exceeds blue where it does most."""
    most: int = image.evaluate(
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
    return most


def test_understand_shows_a_heat_map_and_the_confusions(page: Page) -> None:
    study = page.locator("#study")
    for example in (7, 5, 3, 1):  # also pictures of which the model is sure whatever is covered
        go(page, "Picture")
        page.locator(".gallery-item").locator("visible=true").nth(example).click()
        name = ["airplane", "automobile", "bird", "cat", "dog", "frog", "horse", "ship", "truck"][example]
        expect(says(page, "picture")).to_contain_text(name)
        go(page, "Understand")
        expect(study.locator(".says")).to_contain_text(name)
        assert warmth(study.get_by_role("img", name="Heat map")) > 100
    slider = study.get_by_label("From the image to the heat map")
    slider.fill("0")
    map_in_it = study.get_by_role("img", name="Heat map")
    expect(map_in_it).to_have_css("opacity", "0")
    slider.fill("100")
    expect(map_in_it).to_have_css("opacity", "1")
    expect(study).to_contain_text("What it mixes up")
    expect(study.locator(".mistakes li")).to_have_count(5)


def test_the_models_page_shows_the_report_and_the_cards_with_their_pictures(page: Page) -> None:
    go(page, "Models")
    expect(page.locator("#published tbody tr")).to_have_count(len(list(CARDS.glob("*/metrics.json"))))
    choice = page.get_by_label("Read", exact=True)
    choice.click()
    options = page.get_by_role("option").all_inner_texts()
    assert any("Improved GoogLeNet, CIFAR-10" in option for option in options)
    assert any("Report: MNIST" in option for option in options) == (CARDS.parent / "REPORT.md").exists()
    page.get_by_role("option", name="Improved GoogLeNet, MNIST").click()
    card = page.locator("#card")
    expect(card.get_by_role("heading", name="improved_googlenet.mnist")).to_be_visible()
    assert "license:" not in card.inner_text()
    pictures = card.locator("img")
    assert pictures.count() > 0
    for picture in pictures.all():
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def test_no_request_goes_to_another_server(context: BrowserContext, url: str) -> None:
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
    with running("--models", six.models[0].folder.parent, environment={"ZOO_SERVE_API_KEY": key}) as server:
        # The browser asks its user for a name and a password: any name will do, and the password is the key.
        with browser.new_context(http_credentials={"username": "anyone", "password": key}) as context:
            heard: list[Response] = []
            context.on("response", lambda response: heard.append(response))  # noqa: PLW0108  as in test_draw
            page = context.new_page()
            page.goto(server.url)
            go(page, "Picture")
            upload(page, "picture", EXAMPLES / "picture-frog.png")
            expect(answer(page, "picture").locator(".bars li")).to_have_count(5)
            go(page, "Compare")
            expect(page.locator("#comparison tbody tr")).to_have_count(6)
            # The first request may be refused: it makes the browser ask. No other is, and no response contains the key.
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
    """Whether the response has a body that ends and is text."""
    return any(kind in response.headers.get("content-type", "") for kind in ("html", "json", "javascript"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_on_a_phone(phone: Visitor, url: str, scheme: str) -> None:
    page = phone.open(url, size=(360, 740), scheme=scheme)
    for tab in TABS:
        go(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, tab
    tops = {page.get_by_role("tab", name=tab, exact=True).bounding_box()["y"] for tab in TABS}
    assert len(tops) == 1  # no tab is on a second line
    go(page, "Digit")
    chooser = page.get_by_label("Model and its test accuracy").locator("visible=true").first
    arrow = page.locator(".icon-wrap:visible").first.bounding_box()
    box = chooser.bounding_box()
    assert arrow
    assert box
    padding = chooser.evaluate("e => parseFloat(getComputedStyle(e).paddingRight)")
    assert box["x"] + box["width"] - padding <= arrow["x"]  # its text ends before the arrow


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
