"""Architectures read off the code: tables, drawings, and the command that shows them."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from train import architecture
from train.paper.architecture import drawings, files, layers, svg, tables
from train.paper.architecture.layers import Network
from zoo.catalog import NETWORKS

PARAMETERS = {
    "vanilla_vgg16": 134_301_514, "vanilla_resnet18": 11_181_642, "vanilla_googlenet": 5_610_154,
    "improved_vgg16": 83_978_314, "improved_resnet18": 11_200_874, "improved_googlenet": 5_629_386,
}  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {name: layers.network(name, 64) for name in NETWORKS}


def texts(drawing: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(drawing).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", PARAMETERS)
def test_layers_have_all_parameters(networks: dict[str, Network], name: str) -> None:
    assert networks[name].parameters == PARAMETERS[name]
    assert "other" not in {layer.kind for layer in networks[name].layers}
    *_, last = tables.one(networks[name])
    assert last == ["", "all", "", f"{PARAMETERS[name]:,}"]


@pytest.mark.parametrize("name", ["vanilla_resnet18", "improved_googlenet", "improved_resnet18"])
def test_shapes_are_those_of_a_forward_pass(networks: dict[str, Network], name: str) -> None:
    model, shapes = timm.create_model(name).eval(), {}
    for layer in networks[name].layers:
        if layer.name in dict(model.named_modules()) and layer.kind in ("block", "pool", "linear"):
            model.get_submodule(layer.name).register_forward_hook(
                lambda _, __, output, key=layer.name: shapes.update({key: tuple(output.shape[1:])})
            )
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64))
    assert len(shapes) > 8
    assert shapes == {layer.name: layer.shape for layer in networks[name].layers if layer.name in shapes}


def test_vgg16_is_configuration_d_of_table_1(networks: dict[str, Network]) -> None:
    """Conv3-64 twice, conv3-128 twice, conv3-256, conv3-512 and conv3-512 three times, a max pool after each."""
    shown = [layer.text for layer in networks["vanilla_vgg16"].layers]
    expected = [
        text
        for channels, times in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
        for text in [f"3x3 convolution, {channels}, ReLU"] * times + ["2x2 max pool, stride 2"]
    ]
    assert shown[: len(expected)] == expected
    assert [text for text in shown[len(expected) :] if text.startswith("linear")] == [
        "linear, 4096, ReLU", "linear, 4096, ReLU", "linear, 10",
    ]  # fmt: skip


def test_what_differs_is_what_section_4_changes(networks: dict[str, Network]) -> None:
    def changed(family: str) -> list[str]:
        rows = layers.aligned(networks[f"vanilla_{family}"], networks[f"improved_{family}"])
        return [after.text for _, after, differs in rows if differs and after]

    stem = ["3x3 convolution, 32, stride 2, BatchNorm, ReLU", "3x3 convolution, 32, BatchNorm, ReLU",
            "3x3 convolution, 64, BatchNorm, ReLU"]  # fmt: skip
    assert changed("googlenet") == stem
    assert changed("resnet18") == [*stem, "dropout 0.1"]
    *convolutions, pool, linear = changed("vgg16")
    assert len(convolutions) == 13
    assert all(re.fullmatch(r"3x3 convolution, \d+, BatchNorm, ReLU", text) for text in convolutions)
    # The text of the first linear layer stays, its weights do not.
    assert (pool, linear) == ("5x5 adaptive max pool", "linear, 4096, ReLU")


def test_the_table_marks_what_differs(networks: dict[str, Network]) -> None:
    table = tables.beside(networks["vanilla_resnet18"], networks["improved_resnet18"])
    assert table[0] == ["ResNet18", "Output", "Parameters", "Improved ResNet18", "Output", "Parameters"]
    assert table[1][:3] == ["7x7 convolution, 64, stride 2, BatchNorm, ReLU", "64x32x32", "9,536"]
    assert table[1][3:] == ["**3x3 convolution, 32, stride 2, BatchNorm, ReLU**", "**32x32x32**", "**928**"]
    assert table[2][:3] == ["", "", ""]
    assert ["residual block, 64", "64x16x16", "73,984"] * 2 in table
    assert ["", "", "", "**dropout 0.1**", "**512**", ""] in table


def test_the_residual_block_is_the_papers(networks: dict[str, Network]) -> None:
    identity, projection = layers.blocks(networks["vanilla_resnet18"])
    assert [layer.text for layer in identity.branches[0]] == [
        "3x3 convolution, 64", "BatchNorm", "ReLU", "3x3 convolution, 64", "BatchNorm",
    ]  # fmt: skip
    assert identity.branches[1] == []
    assert (identity.join.text, [layer.text for layer in identity.tail]) == ("add", ["ReLU"])
    assert [layer.text for layer in projection.branches[1]] == ["1x1 convolution, 128, stride 2", "BatchNorm"]
    assert projection.input == (64, 16, 16)
    assert projection.join.shape == (128, 8, 8)


def test_the_third_branch_of_the_inception_module_is_torchvisions(networks: dict[str, Network]) -> None:
    (module,) = layers.blocks(networks["vanilla_googlenet"])
    kernels = [[layer.text.partition(" ")[0] for layer in branch] for branch in module.branches]
    assert kernels == [["1x1"], ["1x1", "3x3"], ["1x1", "3x3"], ["3x3", "1x1"]]
    with torch.device("meta"):
        theirs = torchvision.models.googlenet(init_weights=False).inception3a.branch3[1].conv
    assert theirs.kernel_size == (3, 3)
    assert module.join.text == "concatenate"
    assert module.join.shape[0] == sum(branch[-1].shape[0] for branch in module.branches)


@pytest.mark.parametrize("family", ["resnet18", "googlenet"])
def test_improved_networks_have_the_vanilla_blocks(networks: dict[str, Network], family: str) -> None:
    assert layers.blocks(networks[f"improved_{family}"]) == layers.blocks(networks[f"vanilla_{family}"])
    assert layers.blocks(networks["improved_vgg16"]) == ()


@pytest.mark.parametrize("family", ["vgg16", "resnet18", "googlenet"])
def test_drawings_have_every_layer_and_mark_what_differs(networks: dict[str, Network], family: str) -> None:
    vanilla, improved = (networks[f"{kind}_{family}"] for kind in ("vanilla", "improved"))
    drawing = drawings.beside(vanilla, improved)
    shown = texts(drawing)
    for network in (vanilla, improved):
        assert NETWORKS[network.name].title in shown
        assert f"{network.parameters:,} parameters" in shown
        for layer in network.layers:
            assert any(text.startswith(drawings.short(layer.parts[0])) for text in shown), layer
            assert drawings.dimensions(layer.shape) in shown
    boxes = [box.get("class", "") for box in ET.fromstring(drawing).iter(f"{SVG}rect")]
    differing = sum(differs and after is not None for _, after, differs in layers.aligned(vanilla, improved))
    assert sum(box.endswith(" changed") for box in boxes) == differing + 1  # and the one that explains the mark
    assert len(boxes) == 2 + len(vanilla.layers) + len(improved.layers)


def test_text_stays_within_its_box(networks: dict[str, Network]) -> None:
    """By the widths of DejaVu Sans, which is wider than the fonts of GitHub's readers."""
    from matplotlib import font_manager
    from PIL import ImageFont

    fonts = {
        weight: font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans", weight=weight))
        for weight in ("normal", "bold")
    }
    for family in ("vgg16", "resnet18", "googlenet"):
        drawing = drawings.beside(networks[f"vanilla_{family}"], networks[f"improved_{family}"])
        blocks = layers.blocks(networks[f"vanilla_{family}"])
        for content, width in ((drawing, drawings.BOX), (drawings.blocks(blocks, ""), drawings.LANE)):
            for element in ET.fromstring(content).iter(f"{SVG}text"):
                if re.search(r"conv|pool|linear|ReLU", element.text or "") and "block" not in (element.text or ""):
                    weight = "bold" if "bold" in element.get("class", "") else "normal"
                    font = ImageFont.truetype(fonts[weight], float(element.get("font-size", 0)))
                    assert font.getlength(element.text or "") < width, element.text


def test_drawings_are_legible_in_dark_viewers() -> None:
    """Text on its fill, in both modes, has the contrast that WCAG asks for: 4.5."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for mode, colours in ((0, svg.LIGHT), (2, svg.DARK)):
        for fill in (colours["page"], *(of_kind[mode] for of_kind in svg.KINDS.values())):
            for ink in ("ink", "muted"):
                assert contrast(colours[ink], fill) >= 4.5, (mode, ink, fill)
    drawing = drawings.network(layers.network("vanilla_resnet18"))
    light, _, dark = drawing.partition("@media(prefers-color-scheme:dark)")
    assert svg.LIGHT["page"] in light
    assert svg.DARK["page"] in dark


def test_the_command_prints_the_table_and_writes_the_drawings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["improved_resnet18", "--input-size", "96", "--in-chans", "1", "--output-dir", str(tmp_path / "new")]
    assert architecture.main(arguments) == 0
    head, *rows, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["Name", "Layer", "Output", "Parameters"]
    assert rows[0].split() == [
        "conv1.0",
        "3x3",
        "convolution,",
        "32,",
        "stride",
        "2,",
        "BatchNorm,",
        "ReLU",
        "32x48x48",
        "352",
    ]
    assert rows[-1].split() == ["all", "11,200,298"]
    assert len({len(row) for row in (head, *rows)}) == 1
    assert [first, second] == [f"Wrote {tmp_path / 'new' / name}" for name in ("resnet18.svg", "resnet18-block.svg")]
    shown = texts((tmp_path / "new" / "resnet18.svg").read_text())
    assert {"ResNet18", "Improved ResNet18"} <= set(shown)
    assert shown.count("input 1 \N{MULTIPLICATION SIGN} 96 \N{MULTIPLICATION SIGN} 96") == 2


def test_the_size_is_the_networks_own_by_default() -> None:
    assert layers.network("vanilla_resnet18").input == (3, 32, 32)
    assert layers.network("improved_resnet18").input == (3, 64, 64)


def test_a_network_without_a_counterpart_is_drawn_alone(
    networks: dict[str, Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "counterpart", lambda _: None)
    assert files.write(networks["vanilla_vgg16"], tmp_path) == [tmp_path / "vanilla_vgg16.svg"]
    shown = texts((tmp_path / "vanilla_vgg16.svg").read_text())
    assert "VGG16" in shown
    assert "Improved VGG16" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vgg16"], "unknown network 'vgg16': valid are vanilla_googlenet, "),
        (["vanilla_vgg16", "--input-size", "16"], "vanilla_vgg16 does not take images of 16x16: "),
        (["vanilla_vgg16", "--input-size", "0"], "input size 0: valid are numbers from 1"),
        (["vanilla_vgg16", "--in-chans", "-1"], "number of input channels -1: valid are numbers from 1"),
    ],
)
def test_mistakes_are_told_in_a_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert architecture.main([*arguments, "--output-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not list(tmp_path.iterdir())
