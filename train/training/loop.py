"""The training loop, from top to bottom: set up, then for each epoch its steps, its validation, its log and state."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from train.data.augment import Draws, augment, draw
from train.data.batches import batches, shares
from train.data.loading import Dataset
from train.data.preprocess import Preprocess
from train.speed import convolution, graphs, norms
from train.training import fine_tuning
from train.training.averaging import Averaging
from train.training.distillation import Teacher
from train.training.health import Health
from train.training.models import pretrained_cfg
from train.training.objective import loss_sum, make_optimizer
from train.training.progress import Progress, Tally
from train.training.recipes import Recipe, input_size, learning_rate
from train.training.results import measure, plots
from train.training.results.predict import predict
from train.training.runs import checkpoint, epoch_log, interrupt
from train.training.runs.best import Best

# To read a number off a GPU, or to ask the processes of other GPUs, makes the host wait: not every step.
STEPS_BETWEEN_CHECKS = 50
# Of a short run more often: `steps.csv` has at least as many rows, where there are as many steps.
ROWS_OF_STEPS = 20
# Share of `save_minutes`: how old the newest state must be at an epoch's end for another one to be saved.
SHARE_AT_EPOCH_END = 0.1


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is done.

    Attributes:
        seed: fixes, with the epoch, the order of the images and their augmentation.
        micro_batches: how many pieces each batch is cut into, to save memory; the batch stays the recipe's.
        eval_batch_size: images that each process validates on at a time; None as `predict` has it.
        resume: continue from the newest state in the folder, where there is one.
        save_minutes: time between two states; at the end of an epoch, a tenth of it is enough.
        kept: save a state and the curves at the end too.
        compiled: compile the model first.
        cuda_graphs: launch each step as one CUDA graph, where that is possible (`graphs.possible`).
        title: of the plots.
    """

    seed: int
    micro_batches: int = 1
    eval_batch_size: int | None = None
    resume: bool = False
    save_minutes: float = 10.0
    kept: bool = True
    compiled: bool = False
    cuda_graphs: bool = True
    title: str = ""


class Run:
    """One training run through Accelerate, resumable at every step.

    Args:
        model: on any device; one of `zoo`'s, or any timm model that takes the dataset's images.
        folder: gets `log.csv`, `steps.csv`, `curves.png` and `states/`.
        teacher: to learn from beside the labels.

    Attributes:
        start_accuracy: the validation accuracy in percent of a classifier that was fitted to frozen features; the
            training ends at least there (`averaging`). None without one.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        recipe: Recipe,
        accelerator: Accelerator,
        folder: Path,
        options: Options,
        teacher: Teacher | None = None,
    ) -> None:
        device = accelerator.device
        self.recipe, self.accelerator, self.folder, self.options = recipe, accelerator, folder, options
        self.images, self.validation = dataset.train.to(device), dataset.validation.to(device)
        self.batches = batches(len(self.images), recipe.batch_size)
        self.full_size = Preprocess(pretrained_cfg(model)).to(device)
        # Not through `accelerator.prepare`: the teacher would be part of every state.
        self.teacher = None if teacher is None else teacher.to(device)
        for network in [model] if teacher is None else [model, teacher]:
            # Faster in every precision: a GPU's tensor cores would convert to it at each layer.
            network.to(memory_format=torch.channels_last)
            if options.compiled:
                network.compile()
            elif device.type == "cpu":
                convolution.use_faster(network)
        if accelerator.num_processes > 1:
            model = norms.synchronize(model, device)
        self.model, self.optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
        self.tally = Tally(accelerator, len(self.batches), recipe.learning_rate)
        graphed = options.cuda_graphs and graphs.possible(accelerator)
        self.steps = graphs.GraphedSteps(device, recipe.batch_size) if graphed else graphs.Steps()
        self.progress = Progress()
        self.total_steps = recipe.epochs * len(self.batches)
        self.steps_between_checks = max(1, min(STEPS_BETWEEN_CHECKS, self.total_steps // ROWS_OF_STEPS))
        classes = len(dataset.class_names)
        self.health = Health(self.images.labels, self.validation.labels, classes, recipe, len(self.batches))
        self.best = Best(folder / "states" / "best.safetensors")
        accelerator.register_for_checkpointing(self.progress)
        self.saved = time.monotonic()
        torch.backends.cudnn.benchmark = True  # all batches have one size
        self.start_accuracy: float | None = None
        self.averaging: Averaging | None = None
        if recipe.fit_classifier and fine_tuning.classifier(accelerator.unwrap_model(self.model)) is not None:
            self.start_accuracy = self.validation_metrics()["validation_accuracy"]
            if not recipe.freeze:
                self.averaging = Averaging(accelerator.unwrap_model(self.model), self.start_accuracy)

    def train(self) -> nn.Module:
        """Train to the last epoch and return the model, unwrapped, with the weights to keep.

        Raises:
            graphs.GraphError: something in the model cannot be captured.
            interrupt.Interrupted: SIGTERM or Ctrl-C came; the state is saved.
            LossError: it became infinite or diverged; naming the step.
            checkpoint.CheckpointError: a state cannot be written, or none can be read.
        """
        with interrupt.on_signals() as stop:
            self.begin()
            while self.progress.epoch < self.recipe.epochs:
                self.epoch(stop)
                self.end_epoch(self.validated())
        return self.finish()

    def finish(self) -> nn.Module:
        """Return the trained model as it will be used: without mixed precision's wrapper, with PyTorch's operators."""
        if warning := self.health.at_end(self.progress.rows):
            self.accelerator.print(warning, flush=True)
        model: nn.Module = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        convolution.use_own(model)
        norms.unsynchronize(model)
        return model

    def begin(self) -> None:
        """Make the folder for the states, or load the newest state where the run is to be resumed."""
        states, progress = self.folder / "states", self.progress
        if self.accelerator.is_main_process:
            states.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        if self.options.resume and (found := checkpoint.load_newest(self.accelerator, states)):
            self.accelerator.print(f"Resuming from {found}: epoch {progress.epoch + 1}, batch {progress.batch + 1}")
            self.best.load(progress.rows)
        if (commit := measure.git_commit()) not in progress.commits:
            progress.commits.append(commit)

    def epoch(self, stop: interrupt.Stop) -> None:
        """Train on the batches of the current epoch, from the next one on."""
        accelerator, recipe, progress = self.accelerator, self.recipe, self.progress
        draws = draw(len(self.images), recipe.augmentation, self.options.seed, progress.epoch).to(accelerator.device)
        draws = self.steps.draws(draws)
        preprocess = self.preprocess()
        self.tell_of_size(preprocess.size)
        self.tally.begin(progress)
        self.model.train()
        if recipe.keep_statistics or recipe.freeze:
            fine_tuning.keep_statistics(self.model)
        bar = tqdm(
            total=self.batches[-1].stop,
            initial=progress.seen,
            desc=f"Epoch {progress.epoch + 1}/{recipe.epochs}",
            unit="img",
            leave=False,
            disable=None if accelerator.is_local_main_process else True,  # None: off without a terminal
            mininterval=1.0,
        )
        started, earlier = time.perf_counter(), progress.epoch_seconds
        with bar:
            for number in range(progress.batch, len(self.batches)):
                batch, step = self.batches[number], progress.epoch * len(self.batches) + number
                self.step(step, batch, draws, preprocess)
                progress.batch, progress.seen = number + 1, batch.stop
                progress.epoch_seconds = earlier + time.perf_counter() - started
                bar.update(batch.stop - batch.start)
                check = (step + 1) % self.steps_between_checks == 0 or step + 1 == self.total_steps
                if check:
                    self.tally.collect(progress)
                    progress.log_step(step + 1, learning_rate(recipe, step, len(self.batches)))
                    self.health.check(progress.steps)
                    bar.set_postfix(loss=f"{progress.loss_sum / progress.seen:.4f}")
                # On CPUs a step is long enough to ask at each: torchrun waits for half a minute, not for 50 steps.
                if check or accelerator.num_processes == 1 or accelerator.device.type == "cpu":
                    if self.any_process(stop.requested):
                        self.save()
                        raise interrupt.Interrupted(
                            f"stopped in epoch {progress.epoch + 1} after batch {progress.batch}"
                        )
                    if self.save_due():
                        self.save()
            self.tally.collect(progress)
            # Only now a GPU has finished the steps.
            progress.epoch_seconds = earlier + time.perf_counter() - started

    def step(self, step: int, batch: slice, draws: Draws, preprocess: Preprocess) -> None:
        """Take one optimiser step on a global batch, of which this process computes its share."""
        accelerator, recipe = self.accelerator, self.recipe
        for i, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.steps.rate(i, group["lr_scale"] * learning_rate(recipe, step, len(self.batches)))
        self.tally.step.fill_(step)
        pieces = shares(batch, self.options.micro_batches, accelerator.num_processes, accelerator.process_index)

        def take(batch_rows: Tensor) -> None:
            for i, piece in enumerate(pieces):
                rows = batch_rows[piece.start - batch.start : piece.stop - batch.start]
                uniform, mirrored, labels = draws.uniform[rows], draws.mirrored[rows], self.images.labels[rows]
                x = augment(self.images.images[rows], uniform, mirrored, recipe.augmentation, preprocess)
                x = x.contiguous(memory_format=torch.channels_last)
                soft_targets = None
                if self.teacher is not None:
                    with accelerator.autocast():
                        soft_targets = self.teacher(x)
                with nullcontext() if i == len(pieces) - 1 else accelerator.no_sync(self.model):
                    outputs = self.model(x)
                    loss = loss_sum(outputs, labels, recipe.label_smoothing, soft_targets)
                    # DistributedDataParallel averages over the processes. We want the mean over the batch, also where
                    # the processes' shares differ in size.
                    accelerator.backward(loss * (accelerator.num_processes / len(batch_rows)))
                self.tally.add(loss, outputs[0] if isinstance(outputs, tuple) else outputs, labels)
            if recipe.clip_norm:
                accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()

        self.steps.run(take, draws.order[batch], preprocess.size)

    def validated(self) -> dict[str, float]:
        """Compute the row of `log.csv` for the epoch that ends, with the weights to keep."""
        if self.averaging is None:
            return self.validate()
        return self.averaging.choose(self.accelerator.unwrap_model(self.model), self.validate)

    def validate(self) -> dict[str, float]:
        """Compute it with the weights as they are."""
        progress, steps = self.progress, len(self.batches)
        return {
            "epoch": progress.epoch + 1,
            "learning_rate": learning_rate(self.recipe, (progress.epoch + 1) * steps - 1, steps),
            "train_loss": progress.loss_sum / progress.seen,
            "train_accuracy": 100 * progress.correct / progress.seen,
            **self.validation_metrics(),
            "images_per_second": progress.seen / progress.epoch_seconds,
            "seconds": progress.epoch_seconds,
        }

    def validation_metrics(self) -> dict[str, float]:
        """Compute loss and accuracy on the validation split."""
        # At the size of the training: at another one, a network shows little of what it has learnt.
        batch = self.options.eval_batch_size
        logits = predict(self.model, self.validation, self.preprocess(), self.accelerator, batch)
        labels, smoothed = self.validation.labels, {}
        if alpha := self.recipe.label_smoothing:  # as in training, and in the paper's logs of its improved networks
            smoothed["validation_loss_smoothed"] = F.cross_entropy(logits, labels, label_smoothing=alpha).item()
        return {
            "validation_loss": F.cross_entropy(logits, labels).item(),
            **smoothed,
            "validation_accuracy": 100 * (logits.argmax(1) == labels).sum().item() / len(logits),
        }

    def end_epoch(self, row: dict[str, float]) -> None:
        """Move on to the next epoch: write the log; where a state is due, draw the curves and save."""
        accelerator, progress, epochs = self.accelerator, self.progress, self.recipe.epochs
        progress.end_epoch(row)
        model = accelerator.unwrap_model(self.model)
        self.best.offer(model, progress.rows)
        if self.averaging is not None and progress.epoch < epochs:
            self.averaging.restore(model)
        save = self.save_due(SHARE_AT_EPOCH_END) or (self.options.kept and progress.epoch == epochs)
        if accelerator.is_main_process:  # before saving: a run that is cut off in between writes them again
            epoch_log.write(progress.rows, self.folder / "log.csv")
            self.write_steps()
            if save:  # drawing takes time too
                steps = [row | {"epoch": row["step"] / len(self.batches)} for row in progress.steps]
                plots.curves(progress.rows, self.options.title, self.folder / "curves.png", steps)
        if save:
            self.save()
        accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=progress.epoch)
        accelerator.print(
            f"Epoch {progress.epoch}/{epochs}: "
            f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.2f} %; "
            f"validation loss {row['validation_loss']:.4f}, accuracy {row['validation_accuracy']:.2f} %; "
            f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s{self.time_left()}",
            flush=True,
        )
        if warning := self.health.after_epoch(progress.rows):
            accelerator.print(warning, flush=True)

    def tell_of_size(self, size: tuple[int, int]) -> None:
        """Say where an epoch begins with another input size than the one before."""
        progress = self.progress
        before = input_size(self.recipe, progress.epoch - 1, self.full_size.size) if progress.epoch else None
        if progress.batch == 0 and size != (before or self.full_size.size):
            self.accelerator.print(
                f"Input size from epoch {progress.epoch + 1} on: {size[1]}x{size[0]} pixels", flush=True
            )

    def write_steps(self) -> None:
        """Write the training loss within the epochs so far."""
        if self.progress.steps:
            epoch_log.write(self.progress.steps, self.folder / "steps.csv")

    def preprocess(self) -> Preprocess:
        """Return the preprocessing to the input size of the current epoch."""
        return self.full_size.at(input_size(self.recipe, self.progress.epoch, self.full_size.size))

    def save_due(self, share: float = 1.0) -> bool:
        """Tell whether a share of the time between two states has passed, in any of the processes."""
        return self.any_process(time.monotonic() - self.saved > share * 60 * self.options.save_minutes)

    def save(self) -> None:
        """Save a state of the run."""
        if self.progress.batch:
            self.tally.collect(self.progress)
        step = self.progress.epoch * len(self.batches) + self.progress.batch
        if self.accelerator.is_main_process:
            self.write_steps()
            self.best.write()
        checkpoint.save(self.accelerator, self.folder / "states", step)
        self.saved = time.monotonic()

    def any_process(self, wish: bool) -> bool:
        """Tell whether any process wishes it: all must do the same, or they wait for each other forever."""
        if self.accelerator.num_processes == 1:
            return wish
        return bool(self.accelerator.reduce(torch.tensor(float(wish), device=self.accelerator.device), "sum") > 0)

    def time_left(self) -> str:
        """Estimate it by the last epoch's time for a pixel: later epochs may have larger images."""
        progress, epochs, size = self.progress, self.recipe.epochs, self.full_size.size
        pixels = [math.prod(input_size(self.recipe, epoch, size)) for epoch in range(epochs)]
        seconds = progress.rows[-1]["seconds"] * sum(pixels[progress.epoch :]) / pixels[progress.epoch - 1]
        return f"; about {seconds / 60:.0f} min left" if progress.epoch < epochs else ""
