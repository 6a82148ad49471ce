"""The loop itself, on networks that take milliseconds a step."""

import dataclasses
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from conftest import reset_accelerate
from torch import Tensor, nn

from train.data import augment, loading
from train.data.augment import Augmentation
from train.data.preprocess import Preprocess
from train.training import loop, models, objective
from train.training.loop import Options, Run
from train.training.progress import NonFiniteLossError, Progress
from train.training.recipes import Recipe
from train.training.results import plots
from train.training.results.predict import predict
from train.training.runs import checkpoint, interrupt

PLAIN = Recipe(epochs=2, learning_rate=0.05, schedule="fixed", batch_size=32)
# Training and validation losses of two epochs, and the sum of the weights' absolute values.
LOSSES = [2.290081739425659, 2.348991870880127, 2.2747512658437095, 2.411522626876831]
WEIGHTS = 179.8556963801384


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the curves takes longer than the epochs here."""
    monkeypatch.setattr(plots, "curves", lambda *_: None)


@pytest.fixture
def few(mnist: loading.Dataset) -> loading.Dataset:
    return dataclasses.replace(mnist, train=mnist.train.take(slice(100)), validation=mnist.validation.take(slice(50)))


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., tuple[nn.Module, Progress]]:
    """Trains a tiny network from weights that depend on the seed alone."""
    runs = 0

    def call(
        name: str, dataset: loading.Dataset, recipe: Recipe, seed: int = 0, micro_batches: int = 1, **kwargs: Any
    ) -> tuple[nn.Module, Progress]:
        nonlocal runs
        runs += 1
        reset_accelerate()
        torch.manual_seed(seed)
        model = timm.create_model(name, in_chans=dataset.train.images.shape[1], **kwargs)
        accelerator = Accelerator(cpu=True)
        folder = tmp_path / f"run{runs}"
        run = Run(model, dataset, recipe, accelerator, folder, Options(seed=seed, micro_batches=micro_batches))
        result = run.train(), run.progress
        # What is kept for each evaluation would make the memory grow over the epochs.
        assert accelerator._dataloaders == []
        return result

    return call


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if value.is_floating_point()}


def same(one: nn.Module, two: nn.Module, tolerance: float = 0.0) -> bool:
    a, b = weights(one), weights(two)
    return all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)


def test_overfits_32_images(fit: Callable, mnist: loading.Dataset) -> None:
    images = mnist.train.take(slice(32))
    dataset = dataclasses.replace(mnist, train=images, validation=images)
    recipe = Recipe(epochs=40, learning_rate=0.05, schedule="one-cycle", batch_size=8)
    _, progress = fit("tiny_net.mnist", dataset, recipe)
    assert progress.rows[-1]["validation_accuracy"] == 100
    assert progress.rows[-1]["validation_loss"] < 0.1 < progress.rows[0]["validation_loss"]


def test_one_seed_one_result(fit: Callable, few: loading.Dataset) -> None:
    recipe = dataclasses.replace(PLAIN, augmentation=Augmentation("random", 15, 5, 0.1, (0.8, 1.2)))
    one, first = fit("tiny_net.mnist", few, recipe, seed=1)
    two, second = fit("tiny_net.mnist", few, recipe, seed=1)
    other, _ = fit("tiny_net.mnist", few, recipe, seed=2)
    assert same(one, two)
    assert [row["train_loss"] for row in first.rows] == [row["train_loss"] for row in second.rows]
    assert not same(one, other)


def test_results_are_those_of_earlier_versions(fit: Callable, few: loading.Dataset) -> None:
    """Two epochs with a fixed seed: the losses to the last digits that processors agree on, and the weights' sum."""
    recipe = dataclasses.replace(PLAIN, augmentation=Augmentation("random", 15, 5, 0.1, (0.8, 1.2)), clip_norm=2.0)
    model, progress = fit("tiny_net.mnist", few, recipe, seed=3)
    losses = [value for row in progress.rows for value in (row["train_loss"], row["validation_loss"])]
    assert not any("validation_loss_smoothed" in row for row in progress.rows)  # trained without label smoothing
    assert losses == pytest.approx(LOSSES, rel=1e-5)
    assert sum(value.abs().sum().item() for value in weights(model).values()) == pytest.approx(WEIGHTS, rel=1e-5)


def test_memory_does_not_grow_over_the_epochs(fit: Callable, few: loading.Dataset) -> None:
    def resident() -> int:
        gc.collect()
        return psutil.Process().memory_info().rss

    augmentation = Augmentation("random", 15, 5, 0.1, (0.8, 1.2))
    recipe = dataclasses.replace(PLAIN, augmentation=augmentation)
    fit("tiny_net.mnist", few, dataclasses.replace(recipe, epochs=10))
    before = resident()
    fit("tiny_net.mnist", few, dataclasses.replace(recipe, epochs=80))
    # The augmented images alone would be 30 MB if they were kept.
    assert resident() - before < 20e6


@pytest.mark.parametrize("micro_batches", [2, 3, 5])
def test_micro_batches_give_what_whole_batches_give(fit: Callable, few: loading.Dataset, micro_batches: int) -> None:
    recipe = dataclasses.replace(PLAIN, label_smoothing=0.1, weight_decay=1e-4, augmentation=Augmentation(rotation=10))
    whole, one = fit("tiny_plain.mnist", few, recipe)
    pieces, two = fit("tiny_plain.mnist", few, recipe, micro_batches=micro_batches)
    assert same(whole, pieces, 1e-5)
    assert not same(
        whole, pieces.apply(lambda module: nn.init.zeros_(module.weight) if hasattr(module, "weight") else 0)
    )
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["train_accuracy"] == b["train_accuracy"]


def test_a_step_is_sgd_on_the_mean_loss_of_the_batch(fit: Callable, few: loading.Dataset) -> None:
    """Three steps by hand: plain PyTorch on the images that the draws name."""
    dataset = dataclasses.replace(few, train=few.train.take(slice(96)))
    recipe = dataclasses.replace(PLAIN, epochs=1, label_smoothing=0.1, weight_decay=0.01)
    trained, progress = fit("tiny_plain.mnist", dataset, recipe, seed=4)
    torch.manual_seed(4)
    model = timm.create_model("tiny_plain.mnist", in_chans=1)
    preprocess = Preprocess(models.pretrained_cfg(model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    order = augment.draw(96, recipe.augmentation, seed=4, epoch=0).order
    losses, correct = [], 0
    for rows in order.split(32):
        logits, labels = model(preprocess(dataset.train.images[rows])), dataset.train.labels[rows]
        loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        correct += (logits.argmax(1) == labels).sum().item()
    assert same(trained, model, 1e-5)
    assert progress.rows[0]["train_loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert progress.rows[0]["train_accuracy"] == pytest.approx(100 * correct / 96)
    with torch.no_grad():
        logits = trained.eval()(preprocess(dataset.validation.images))
    labels = dataset.validation.labels
    assert progress.rows[0]["validation_loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.1).item()
    assert progress.rows[0]["validation_loss_smoothed"] == pytest.approx(smoothed, rel=1e-6)
    assert progress.rows[0]["validation_loss"] != pytest.approx(smoothed, rel=1e-6)
    assert progress.rows[0]["validation_accuracy"] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean())


def test_auxiliary_heads_count_with_their_weight(fit: Callable, few: loading.Dataset) -> None:
    recipe = dataclasses.replace(PLAIN, epochs=1, learning_rate=1e-12)
    trained, progress = fit("tiny_plain.mnist", few, recipe, aux=True)
    seen = few.train.take(augment.draw(100, recipe.augmentation, 0, 0).order[:96].numpy())
    outputs = trained.train()(Preprocess(trained.pretrained_cfg)(seen.images))
    main, aux2, aux1 = (F.cross_entropy(x, seen.labels).item() for x in outputs)
    assert progress.rows[0]["train_loss"] == pytest.approx(main + 0.3 * (aux2 + aux1), rel=1e-4)
    # Evaluated without them.
    assert trained.eval()(Preprocess(trained.pretrained_cfg)(seen.images)).shape == (96, 10)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_gradients_are_clipped_once_for_the_whole_batch(
    fit: Callable, few: loading.Dataset, micro_batches: int
) -> None:
    recipe = Recipe(epochs=1, learning_rate=1.0, schedule="fixed", batch_size=100, momentum=0.0)  # one step
    start = weights(fit("tiny_plain.mnist", few, dataclasses.replace(recipe, learning_rate=1e-30))[0])

    def step(clip_norm: float) -> torch.Tensor:
        clipped = dataclasses.replace(recipe, clip_norm=clip_norm)
        after = weights(fit("tiny_plain.mnist", few, clipped, micro_batches=micro_batches)[0])
        return torch.cat([(after[name] - start[name]).flatten() for name in start])

    whole = step(0)
    norm = whole.norm().item()
    assert norm > 0.1
    assert torch.allclose(step(norm / 4), whole / 4, atol=1e-5)
    assert torch.allclose(step(norm * 4), whole, atol=1e-6)


def test_loss_that_is_not_finite_stops_the_run_and_names_the_step(fit: Callable, few: loading.Dataset) -> None:
    with pytest.raises(NonFiniteLossError, match=r"at step 1 \(epoch 1\).*below 1e\+30"):
        fit("tiny_plain.mnist", few, dataclasses.replace(PLAIN, learning_rate=1e30))
    one_step_an_epoch = dataclasses.replace(PLAIN, learning_rate=1e30, batch_size=100, epochs=3)
    with pytest.raises(NonFiniteLossError, match=r"at step 1 \(epoch 2\)"):
        fit("tiny_plain.mnist", few, one_step_an_epoch)


def test_prediction_keeps_order_and_number(mnist: loading.Dataset) -> None:
    model = timm.create_model("tiny_net.mnist", in_chans=1)
    preprocess = Preprocess(models.pretrained_cfg(model))
    for n in (1, 7, 500, 501, 1000):
        split = mnist.test.take(slice(n))
        logits = predict(model, split, preprocess, Accelerator(cpu=True))
        with torch.no_grad():
            assert torch.allclose(logits, model.eval()(preprocess(split.images)), atol=1e-5)


def test_the_optimizer_is_prepared_with_the_recipe(
    fit: Callable, few: loading.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate of each step is the schedule's, and the linear layers' their share of it."""
    rates = []
    make = objective.make_optimizer

    def spying(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
        optimizer = make(model, recipe)
        (linear,) = ({id(p) for p in m.parameters()} for m in model.modules() if isinstance(m, nn.Linear))

        def note(*_: object) -> None:
            groups = [({id(p) for p in group["params"]} <= linear, group["lr"]) for group in optimizer.param_groups]
            rates.append({kind: {rate for k, rate in groups if k == kind} for kind in (False, True)})

        optimizer.register_step_pre_hook(note)
        return optimizer

    monkeypatch.setattr(loop, "make_optimizer", spying)
    recipe = dataclasses.replace(PLAIN, schedule="milestones", milestones=(2, 3), epochs=3, linear_lr_scale=0.2)
    fit("tiny_plain.mnist", few, recipe)
    expected = [0.05] * 3 + [0.005] * 3 + [0.0005] * 3
    assert [rate for (rate,) in (of[False] for of in rates)] == pytest.approx(expected)
    assert [rate for (rate,) in (of[True] for of in rates)] == pytest.approx([0.2 * rate for rate in expected])


class Counter:
    """Something to keep in states."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


@pytest.fixture
def states(tmp_path: Path) -> tuple[Accelerator, Counter, Path]:
    accelerator, counter = Accelerator(cpu=True), Counter()
    accelerator.register_for_checkpointing(counter)
    (tmp_path / "states").mkdir()
    return accelerator, counter, tmp_path / "states"


def save(states: tuple[Accelerator, Counter, Path], step: int) -> None:
    accelerator, counter, folder = states
    counter.value = step
    checkpoint.save(accelerator, folder, step)


def newest(states: tuple[Accelerator, Counter, Path]) -> int:
    accelerator, counter, folder = states
    counter.value = -1
    found = checkpoint.load_newest(accelerator, folder)
    assert found is not None
    assert int(found.name) == counter.value
    return counter.value


def test_the_last_two_states_are_kept(states: tuple[Accelerator, Counter, Path]) -> None:
    assert checkpoint.load_newest(states[0], states[2]) is None
    for step in (5, 10, 15):
        save(states, step)
    assert sorted(path.name for path in states[2].iterdir()) == ["00000010", "00000015"]
    assert newest(states) == 15


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest empty", "manifest cut", "manifest removed"])
def test_a_damaged_state_gives_way_to_the_one_before(
    damage: str, states: tuple[Accelerator, Counter, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (5, 10):
        save(states, step)
    folder = states[2] / "00000010"
    file = folder / ("manifest.json" if damage.startswith("manifest") else "custom_checkpoint_0.pkl")
    content = file.read_bytes()
    if damage in ("remove", "manifest removed"):
        file.unlink()
    elif damage == "manifest empty":
        file.write_text("{}")
    elif damage == "flip":
        file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    else:
        file.write_bytes(content[: len(content) // 2])
    assert newest(states) == 5
    assert "00000010 is damaged" in capsys.readouterr().out
    # The same step comes again, and must not be taken for saved already.
    save(states, 10)
    assert newest(states) == 10


def test_leftovers_of_a_killed_save_are_no_states(states: tuple[Accelerator, Counter, Path]) -> None:
    save(states, 5)
    (states[2] / "partial-00000010").mkdir()
    (states[2] / "partial-00000010" / "custom_checkpoint_0.pkl").write_bytes(b"half")
    assert newest(states) == 5
    save(states, 10)
    assert sorted(path.name for path in states[2].iterdir()) == ["00000005", "00000010"]


def test_when_every_state_is_damaged_the_error_says_so(states: tuple[Accelerator, Counter, Path]) -> None:
    for step in (5, 10):
        save(states, step)
        (states[2] / f"{step:08d}" / "manifest.json").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"every state in .* is damaged"):
        checkpoint.load_newest(states[0], states[2])


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """As Python does by itself, but for a process that a shell has put into the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_later_signal_acts_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes at once with the first is the same wish, whichever signal it is."""
    with interrupt.on_signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        monkeypatch.setattr(interrupt, "ONE_REQUEST_SECONDS", 0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
