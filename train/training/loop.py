"""The training loop: an epoch after the other through Accelerate, resumable at every step."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from train.data.augment import Draws, augment, draw
from train.data.batches import batches, shares
from train.data.loading import Dataset, Split
from train.data.preprocess import Preprocess
from train.speed import convolution, graphs, norms
from train.training import checkpoint, epoch_log, interrupt, measure, plots
from train.training.distillation import Teacher
from train.training.models import pretrained_cfg
from train.training.objective import loss_sum, make_optimizer
from train.training.progress import Progress, Tally
from train.training.recipes import Recipe, input_size, learning_rate

EVALUATION_BATCH = 500
# Reading a number off a GPU makes the host wait for it, as does asking the processes of other GPUs: not every step.
STEPS_BETWEEN_CHECKS = 50
# Share of `save_minutes`: how old the newest state is at an epoch's end for another one to be saved there.
SHARE_AT_EPOCH_END = 0.1


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What stays the same throughout a run."""

    accelerator: Accelerator
    model: nn.Module
    optimizer: AcceleratedOptimizer
    teacher: Teacher | None
    preprocess: Preprocess
    recipe: Recipe
    train: Split
    validation: Split
    plan: list[slice]
    tally: Tally
    states: "States"
    graphs: graphs.Graphs | None
    folder: Path
    seed: int
    micro_batches: int
    title: str


class States:
    """Saves the states of a run, and knows when it last did."""

    def __init__(self, accelerator: Accelerator, folder: Path, minutes: float) -> None:
        self.accelerator = accelerator
        self.folder = folder
        self.minutes = minutes
        self.saved = time.monotonic()

    def due(self, share: float = 1.0) -> bool:
        """Whether a share of the time between states has gone by, in any of the processes."""
        return _any(self.accelerator, time.monotonic() - self.saved > share * 60 * self.minutes)

    def save(self, step: int) -> None:
        checkpoint.save(self.accelerator, self.folder, step)
        self.saved = time.monotonic()


@torch.inference_mode()
def predict(model: nn.Module, split: Split, preprocess: Preprocess, accelerator: Accelerator) -> Tensor:
    """Logits float32 [n, classes] of a split that lies on the device, in its order, on every process."""
    model.eval()
    rows = TensorDataset(torch.arange(len(split)))
    logits = []
    # Not the accelerator's own method: it would keep every loader until the end of the run.
    loader = prepare_data_loader(DataLoader(rows, batch_size=EVALUATION_BATCH), accelerator.device, put_on_device=True)
    for (index,) in loader:
        x = preprocess(split.images[index]).contiguous(memory_format=torch.channels_last)
        logits.append(accelerator.gather_for_metrics(model(x).float()))
    return torch.cat(logits)


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    accelerator: Accelerator,
    folder: Path,
    *,
    seed: int,
    teacher: Teacher | None = None,
    micro_batches: int = 1,
    resume: bool = False,
    save_minutes: float = 10.0,
    compiled: bool = False,
    cuda_graphs: bool = True,
    title: str = "",
) -> tuple[nn.Module, Progress]:
    """Train a model and return it, unwrapped and with the weights to keep, and the run's progress.

    Args:
        model: on any device; one of `zoo`'s, or any timm model that takes the dataset's images.
        folder: gets `log.csv`, `curves.png` and `states/`.
        seed: with the epoch it fixes the order of the images and their augmentation.
        teacher: what to learn from beside the labels.
        micro_batches: how many pieces each batch is cut into, to save memory; the batch stays the recipe's.
        resume: go on from the newest state in the folder, where there is one.
        save_minutes: time between two states; at the end of an epoch, one is saved after a tenth of it.
        compiled: compile the model first.
        cuda_graphs: launch each step as one, where that can be done (`graphs.possible`).

    Raises:
        graphs.GraphError: something in the model cannot be captured.
        interrupt.Interrupted: SIGTERM or Ctrl-C, after saving.
        NonFiniteLossError: naming the step.
        checkpoint.CheckpointError: a state cannot be written, or none can be read.
    """
    device = accelerator.device
    torch.backends.cudnn.benchmark = True  # all batches are of one size
    preprocess = Preprocess(pretrained_cfg(model)).to(device)
    if teacher is not None:
        # Not by `accelerator.prepare`: it would be a part of every state.
        teacher.to(device)
    for network in [model] if teacher is None else [model, teacher]:
        # Faster in every precision: a GPU's tensor cores would have everything brought into it each time.
        network.to(memory_format=torch.channels_last)
        if compiled:
            network.compile()
        elif device.type == "cpu":
            convolution.use_faster(network)
    if accelerator.num_processes > 1:
        model = norms.synchronize(model, device)
    wrapped, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
    train_split = dataset.train.to(device)
    plan = batches(len(train_split), recipe.batch_size)
    states = folder / "states"
    cuda_graphs = cuda_graphs and graphs.possible(accelerator)
    setup = Setup(
        accelerator=accelerator,
        model=wrapped,
        optimizer=optimizer,
        teacher=teacher,
        preprocess=preprocess,
        recipe=recipe,
        train=train_split,
        validation=dataset.validation.to(device),
        plan=plan,
        tally=Tally(accelerator, len(plan), recipe.learning_rate),
        states=States(accelerator, states, save_minutes),
        graphs=graphs.Graphs(device, recipe.batch_size) if cuda_graphs else None,
        folder=folder,
        seed=seed,
        micro_batches=micro_batches,
        title=title,
    )
    progress = Progress()
    accelerator.register_for_checkpointing(progress)
    with interrupt.on_signals() as stop:
        if accelerator.is_main_process:
            states.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()
        if resume and (found := checkpoint.load_newest(accelerator, states)):
            accelerator.print(f"Resuming from {found}: epoch {progress.epoch + 1}, batch {progress.batch + 1}")
        if (commit := measure.git_commit()) not in progress.commits:
            progress.commits.append(commit)
        while progress.epoch < recipe.epochs:
            _train_epoch(setup, progress, stop)
            _end_epoch(setup, progress)
    # As it will be used: without the wrapper that runs the forward pass in mixed precision, by PyTorch's own operators.
    kept = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    convolution.use_own(kept)
    norms.unsynchronize(kept)
    return kept, progress


def _train_epoch(setup: Setup, progress: Progress, stop: interrupt.Stop) -> None:
    """The batches of an epoch, from the one at which the progress stands."""
    accelerator, plan = setup.accelerator, setup.plan
    draws = draw(len(setup.train), setup.recipe.augmentation, setup.seed, progress.epoch).to(accelerator.device)
    if setup.graphs is not None:
        draws = setup.graphs.draws(draws)
    preprocess = _preprocess(setup, progress)
    setup.tally.begin(progress)
    setup.model.train()
    bar = tqdm(
        total=plan[-1].stop,
        initial=progress.seen,
        desc=f"Epoch {progress.epoch + 1}/{setup.recipe.epochs}",
        unit="img",
        leave=False,
        disable=None if accelerator.is_local_main_process else True,  # None: off where nobody watches
        mininterval=1.0,
    )
    started, earlier = time.perf_counter(), progress.epoch_seconds
    with bar:
        for number in range(progress.batch, len(plan)):
            batch, step = plan[number], progress.epoch * len(plan) + number
            _train_step(setup, draws, batch, preprocess, step)
            progress.batch = number + 1
            progress.seen = batch.stop
            progress.epoch_seconds = earlier + time.perf_counter() - started
            bar.update(batch.stop - batch.start)
            check = (step + 1) % STEPS_BETWEEN_CHECKS == 0
            if check:
                setup.tally.collect(progress)
                bar.set_postfix(loss=f"{progress.loss_sum / progress.seen:.4f}")
            # A step on a CPU is long enough to ask at each; torchrun waits for half a minute, not for 50 of them.
            if not check and accelerator.num_processes > 1 and accelerator.device.type != "cpu":
                continue
            if _any(accelerator, stop.requested):
                _save(setup, progress)
                raise interrupt.Interrupted(f"stopped in epoch {progress.epoch + 1} after batch {progress.batch}")
            if setup.states.due():
                _save(setup, progress)
        setup.tally.collect(progress)
        # A GPU is done with the steps only now.
        progress.epoch_seconds = earlier + time.perf_counter() - started


def _preprocess(setup: Setup, progress: Progress) -> Preprocess:
    """That of the epoch at which the progress stands."""
    return setup.preprocess.at(input_size(setup.recipe, progress.epoch, setup.preprocess.size))


def _train_step(setup: Setup, draws: Draws, batch: slice, preprocess: Preprocess, step: int) -> None:
    """One step of the optimiser on a global batch, of which this process works on its share."""
    accelerator, recipe, images = setup.accelerator, setup.recipe, setup.train
    for i, group in enumerate(setup.optimizer.param_groups):
        rate = group["lr_scale"] * learning_rate(recipe, step, len(setup.plan))
        group["lr"] = rate if setup.graphs is None else setup.graphs.rate(i, rate)
    setup.tally.step.fill_(step)
    pieces = shares(batch, setup.micro_batches, accelerator.num_processes, accelerator.process_index)

    def take(batch_rows: Tensor) -> None:
        for i, piece in enumerate(pieces):
            rows = batch_rows[piece.start - batch.start : piece.stop - batch.start]
            x = augment(images.images[rows], draws.uniform[rows], draws.mirrored[rows], recipe.augmentation, preprocess)
            x = x.contiguous(memory_format=torch.channels_last)
            labels = images.labels[rows]
            soft_targets = None
            if setup.teacher is not None:
                with accelerator.autocast():
                    soft_targets = setup.teacher(x)
            with nullcontext() if i == len(pieces) - 1 else accelerator.no_sync(setup.model):
                outputs = setup.model(x)
                loss = loss_sum(outputs, labels, recipe.label_smoothing, soft_targets)
                # DistributedDataParallel takes the mean over the processes. Wanted is the mean over the batch, also
                # where their shares differ in size.
                accelerator.backward(loss * (accelerator.num_processes / len(batch_rows)))
            setup.tally.add(loss, outputs[0] if isinstance(outputs, tuple) else outputs, labels)
        if recipe.clip_norm:
            accelerator.clip_grad_norm_(setup.model.parameters(), recipe.clip_norm)
        setup.optimizer.step()
        setup.optimizer.zero_grad()

    if setup.graphs is None:
        take(draws.order[batch])
    else:
        setup.graphs.run(take, draws.order[batch], preprocess.size)


def _end_epoch(setup: Setup, progress: Progress) -> None:
    """Validate, write the log, move on to the next epoch; save and draw the curves, unless that was done just now."""
    accelerator = setup.accelerator
    # At the size that it was trained at: at another one a network shows little of what it has learnt.
    logits = predict(setup.model, setup.validation, _preprocess(setup, progress), accelerator)
    row = {
        "epoch": progress.epoch + 1,
        "learning_rate": learning_rate(setup.recipe, (progress.epoch + 1) * len(setup.plan) - 1, len(setup.plan)),
        "train_loss": progress.loss_sum / progress.seen,
        "train_accuracy": 100 * progress.correct / progress.seen,
        "validation_loss": F.cross_entropy(logits, setup.validation.labels).item(),
        "validation_accuracy": 100 * (logits.argmax(1) == setup.validation.labels).sum().item() / len(logits),
        "images_per_second": progress.seen / progress.epoch_seconds,
        "seconds": progress.epoch_seconds,
    }
    progress.rows.append(row)
    progress.train_seconds += progress.epoch_seconds
    progress.epoch += 1
    progress.batch = progress.seen = progress.correct = 0
    progress.loss_sum = progress.epoch_seconds = 0.0
    save = setup.states.due(SHARE_AT_EPOCH_END) or progress.epoch == setup.recipe.epochs
    if accelerator.is_main_process:  # before saving: a run cut off in between writes them again
        epoch_log.write(progress.rows, setup.folder / "log.csv")
        if save:  # drawing takes time too
            plots.curves(progress.rows, setup.title, setup.folder / "curves.png")
    if save:
        _save(setup, progress)
    accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=progress.epoch)
    accelerator.print(
        f"Epoch {progress.epoch}/{setup.recipe.epochs}: "
        f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.2f} %; "
        f"validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.2f} %; "
        f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s{_time_left(setup, progress)}",
        flush=True,
    )


def _time_left(setup: Setup, progress: Progress) -> str:
    """By the last epoch's time for a pixel: later ones may be of larger images."""
    epochs, size = setup.recipe.epochs, setup.preprocess.size
    pixels = [math.prod(input_size(setup.recipe, epoch, size)) for epoch in range(epochs)]
    seconds = progress.rows[-1]["seconds"] * sum(pixels[progress.epoch :]) / pixels[progress.epoch - 1]
    return f"; about {seconds / 60:.0f} min left" if progress.epoch < epochs else ""


def _save(setup: Setup, progress: Progress) -> None:
    if progress.batch:
        setup.tally.collect(progress)
    setup.states.save(progress.epoch * len(setup.plan) + progress.batch)


def _any(accelerator: Accelerator, wish: bool) -> bool:
    """Whether any process wishes it: all must take the same turn, or they wait for each other for ever."""
    if accelerator.num_processes == 1:
        return wish
    return bool(accelerator.reduce(torch.tensor(float(wish), device=accelerator.device), "sum") > 0)
