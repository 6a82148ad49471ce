"""The training loop: an epoch after the other through Accelerate, resumable at every step."""

import csv
import io
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from train import checkpoint, figures
from train.augment import augment, draw
from train.data import Dataset, Split
from train.files import write_text
from train.preprocess import Preprocess
from train.recipes import Recipe
from zoo.googlenet import AUX_LOSS_WEIGHT, GoogLeNetOutputs

EVALUATION_BATCH = 500
# Reading a number off the device makes the host wait for it: not at every step.
STEPS_BETWEEN_CHECKS = 50


class Interrupted(Exception):  # noqa: N818  no error
    """SIGTERM or Ctrl-C came; the state is saved."""


class NonFiniteLossError(RuntimeError):
    """The loss became infinite or not a number."""


@dataclass
class Progress:
    """Where a run stands, kept in its states. Sums are over the images of the unfinished epoch."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """The rate of optimiser step `step`, counted from 0.

    A function of the step alone: there is no scheduler whose state could drift from the optimiser's on a resume, or
    that Accelerate would step once for every process.
    """
    if recipe.schedule == "fixed":
        return recipe.learning_rate
    if recipe.schedule == "milestones":
        epoch = step // steps_per_epoch + 1
        return recipe.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in recipe.milestones)
    done = (step + 0.5) / (recipe.epochs * steps_per_epoch)
    up = 0.2  # of the run, linearly; then half a cosine down to nothing
    return recipe.learning_rate * (done / up if done < up else 0.5 * (1 + math.cos(math.pi * (done - up) / (1 - up))))


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with the recipe's momentum and weight decay."""
    decay = recipe.weight_decay
    groups: Any = model.parameters()
    if decay and not recipe.decay_norms_and_biases:
        groups, decay = param_groups_weight_decay(model, decay), 0.0
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov, weight_decay=decay
    )


def loss_sum(outputs: Tensor | GoogLeNetOutputs, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy summed over a batch; auxiliary heads' losses are added at their weight (section 2)."""
    if isinstance(outputs, tuple):
        main, *auxiliary = (F.cross_entropy(x, labels, label_smoothing=smoothing, reduction="sum") for x in outputs)
        return main + AUX_LOSS_WEIGHT * sum(auxiliary)
    return F.cross_entropy(outputs, labels, label_smoothing=smoothing, reduction="sum")


@torch.inference_mode()
def predict(model: nn.Module, split: Split, preprocess: Preprocess, accelerator: Accelerator) -> Tensor:
    """Logits float32 [n, classes] of a split that lies on the device, in its order, on every process."""
    model.eval()
    rows = torch.utils.data.DataLoader(range(len(split)), batch_size=EVALUATION_BATCH)  # type: ignore[arg-type]
    logits = []
    for index in accelerator.prepare_data_loader(rows):
        x = preprocess(split.images[index]).contiguous(memory_format=torch.channels_last)
        logits.append(accelerator.gather_for_metrics(model(x).float()))
    return torch.cat(logits)


def batches(n: int, batch_size: int) -> list[slice]:
    """Consecutive batches of 0..n; a remainder counts as a batch from half a batch on, and is left out below."""
    slices = [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    if len(slices) > 1 and 2 * (slices[-1].stop - slices[-1].start) < batch_size:
        slices.pop()
    return slices


def shares(batch: slice, micro_batches: int, processes: int, process: int) -> list[slice]:
    """One process's share of each micro-batch of a global batch: together they are the batch, whatever the counts."""
    parts = micro_batches * processes
    n = batch.stop - batch.start
    edges = [batch.start + n * part // parts for part in range(parts + 1)]
    mine = range(process, parts, processes)
    return [slice(edges[part], edges[part + 1]) for part in mine]


def train(
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    accelerator: Accelerator,
    folder: Path,
    *,
    seed: int,
    micro_batches: int = 1,
    resume: bool = False,
    save_minutes: float = 10.0,
    title: str = "",
) -> tuple[nn.Module, Progress]:
    """Train a model and return it, unwrapped and with the weights to keep, and the run's progress.

    Args:
        model: on any device; one of `zoo`'s, or any timm model that takes the dataset's images.
        folder: gets `log.csv`, `curves.png` and `states/`.
        seed: with the epoch it fixes the order of the images and their augmentation.
        micro_batches: how many pieces each batch is cut into, to save memory; the batch stays the recipe's.
        resume: go on from the newest state in the folder, where there is one.
        save_minutes: time between two states within an epoch; one is saved at each epoch's end anyhow.

    Raises:
        Interrupted: SIGTERM or Ctrl-C, after saving.
        NonFiniteLossError: naming the step.
        checkpoint.CheckpointError: a state cannot be written, or none can be read.
    """
    device = accelerator.device
    preprocess = Preprocess(model.pretrained_cfg).to(device)
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if accelerator.num_processes > 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # statistics of the whole batch, as on one device
    average = None
    if recipe.ema_decay:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True).to(device)
    model, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
    progress = Progress()
    accelerator.register_for_checkpointing(progress, *([average] if average is not None else []))
    states = folder / "states"
    if accelerator.is_main_process:
        states.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    if resume and (found := checkpoint.load_newest(accelerator, states)):
        accelerator.print(f"Resuming from {found}: epoch {progress.epoch + 1}, batch {progress.batch}")

    train_split, validation = dataset.train.to(device), dataset.validation.to(device)
    plan = batches(len(train_split), recipe.batch_size)
    # This epoch's loss sum and correct answers. What other processes counted before a resume is the main one's.
    totals = torch.zeros(2, dtype=torch.float64, device=device)
    if accelerator.is_main_process:
        totals += torch.tensor([progress.loss_sum, progress.correct], dtype=torch.float64)
    finite = torch.ones((), dtype=torch.bool, device=device)
    bad_step = torch.zeros((), dtype=torch.int64, device=device)
    kept = average if average is not None else model

    def collect() -> None:
        """Move what the processes have counted into the progress; stop at a loss that was not finite."""
        if not finite:
            raise NonFiniteLossError(
                f"the loss is not finite at step {int(bad_step)} "
                f"(epoch {int(bad_step) // len(plan) + 1}, batch {int(bad_step) % len(plan) + 1} of {len(plan)}): "
                f"try a learning rate below {recipe.learning_rate}"
            )
        progress.loss_sum, correct = accelerator.reduce(totals.clone(), "sum").tolist()
        progress.correct = round(correct)

    def save() -> None:
        collect()
        checkpoint.save(accelerator, states, progress.epoch * len(plan) + progress.batch)

    with _signals() as stop:
        while progress.epoch < recipe.epochs:
            draws = draw(len(train_split), recipe.augmentation, seed, progress.epoch).to(device)
            model.train()
            bar = tqdm(
                total=sum(batch.stop - batch.start for batch in plan),
                initial=progress.seen,
                desc=f"Epoch {progress.epoch + 1}/{recipe.epochs}",
                unit="img",
                leave=False,
                disable=None if accelerator.is_local_main_process else True,  # None: off where nobody watches
                mininterval=1.0,
            )
            before, resumed_seconds = time.perf_counter(), progress.epoch_seconds
            last_save = before
            for number in range(progress.batch, len(plan)):
                batch = plan[number]
                step = progress.epoch * len(plan) + number
                rate = learning_rate(recipe, step, len(plan))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                pieces = shares(batch, micro_batches, accelerator.num_processes, accelerator.process_index)
                for last, piece in ((piece is pieces[-1], piece) for piece in pieces):
                    rows = draws.order[piece]
                    labels = train_split.labels[rows]
                    x = augment(
                        train_split.images[rows],
                        draws.uniform[rows],
                        draws.mirrored[rows],
                        recipe.augmentation,
                        preprocess,
                    )
                    if recipe.channels_last:
                        x = x.contiguous(memory_format=torch.channels_last)
                    with nullcontext() if last else accelerator.no_sync(model):
                        outputs = model(x)
                        loss = loss_sum(outputs, labels, recipe.label_smoothing)
                        # DistributedDataParallel takes the mean over processes; the batch's mean is wanted, also
                        # where the processes have shares of differing sizes.
                        accelerator.backward(loss * (accelerator.num_processes / (batch.stop - batch.start)))
                    logits = outputs[0] if isinstance(outputs, tuple) else outputs
                    totals += torch.stack([loss.detach(), (logits.argmax(1) == labels).sum()])
                    fails = finite & ~torch.isfinite(loss.detach())
                    bad_step = torch.where(fails, step, bad_step)
                    finite = finite & ~fails
                optimizer.step()
                optimizer.zero_grad()
                if average is not None:
                    average.update_parameters(accelerator.unwrap_model(model))

                progress.batch = number + 1
                progress.seen += batch.stop - batch.start
                bar.update(batch.stop - batch.start)
                now = time.perf_counter()
                progress.epoch_seconds = resumed_seconds + now - before
                if progress.batch % STEPS_BETWEEN_CHECKS == 0 or accelerator.num_processes == 1:
                    if stop.requested(accelerator):
                        bar.close()
                        save()
                        raise Interrupted(f"stopped in epoch {progress.epoch + 1} at batch {progress.batch}")
                    if _agreed(accelerator, now - last_save > 60 * save_minutes) and progress.batch < len(plan):
                        save()
                        last_save = now
                if progress.batch % STEPS_BETWEEN_CHECKS == 0:
                    collect()
                    bar.set_postfix(loss=f"{progress.loss_sum / progress.seen:.4f}", lr=f"{rate:.2g}")
            bar.close()
            collect()
            progress.train_seconds += progress.epoch_seconds
            logits = predict(kept, validation, preprocess, accelerator)
            progress.rows.append(
                {
                    "epoch": progress.epoch + 1,
                    "learning_rate": learning_rate(recipe, (progress.epoch + 1) * len(plan) - 1, len(plan)),
                    "train_loss": progress.loss_sum / progress.seen,
                    "train_accuracy": 100 * progress.correct / progress.seen,
                    "validation_loss": F.cross_entropy(logits, validation.labels).item(),
                    "validation_accuracy": 100 * (logits.argmax(1) == validation.labels).double().mean().item(),
                    "images_per_second": progress.seen / progress.epoch_seconds,
                    "seconds": progress.epoch_seconds,
                }
            )
            progress.epoch += 1
            progress.batch = progress.seen = progress.correct = 0
            progress.loss_sum = progress.epoch_seconds = 0.0
            totals.zero_()
            save()
            row = progress.rows[-1]
            accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=progress.epoch)
            if accelerator.is_main_process:
                write_log(progress.rows, folder, title)
            accelerator.print(
                f"Epoch {progress.epoch}/{recipe.epochs}: "
                f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.2f} %; "
                f"validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.2f} %; "
                f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s",
                flush=True,
            )
    kept = average.module if average is not None else accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    return kept, progress


def write_log(rows: list[dict[str, float]], folder: Path, title: str) -> None:
    """Write `log.csv` and `curves.png` anew: a resumed run's are those of an uninterrupted one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "log.csv", text.getvalue())
    figures.curves(rows, title, folder / "curves.png")


def _agreed(accelerator: Accelerator, wish: bool) -> bool:
    """Whether any process wishes it: all must take the same turn, or they wait for each other for ever."""
    if accelerator.num_processes == 1:
        return wish
    wishes = torch.tensor(float(wish), device=accelerator.device)
    return bool(accelerator.reduce(wishes, "sum") > 0)


class _Stop:
    def __init__(self) -> None:
        self.came = False

    def requested(self, accelerator: Accelerator) -> bool:
        return _agreed(accelerator, self.came)


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Note the first SIGTERM or Ctrl-C for the loop to act on; a second one acts at once."""
    stop = _Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, frame: FrameType | None) -> None:
        stop.came = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
