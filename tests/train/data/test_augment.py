"""Augmentation of a batch against torchvision's functional operations, one image at a time."""

import dataclasses
import hashlib

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from train.data import augment, loading
from train.data.preprocess import Preprocess
from train.training import recipes
from train.training.recipes import Augmentation

PAPER = {name: recipes.get("paper", "improved_vgg16", name).augmentation for name in ("mnist", "cifar10")}
FAST = recipes.get("fast", "improved_vgg16", "cifar10").augmentation
ROTATION, SHEAR, SHIFT_X, SHIFT_Y, SCALE, BRIGHTNESS, CONTRAST, SATURATION, CUTOUT_X, CUTOUT_Y = range(10)


def preprocess(dataset: str, size: int = 64) -> Preprocess:
    chans = 1 if dataset == "mnist" else 3
    return Preprocess({"input_size": (chans, size, size), "mean": (0.48,) * chans, "std": (0.25,) * chans})


def pixels(x: Tensor, p: Preprocess) -> Tensor:
    """Back to 0..1."""
    return x * p.std + p.mean


def reference(image: Tensor, row: Tensor, mirrored: bool, augmentation: Augmentation, size: int) -> Tensor:
    """One image uint8 [C, H, W] as torchvision augments it: float32 [C, size, size] in 0..1."""

    def between(column: int, low: float, high: float) -> float:
        return low + (high - low) * row[column].item()

    def around(column: int, limit: float) -> float:
        return between(column, -limit, limit)

    x = image.float() / 255
    x = TF.adjust_brightness(x, 1 + around(BRIGHTNESS, augmentation.brightness))
    x = TF.adjust_contrast(x, 1 + around(CONTRAST, augmentation.contrast))
    x = TF.adjust_saturation(x, 1 + around(SATURATION, augmentation.saturation))
    x = TF.resize(x, [size, size], antialias=False)
    if mirrored:
        x = TF.horizontal_flip(x)
    return TF.affine(
        x,
        angle=around(ROTATION, augmentation.rotation),
        translate=[size * around(SHIFT_X, augmentation.shift), size * around(SHIFT_Y, augmentation.shift)],
        scale=between(SCALE, *augmentation.scale),
        shear=[around(SHEAR, augmentation.shear), 0.0],
        interpolation=TF.InterpolationMode.BILINEAR,
        fill=0,
    )


def smooth_images(n: int, chans: int, size: int) -> Tensor:
    """Pictures so smooth that interpolating once or twice is nearly the same: uint8 [n, chans, size, size]."""
    coarse = torch.rand(n, chans, 4, 4, generator=torch.Generator().manual_seed(0))
    fine = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


ALONE = {
    "brightness": Augmentation(brightness=0.2),
    "contrast": Augmentation(contrast=0.2),
    "saturation": Augmentation(saturation=0.2),
    "strong jitter": Augmentation(brightness=0.9, contrast=0.9, saturation=0.9),
    "flip": Augmentation(flip="random"),
    "rotation": Augmentation(rotation=15),
    "shear": Augmentation(shear=20),
    "shift": Augmentation(shift=0.25),
    "scale": Augmentation(scale=(0.6, 1.5)),
    "rotation, shear": Augmentation(rotation=40, shear=20),
    "all": Augmentation("random", 30, 20, 0.2, (0.7, 1.4), 0.3, 0.3, 0.3),
    "paper, MNIST": PAPER["mnist"],
    "paper, CIFAR-10": PAPER["cifar10"],
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_equals_torchvision_one_image_at_a_time(name: str, dataset: str) -> None:
    augmentation, p = ALONE[name], preprocess(dataset)
    chans, side = (1, 28) if dataset == "mnist" else (3, 32)
    images = smooth_images(24, chans, side)
    draws = augment.draw(len(images), augmentation, seed=3, epoch=0)
    mine = pixels(augment.augment(images, draws.uniform, draws.mirrored, augmentation, p), p)
    theirs = torch.stack(
        [
            reference(image, row, bool(mirrored), augmentation, 64)
            for image, row, mirrored in zip(images, draws.uniform, draws.mirrored, strict=True)
        ]
    )
    difference = (mine - theirs).abs()
    if not augment.shows_outside(augmentation):
        assert difference.max() < 1e-5
    else:
        # On the rim between image and black a pixel may count for more or less; elsewhere only smoothness is lost.
        white = torch.full((1, side, side), 255, dtype=torch.uint8)
        geometry = dataclasses.replace(augmentation, brightness=0, contrast=0, saturation=0)
        shown = torch.stack([reference(white, row, False, geometry, 64) for row in draws.uniform])
        inside = F.max_pool2d((shown < 0.999).float(), 5, stride=1, padding=2) == 0
        assert inside.float().mean() > 0.4
        assert (difference * inside).max() < 0.03
        assert difference.mean() < 0.006


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_real_images_differ_from_torchvisions_by_the_second_interpolation_only(
    dataset: str, request: pytest.FixtureRequest
) -> None:
    images = request.getfixturevalue(dataset).train.images[:48]
    augmentation, p = PAPER[dataset], preprocess(dataset)
    draws = augment.draw(len(images), augmentation, seed=0, epoch=0)
    mine = pixels(augment.augment(images, draws.uniform, draws.mirrored, augmentation, p), p)
    for image, row, mirrored, x in zip(images, draws.uniform, draws.mirrored, mine, strict=True):
        theirs = reference(image, row, bool(mirrored), augmentation, 64)
        assert (x - theirs).abs().mean() < 0.02
        assert torch.corrcoef(torch.stack([x.flatten(), theirs.flatten()]))[0, 1] > 0.985


def test_what_lies_outside_the_image_is_black() -> None:
    """0 as a pixel, the value -mean/std after normalisation; also when the pictures themselves are white."""
    augmentation, p = Augmentation(shift=0.4), preprocess("cifar10")
    images = torch.full((16, 3, 32, 32), 255, dtype=torch.uint8)
    draws = augment.draw(16, augmentation, seed=0, epoch=0)
    x = pixels(augment.augment(images, draws.uniform, draws.mirrored, augmentation, p), p)
    assert x.min().item() == pytest.approx(0, abs=1e-6)
    assert x.max().item() == pytest.approx(1, abs=1e-6)
    for row, image in zip(draws.uniform, x, strict=True):
        shift_x, shift_y = ((0.8 * row[[SHIFT_X, SHIFT_Y]] - 0.4) * 64).tolist()
        assert image[0].sum().item() == pytest.approx((64 - abs(shift_x)) * (64 - abs(shift_y)), rel=0.002)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
@pytest.mark.parametrize("size", [32, 64, 40])
def test_nothing_to_augment_equals_preprocessing(dataset: str, size: int, request: pytest.FixtureRequest) -> None:
    images = request.getfixturevalue(dataset).train.images[:32]
    p = preprocess(dataset, size)
    draws = augment.draw(32, Augmentation(), seed=0, epoch=0)
    x = augment.augment(images, draws.uniform, draws.mirrored, Augmentation(), p)
    assert torch.allclose(x, p(images), atol=2e-5)


def test_augmentation_of_strength_nothing_equals_preprocessing(cifar10: loading.Dataset) -> None:
    """At the middle of every range nothing moves: also where the path with the mask is taken."""
    images, p = cifar10.train.images[:32], preprocess("cifar10")
    middle = torch.full((32, len(augment.columns())), 0.5)
    x = augment.augment(images, middle, torch.zeros(32, dtype=torch.bool), PAPER["cifar10"], p)
    assert torch.allclose(x, p(images), atol=3e-5)


def test_mirrored_equals_preprocessing_mirrored(cifar10: loading.Dataset) -> None:
    images, p = cifar10.train.images[:8], preprocess("cifar10")
    mirrored = torch.tensor([True, False] * 4)
    x = augment.augment(images, torch.full((8, len(augment.columns())), 0.5), mirrored, Augmentation(flip="random"), p)
    expected = torch.where(mirrored[:, None, None, None], p(images).flip(-1), p(images))
    assert torch.allclose(x, expected, atol=3e-5)


def test_preprocessing_is_interpolation_and_normalisation(cifar10: loading.Dataset) -> None:
    images, p = cifar10.test.images[:8], preprocess("cifar10")
    expected = F.interpolate(images / 255, (64, 64), mode="bilinear", align_corners=False)
    assert torch.allclose(p(images), (expected - 0.48) / 0.25, atol=1e-6)
    same = preprocess("cifar10", 32)(images)
    assert torch.allclose(same, (images / 255 - 0.48) / 0.25, atol=1e-6)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_preprocessing_is_timms_own_evaluation_transform(dataset: str, request: pytest.FixtureRequest) -> None:
    """Timm resizes with Pillow, in whole numbers of 0 to 255; here it is done in floats."""
    images = request.getfixturevalue(dataset).test.images[:16]
    cfg = timm.get_pretrained_cfg(f"improved_resnet18.{dataset}").to_dict()
    config = timm.data.resolve_data_config(pretrained_cfg=cfg)
    transform = timm.data.create_transform(**config)
    theirs = torch.stack([transform(TF.to_pil_image(image)) for image in images])
    p = Preprocess(cfg)
    assert theirs.shape == (16, *cfg["input_size"])
    difference = (p(images) - theirs).abs() * p.std * 255
    assert difference.max() < 1.01
    assert difference.mean() < 0.5


def test_preprocessing_refuses_statistics_that_do_not_fit_the_channels() -> None:
    with pytest.raises(ValueError, match=r"mean \(0.5,\) does not fit 3 channels"):
        Preprocess({"input_size": (3, 8, 8), "mean": (0.5,), "std": (1, 1, 1)})


def test_draws_follow_from_seed_and_epoch_alone() -> None:
    one, two = (augment.draw(500, PAPER["cifar10"], seed=5, epoch=2) for _ in range(2))
    torch.rand(10)
    for name in ("order", "uniform", "mirrored"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert sorted(one.order.tolist()) == list(range(500))
    for seed, epoch in ((5, 3), (6, 2), (2, 5), (7, 0), (0, 7)):
        other = augment.draw(500, PAPER["cifar10"], seed=seed, epoch=epoch)
        assert not torch.equal(one.order, other.order)
        assert not torch.equal(one.uniform, other.uniform)
        assert not torch.equal(one.mirrored, other.mirrored)
        # Not the same numbers in another place either.
        assert len(set(one.uniform.flatten().tolist()) & set(other.uniform.flatten().tolist())) < 20


@pytest.mark.parametrize("augmentation", [PAPER["cifar10"], FAST, dataclasses.replace(FAST, cutout=0.25)])
def test_an_image_is_augmented_the_same_in_whatever_batch_it_comes(
    augmentation: Augmentation, cifar10: loading.Dataset
) -> None:
    images, p = cifar10.train.images[:48], preprocess("cifar10")
    draws = augment.draw(48, augmentation, seed=1, epoch=4)

    def rows(index: Tensor) -> Tensor:
        return augment.augment(images[index], draws.uniform[index], draws.mirrored[index], augmentation, p)

    whole = rows(draws.order)
    pieces = torch.cat([rows(part) for part in draws.order.split([1, 30, 17])])
    assert torch.allclose(whole, pieces, atol=1e-6)


# Of order, uniform and mirrored of 257 images: what published runs were trained with.
DRAWN = {
    ("none", 0, 0): "3879051646e3afe8",
    ("none", 0, 1): "4dde7f2796fabd14",
    ("none", 5, 2): "a16f1a160b74c48b",
    ("none", 123456, 49): "9f3718db3faeab26",
    ("random", 0, 0): "a8ed3ba8f46bd188",
    ("random", 0, 1): "cfec66eb3e998757",
    ("random", 5, 2): "c83050f7127cbb1d",
    ("random", 123456, 49): "d1744ae9409e1043",
    ("alternating", 0, 0): "4e69f2ef693b58d8",
    ("alternating", 0, 1): "903cf86f3b254a11",
    ("alternating", 5, 2): "bc5959be64578177",
    ("alternating", 123456, 49): "429c8a6865365a66",
}
DRAWN_FOR = {
    "none": [Augmentation(), PAPER["mnist"]],
    "random": [Augmentation(flip="random"), PAPER["cifar10"]],
    "alternating": [Augmentation(flip="alternating"), FAST],
}


def digest(draws: augment.Draws) -> str:
    uniform = draws.uniform[:, :10].contiguous()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in (draws.order, uniform, draws.mirrored))).hexdigest()[
        :16
    ]


@pytest.mark.parametrize(("flip", "seed", "epoch"), DRAWN)
def test_a_seed_keeps_drawing_what_it_drew(flip: str, seed: int, epoch: int) -> None:
    for augmentation in DRAWN_FOR[flip]:
        draws = augment.draw(257, augmentation, seed, epoch)
        assert draws.uniform.shape == (257, len(augment.columns()))
        assert digest(draws) == DRAWN[flip, seed, epoch]


@dataclasses.dataclass(frozen=True)
class Eleventh(Augmentation):
    """With a further field, as adding one to `Augmentation` gives it."""

    dropout: float = 0.0


def pixel_dropout(x: Tensor, value: float, u: Tensor) -> Tensor:
    """An image whose number is below the value gets black."""
    return x * (u >= value).view(-1, 1, 1, 1)


DROPOUT = augment.Effect("pixels", ("dropout",), pixel_dropout)


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_further_augmentation_changes_no_draw_of_the_others(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field, a function and a row of the table are all that it takes, wherever the row stands."""
    row = {"dropout": DROPOUT}
    effects = {**row, **augment.EFFECTS} if place == "first" else {**augment.EFFECTS, **row}
    monkeypatch.setattr(augment, "EFFECTS", effects)
    for flip, seed, epoch in DRAWN:
        draws = augment.draw(257, Eleventh(flip=flip, dropout=0.5), seed, epoch)
        assert draws.uniform.shape == (257, len(augment.columns()))
        assert digest(draws) == DRAWN[flip, seed, epoch]

    draws = augment.draw(20_000, Eleventh(dropout=0.5), seed=0, epoch=0)
    at = augment.columns().index("dropout")
    own = draws.uniform[:, at]
    assert own.mean().item() == pytest.approx(0.5, abs=0.01)
    correlation = torch.corrcoef(torch.cat([draws.uniform, draws.order[:, None].float()], 1).T)
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.03
    assert not torch.equal(own, augment.draw(20_000, Eleventh(dropout=0.5), seed=0, epoch=1).uniform[:, at])

    # One more beside it leaves it as it is too.
    monkeypatch.setattr(augment, "EFFECTS", {"other": augment.Effect("input", ("other",), pixel_dropout), **effects})
    more = augment.draw(20_000, Eleventh(), seed=0, epoch=0).uniform
    assert torch.equal(more[:, augment.columns().index("dropout")], own)


@pytest.mark.parametrize("augmentation", [Augmentation(), PAPER["cifar10"], FAST])
def test_a_further_augmentation_is_applied_where_its_field_is_set(
    augmentation: Augmentation, cifar10: loading.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, p = cifar10.train.images[:32], preprocess("cifar10")
    draws = augment.draw(32, augmentation, seed=0, epoch=0)
    plain = augment.augment(images, draws.uniform, draws.mirrored, augmentation, p)
    monkeypatch.setattr(augment, "EFFECTS", {**augment.EFFECTS, "dropout": DROPOUT})
    eleven = Eleventh(**vars(augmentation))
    draws = augment.draw(32, eleven, seed=0, epoch=0)
    assert torch.equal(augment.augment(images, draws.uniform, draws.mirrored, eleven, p), plain)
    x = augment.augment(images, draws.uniform, draws.mirrored, dataclasses.replace(eleven, dropout=0.5), p)
    kept = draws.uniform[:, augment.columns().index("dropout")] >= 0.5
    assert 0 < kept.sum() < 32
    assert torch.equal(x[kept], plain[kept])
    black = pixels(x[~kept], p)[:, :, 32, 32]
    assert (black.abs() < 1e-6).logical_or((black - 0.48).abs() < 1e-6).all()  # the mean within a cutout


def test_alternating_flip_shows_every_image_both_ways_in_two_epochs() -> None:
    epochs = [augment.draw(1000, FAST, seed=0, epoch=epoch).mirrored for epoch in range(4)]
    assert FAST.flip == "alternating"
    assert 400 < epochs[0].sum() < 600
    assert torch.equal(epochs[0], ~epochs[1])
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])


def test_another_seed_begins_with_other_images_mirrored() -> None:
    one, two = (augment.draw(1000, FAST, seed=seed, epoch=0).mirrored for seed in (0, 1))
    assert 400 < (one != two).sum() < 600


def test_draws_are_uniform_and_independent() -> None:
    draws = augment.draw(20_000, PAPER["cifar10"], seed=0, epoch=0)
    u = draws.uniform
    assert u.shape == (20_000, len(augment.columns()))
    assert 0 <= u.min() < 0.001
    assert 0.999 < u.max() < 1
    assert torch.allclose(u.mean(0), torch.full((u.shape[1],), 0.5), atol=0.01)
    assert torch.allclose(u.var(0), torch.full((u.shape[1],), 1 / 12), atol=0.003)
    correlation = torch.corrcoef(torch.cat([u, draws.mirrored[:, None].float(), draws.order[:, None].float()], 1).T)
    assert (correlation - torch.eye(len(correlation))).abs().max() < 0.03
    assert draws.mirrored.float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("side", [0.25, 0.5])
def test_cutout_sets_a_square_to_the_mean(side: float) -> None:
    augmentation, p = Augmentation(cutout=side), preprocess("cifar10")
    images = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    draws = augment.draw(64, augmentation, seed=0, epoch=0)
    cut = augment.augment(images, draws.uniform, draws.mirrored, augmentation, p) == 0
    assert (cut[:, 0] == cut[:, 1]).all()
    cut = cut[:, 0]
    edge = round(side * 64)
    whole = 0
    for mask, row in zip(cut, draws.uniform, strict=True):
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        assert mask.sum() == rows * columns  # a rectangle
        x, y = row[CUTOUT_X].item(), row[CUTOUT_Y].item()
        if side / 2 < min(x, y) and max(x, y) < 1 - side / 2:  # not cut off by the image's edge
            assert abs(rows - edge) <= 1
            assert abs(columns - edge) <= 1
            whole += 1
        centre = mask.nonzero().float().mean(0) + 0.5
        if whole and side / 2 < min(x, y) and max(x, y) < 1 - side / 2:
            assert centre.tolist() == pytest.approx([64 * y, 64 * x], abs=1)
    assert whole > 5
