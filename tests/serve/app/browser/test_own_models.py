"""The page with models of one's own, of any classes and sizes, and with no others."""

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageOps
from playwright.sync_api import BrowserContext, expect

from .conftest import CHROMIUM, EXAMPLES, MARKS
from .driving import answer, go, upload

pytestmark = MARKS

PETS = [f"pet {index}" for index in range(10)]
RUNES = [f"rune {index}" for index in range(10)]


@pytest.fixture(scope="module")
def own(running: type, tiny: type, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("own")
    large = tiny(folder / "resnet50.pets", shape=(64, 64, 3), seed=2, labels=PETS).write(accuracy="90.5")
    small = tiny(folder / "vanilla_resnet18.pets", shape=(48, 48, 3), seed=1, labels=PETS).write(accuracy="88")
    grey = tiny(folder / "improved_vgg16.runes", shape=(40, 56, 1), seed=3, labels=RUNES).write(accuracy="95")
    with running("--models", folder) as server:
        yield SimpleNamespace(url=server.url, large=large, small=small, grey=grey)


def test_a_folder_of_own_models_has_what_they_need_and_no_more(context: BrowserContext, own: SimpleNamespace) -> None:
    with Image.open(EXAMPLES / "picture-frog.png") as frog:
        pixels = {
            model.name: np.asarray(
                ImageOps.fit(
                    frog.convert("L" if model.shape[2] == 1 else "RGB"), model.shape[1::-1], Image.Resampling.BILINEAR
                )
            ).reshape(model.shape)
            for model in (own.large, own.small, own.grey)
        }
    page = context.new_page()
    page.goto(own.url)
    expect(page.get_by_role("tab", name="Image", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tab")).to_have_text(["Image", "Compare", "Understand", "Models"])
    assert page.locator("canvas").count() == 0
    chooser = page.get_by_label("Model and its test accuracy").locator("visible=true")
    expect(chooser).to_have_value("resnet50, pets · 90.50 % in fp32")

    upload(page, "image", EXAMPLES / "picture-frog.png")
    first = answer(page, "image").locator(".bars li.first")
    expect(first).to_contain_text(PETS[own.large.best(pixels["resnet50.pets"])])
    seen = answer(page, "image").get_by_role("img")
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [64, 64]
    expect(answer(page, "image")).to_contain_text("It knows 10 classes: pet 0, pet 1")
    chooser.click()
    page.get_by_role("option", name="Improved VGG16, runes").click()
    expect(first).to_contain_text(RUNES[own.grey.best(pixels["improved_vgg16.runes"])])
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [56, 40]

    go(page, "Compare")
    expect(page.locator("#comparison tbody th")).to_have_text(["Improved VGG16"])
    go(page, "Understand")
    expect(page.locator("#study .note", has_text="The warmer a spot")).to_contain_text("rune")
    expect(chooser).to_have_value("Improved VGG16, runes · 95.00 % in fp32")
    go(page, "Image")
    chooser.click()
    page.get_by_role("option", name="Vanilla ResNet18, pets").click()
    expect(first).to_contain_text(PETS[own.small.best(pixels["vanilla_resnet18.pets"])])
    go(page, "Compare")  # each model sees the image at its own size
    rows = page.locator("#comparison tbody tr")
    expect(rows.locator("th")).to_have_text(["resnet50", "Vanilla ResNet18"])
    for i, model in enumerate((own.large, own.small)):
        expect(rows.nth(i).locator("td").first).to_contain_text(PETS[model.best(pixels[model.name])])
    assert page.get_by_role("radio").locator("visible=true").count() == 0  # there is one kind
    page.get_by_role("tab", name="Models", exact=True).click()
    expect(page.locator("#published tbody tr")).to_have_count(3)
    expect(page.locator("#published")).not_to_contain_text("In the paper")
    assert page.get_by_label("Read", exact=True).count() == 0  # no model here has a card
    page.close()
