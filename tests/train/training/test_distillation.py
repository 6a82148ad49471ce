"""Learning from a teacher: what it is shown, what it counts for, and what a run tells of it."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from conftest import SAMPLES, outcome, reset_accelerate
from torch import Tensor, nn

from train import records
from train.cards import model_card, provenance, publishing
from train.data import loading
from train.data.augment import Augmentation
from train.data.preprocess import Preprocess
from train.paper import paper
from train.training import distillation, models, objective
from train.training.distillation import SoftTargets, Teacher
from train.training.loop import Options, Run
from train.training.recipes import Recipe
from zoo.googlenet import AUX_LOSS_WEIGHT

Fit = Callable[..., tuple[int, str, str]]
TAUGHT = ("--model", "tiny_net", "--epochs", 2, "--batch-size", 32, "--learning-rate", 0.05)
pytestmark = pytest.mark.usefixtures("no_pictures")


def one_line(errors: str) -> str:
    assert errors.count("\n") == 1, errors
    return errors


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_that_of_the_paper(temperature: float) -> None:
    """Section 2 of Hinton et al.: T squared times (softmax(z / T) - softmax(v / T)) / T is the teacher's gradient."""
    torch.manual_seed(0)
    logits, teachers = torch.randn(6, 10, requires_grad=True), torch.randn(6, 10)
    labels = torch.arange(6)
    soft_targets = SoftTargets(F.softmax(teachers / temperature, dim=1), share=1.0, temperature=temperature)
    (gradient,) = torch.autograd.grad(objective.loss_sum(logits, labels, 0.1, soft_targets), logits)
    expected = temperature * (F.softmax(logits / temperature, 1) - F.softmax(teachers / temperature, 1))
    assert torch.allclose(gradient, expected, atol=1e-6)

    by_labels = objective.loss_sum(logits, labels, 0.1)
    by_teacher = objective.loss_sum(logits, labels, 0.1, soft_targets)
    both = objective.loss_sum(logits, labels, 0.1, dataclasses.replace(soft_targets, share=0.7))
    assert both.item() == pytest.approx(0.3 * by_labels.item() + 0.7 * by_teacher.item(), rel=1e-6)
    agreed = dataclasses.replace(soft_targets, probabilities=F.softmax(logits.detach() / temperature, dim=1))
    assert objective.loss_sum(logits, labels, 0.1, agreed).item() == pytest.approx(0, abs=1e-5)


def test_auxiliary_heads_learn_from_it_too() -> None:
    main, first, second = torch.randn(3, 4, 10)
    soft_targets = SoftTargets(torch.full((4, 10), 0.1), share=1.0, temperature=2.0)
    labels = torch.zeros(4, dtype=torch.int64)
    total = objective.loss_sum((main, first, second), labels, 0.0, soft_targets)  # type: ignore[arg-type]
    parts = [objective.loss_sum(x, labels, 0.0, soft_targets) for x in (main, first, second)]
    assert total.item() == pytest.approx((parts[0] + AUX_LOSS_WEIGHT * (parts[1] + parts[2])).item())


class Shown(nn.Module):
    """Keeps what it is shown."""

    def __init__(self, size: int, **statistics: tuple[float, ...]) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": (3, size, size), **statistics}
        self.weight = nn.Parameter(torch.ones(10))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        return self.norm(x).mean((1, 2, 3), keepdim=True).flatten(1) * self.weight


def test_it_sees_the_same_image_as_it_would_see_it_alone(cifar10: loading.Dataset) -> None:
    """At its own size, normalised by its own statistics."""
    network = Shown(64, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    student_cfg = {"input_size": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
    teacher = Teacher(network, student_cfg).train()
    images = cifar10.train.images[:4]
    soft_targets = teacher(Preprocess(student_cfg)(images))
    assert torch.allclose(network.x, Preprocess(network.pretrained_cfg)(images), atol=1e-5)
    assert not soft_targets.probabilities.requires_grad
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_its_opinion_is_softened_as_the_students_logits_are(temperature: float) -> None:
    cfg = {"input_size": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
    network = Shown(32, mean=cfg["mean"], std=cfg["std"])
    network.weight.data = torch.arange(10.0)
    x = torch.randn(4, 3, 32, 32) + 1  # else its logits would all be near nothing
    opinion = Teacher(network, cfg, share=0.5, temperature=temperature)(x)
    assert torch.allclose(opinion.probabilities, F.softmax(network(x) / temperature, dim=1))
    assert (opinion.share, opinion.temperature) == (0.5, temperature)


def test_nothing_is_computed_for_what_is_alike() -> None:
    cfg = {"input_size": (3, 32, 32), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.3)}
    network = Shown(32, mean=cfg["mean"], std=cfg["std"])
    x = torch.randn(2, 3, 32, 32)
    Teacher(network, cfg)(x)
    assert network.x is x


@pytest.fixture
def few(cifar10: loading.Dataset) -> loading.Dataset:
    return dataclasses.replace(
        cifar10, train=cifar10.train.take(slice(100)), validation=cifar10.validation.take(slice(50))
    )


def test_with_all_of_the_loss_its_opinion_is_all_that_counts(few: loading.Dataset, tmp_path: Path) -> None:
    """The labels can be anything; with a part of the loss they count. The teacher stays as it was."""
    recipe = Recipe(
        epochs=2, learning_rate=0.05, schedule="fixed", batch_size=32, augmentation=Augmentation("random", cutout=0.3)
    )
    torch.manual_seed(1)
    network = timm.create_model("tiny_plain.cifar10")
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def trained(dataset: loading.Dataset, share: float) -> list[Tensor]:
        reset_accelerate()
        torch.manual_seed(0)
        model = timm.create_model("tiny_net.cifar10", drop_rate=0.0)
        teacher = Teacher(network, models.pretrained_cfg(model), share)
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        model = Run(model, dataset, recipe, Accelerator(cpu=True), folder, Options(seed=0), teacher).train()
        return list(model.parameters())

    def same(one: list[Tensor], two: list[Tensor]) -> bool:
        return all(map(torch.equal, one, two))

    wrong = loading.Split(few.train.images, (few.train.labels + 1) % 10)
    other = dataclasses.replace(few, train=wrong)
    assert same(trained(few, 1.0), trained(other, 1.0))
    assert not same(trained(few, 0.5), trained(other, 0.5))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_student_comes_to_agree_with_its_teacher(
    cifar10: loading.Dataset, few: loading.Dataset, tmp_path: Path
) -> None:
    """On images that neither was trained on, as a network of random weights has no reason to."""
    torch.manual_seed(1)
    network = timm.create_model("tiny_plain.cifar10")
    with torch.no_grad():
        network.fc.weight.mul_(20)  # random weights are of nearly one mind on all images
    torch.manual_seed(0)
    model = timm.create_model("tiny_plain.cifar10")
    preprocess = Preprocess(models.pretrained_cfg(model))
    x = preprocess(few.test.images)

    def agreement() -> float:
        with torch.inference_mode():
            return (model.eval()(x).argmax(1) == network.eval()(x).argmax(1)).float().mean().item()

    before = agreement()
    recipe = Recipe(epochs=10, learning_rate=0.2, schedule="one-cycle", batch_size=40)
    teacher = Teacher(network, models.pretrained_cfg(model), share=1.0)
    dataset = dataclasses.replace(few, train=cifar10.train)
    Run(model, dataset, recipe, Accelerator(cpu=True), tmp_path / "run", Options(seed=0), teacher).train()
    assert agreement() > max(0.6, before + 0.2)


@pytest.mark.usefixtures("no_onnx")
@pytest.mark.parametrize("run_folder", ["cifar10"], indirect=True)
def test_a_run_tells_of_its_teacher(run: Fit, run_folder: Path, card: Path, few_samples: Path, tmp_path: Path) -> None:
    """A run's folder or a published model; it goes into the run's description and no state; the card names it."""
    arguments = (*TAUGHT, "--dataset", "cifar10", "--data-dir", few_samples)
    status, _, errors = run(*arguments, "--teacher", run_folder, "--output-dir", tmp_path / "by-run")
    assert (status, errors) == (0, "")
    status, _, errors = run(*arguments, "--teacher", card, "--output-dir", tmp_path / "by-card")
    assert (status, errors) == (0, "")
    by_run, by_card = (
        json.loads((tmp_path / name / "args.json").read_text())["teacher"] for name in ("by-run", "by-card")
    )
    assert (by_run["name"], by_run["published"]) == (run_folder.name, False)
    assert (by_card["name"], by_card["published"]) == (card.name, True)
    assert by_card["safetensors_sha256"] == json.loads((card / "metrics.json").read_text())["safetensors_sha256"]
    assert (by_card["share"], by_card["temperature"]) == (distillation.SHARE, distillation.TEMPERATURE)
    # What is published of this network is half precision: nearly the same teacher.
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("by-run", "by-card")]
    losses = [float(next(csv.DictReader(log))["train_loss"]) for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    sizes = [
        sum(file.stat().st_size for file in max((folder / "states").glob("[0-9]*")).rglob("*") if file.is_file())
        for folder in (run_folder, tmp_path / "by-run")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)

    reset_accelerate()
    published = publishing.publish(tmp_path / "by-card", tmp_path / "published", few_samples, False, paper.accuracy)
    metrics = json.loads((published / "metrics.json").read_text())
    text = (published / "README.md").read_text()
    settings = records.read(records.RunSettings, published / "metrics.json")
    assert f"--teacher {card.name} --teacher-share 0.9 --temperature 2" in provenance.command(settings)
    assert "the loss is 0.1 of the cross-entropy with the labels plus 0.9 of the Kullback-Leibler divergence" in text
    sha256 = by_card["safetensors_sha256"][:16]
    for commit, when in (
        ("c0ffee", "at commit `c0ffee`"),
        ("c0ffee+", "at commit `c0ffee`"),
        (None, "at the time"),
    ):
        (published / "metrics.json").write_text(json.dumps(metrics | {"git_commit": commit}))
        text = model_card.render(published)
        assert f"The teacher is `{card.name}` as published {when} (SHA-256 `{sha256}...`" in text
    metrics["teacher"] = by_run
    (published / "metrics.json").write_text(json.dumps(metrics))
    words = f"The teacher is `{run_folder.name}`, which is available only where the network was trained"
    assert words in model_card.render(published)

    # From there on, what it learnt from goes with it.
    (earlier,) = provenance.earlier_runs(metrics["model"], str(tmp_path / "by-run"))
    assert earlier.run is not None
    assert records.as_dict(earlier.run.teacher) == by_run
    assert f"--teacher {run_folder.name} " in provenance.command(earlier.run)


@pytest.mark.parametrize("run_folder", ["cifar10"], indirect=True)
def test_resumed_with_the_same_teacher_alone(run: Fit, run_folder: Path, few_samples: Path, tmp_path: Path) -> None:
    """Bit for bit as without a stop; another teacher, or another share of the loss, is refused."""
    teacher = Path(shutil.copytree(run_folder, tmp_path / "teacher"))
    arguments: tuple[object, ...] = (*TAUGHT, "--dataset", "cifar10", "--data-dir", few_samples, "--save-minutes", 0)
    arguments += ("--teacher", teacher)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run(*arguments, "--output-dir", whole)[0] == 0
    shutil.copytree(whole, resumed)
    shutil.rmtree(max((resumed / "states").glob("[0-9]*")))  # the one of the end
    (resumed / "metrics.json").unlink()
    (resumed / "model.safetensors").unlink()
    arguments = (*arguments, "--output-dir", resumed, "--resume")
    for changed in (("--teacher-share", 0.5), ("--temperature", 1)):
        status, _, errors = run(*arguments, *changed)
        assert status == 2
        assert "its teacher was" in one_line(errors)
    status, output, errors = run(*arguments)
    assert (status, errors) == (0, "")
    assert "Resuming from" in output
    assert outcome(resumed) == outcome(whole)

    (resumed / "metrics.json").unlink()
    shutil.copy(whole / "model.safetensors", teacher)
    status, _, errors = run(*arguments)
    assert status == 2
    assert "its teacher was" in one_line(errors)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--teacher", "improved_vgg61.cifar10"),
            ["improved_vgg61.cifar10", "published are", "improved_vgg16.cifar10"],
        ),
        (("--teacher", "/no/such/run"), ["/no/such/run", "published are"]),
        (("--teacher", "improved_googlenet.mnist"), ["improved_googlenet.mnist", "0, 1, 2", "airplane"]),
        (("--teacher", "improved_googlenet.cifar10", "--teacher-share", 0), ["--teacher-share 0", "above 0"]),
        (("--teacher", "improved_googlenet.cifar10", "--teacher-share", 1.5), ["--teacher-share 1.5", "at most 1"]),
        (("--teacher", "improved_googlenet.cifar10", "--temperature", 0), ["--temperature 0", "positive"]),
        (("--teacher", "improved_googlenet.cifar10", "--temperature", "nan"), ["--temperature nan", "positive"]),
        (("--teacher-share", 0.5), ["--teacher-share 0.5", "--teacher"]),
        (("--temperature", 4), ["--temperature 4", "--teacher"]),
    ],
)
def test_a_teacher_that_cannot_teach(run: Fit, tmp_path: Path, arguments: tuple[object, ...], words: list[str]) -> None:
    data = ("--dataset", "cifar10", "--data-dir", SAMPLES)
    status, _, errors = run(*TAUGHT, *data, *arguments, "--output-dir", tmp_path / "run")
    assert status == 2
    assert all(word in one_line(errors) for word in words)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_channels_cannot_teach() -> None:
    """Though it tells the same classes apart, as digits in colour are."""
    digits = list("0123456789")
    with pytest.raises(models.ModelError, match="takes images of 1 channels, these have 3"):
        distillation.load("improved_googlenet.mnist", digits, 3)
    assert distillation.load("improved_googlenet.mnist", digits, 1).published
