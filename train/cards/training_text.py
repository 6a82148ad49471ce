"""What a card says of how its network was trained."""

from collections.abc import Iterator

from train.cards import provenance
from train.training import recipes


def section(metrics: dict, config: dict) -> list[str]:
    """The card's lines under "Training"."""
    recipe = recipes.of_settings(metrics["settings"])
    earlier = metrics.get("earlier", [])
    source = earlier[-1]["name"] if earlier else metrics["model"]
    start = {None: "random weights", "published": f"the published weights of `{source}`"}.get(
        metrics["pretrained"], f"the weights `{metrics['pretrained']}`"
    )
    if earlier:
        runs = ", then ".join(f"{run['epochs']} epochs in {_time(run['train_seconds'])}" for run in earlier)
        before = " as they were before" if provenance.takes_the_place(metrics) else ""
        start += f"{before} ({runs}; {earlier[-1]['test_accuracy']:.2f} % on the test split)"
    which = f"The last of {len(earlier) + 1} runs" if earlier else "One run"
    distilled = ""
    if teacher := metrics.get("teacher"):
        distilled = (
            f" The loss is {1 - teacher['share']:g} of the cross-entropy with the labels and {teacher['share']:g} of "
            f"the divergence from the softened outputs of `{teacher['name']}` ({teacher['test_accuracy']:.2f} % on the "
            f"test split) on each augmented image, at a temperature of {teacher['temperature']:g}."
        )
    scale, clip = recipe.linear_lr_scale, recipe.clip_norm
    return [
        "## Training",
        "",
        "```",
        provenance.command(metrics),
        "```",
        "",
        *provenance.prerequisites(metrics),
        f"{which}, seed {metrics['seed']}, from {start}, {metrics['epochs']} epochs of {metrics['train_images']:,} "
        f"images; the weights are those after the last epoch. Recipe `{metrics['recipe']}`: batches of "
        f"{recipe.batch_size}, {_rate(recipe)}{f' ({scale:g} of it for linear layers)' if scale != 1 else ''}, "
        f"SGD with momentum {recipe.momentum:g}{' (Nesterov)' if recipe.nesterov else ''}, weight decay "
        f"{recipe.weight_decay:g}{'' if recipe.decay_norms_and_biases else ' on matrices only'}"
        f"{f', gradients clipped to a norm of {clip:g}' if clip else ''}, label smoothing {recipe.label_smoothing:g}"
        f"{_sizes(recipe, config)}; augmentation: {', '.join(augmentation(recipe.augmentation)) or 'none'}.{distilled}",
        "",
        f"Hardware: {metrics['device']}, CPU threads: {metrics['threads']}; {_time(metrics['train_seconds'])} of "
        f"training ({_images_per_second(metrics['images_per_second'])} images/s) in {_gigabytes(metrics)}, "
        f"{precision(metrics)}. "
        f"torch {metrics['versions']['torch']}, timm {metrics['versions']['timm']}, commit `{metrics['git_commit']}`"
        f"{''.join(f', resumed at `{commit}`' for commit in metrics.get('resumed_at_commits', []))}.",
        "",
    ]


def all_epochs(metrics: dict) -> str:
    """The epochs of all runs that a card's weights came of, the oldest first: "44 + 36"."""
    return " + ".join(str(run["epochs"]) for run in (*metrics.get("earlier", []), metrics))


def recipe_and_teacher(metrics: dict) -> str:
    """By which recipe and teacher a card's weights were trained: "`fast`, taught by `improved_vgg16.cifar10`"."""
    teacher = metrics.get("teacher")
    return f"`{metrics['recipe']}`" + (f", taught by `{teacher['name']}`" if teacher else "")


def precision(metrics: dict) -> str:
    """What a run computed in."""
    mixed = metrics["mixed_precision"]
    return "float32" if mixed == "no" else f"{mixed} mixed precision"


def augmentation(drawn: recipes.Augmentation) -> Iterator[str]:
    """What is done to the images of a run."""
    if drawn.flip != "none":
        yield {"random": "random horizontal flip", "alternating": "horizontal flip in every other epoch"}[drawn.flip]
    for name, degrees in (("rotation", drawn.rotation), ("shear", drawn.shear)):
        if degrees:
            yield f"{name} by up to {degrees:g} degrees"
    if drawn.shift:
        yield f"shift by up to {100 * drawn.shift:g} % of the side"
    if drawn.scale != (1, 1):
        yield "scale {:g} to {:g}".format(*drawn.scale)
    for name in ("brightness", "contrast", "saturation"):
        if share := getattr(drawn, name):
            yield f"{name} changed by up to {100 * share:g} %"
    if drawn.cutout:
        yield f"Cutout of a square of {100 * drawn.cutout:g} % of the side"


def _rate(recipe: recipes.Recipe) -> str:
    """The learning rate's course."""
    if recipe.schedule == "one-cycle":
        return f"one cycle of the learning rate up to {recipe.learning_rate:g}"
    if recipe.schedule == "milestones":
        epochs = ", ".join(map(str, recipe.milestones))
        return f"learning rate {recipe.learning_rate:g}, a further tenth of it from epochs {epochs} on"
    return f"fixed learning rate {recipe.learning_rate:g}"


def _sizes(recipe: recipes.Recipe, config: dict) -> str:
    """How the input grows, where it does."""
    _, *full = config["pretrained_cfg"]["input_size"]
    stages = []
    for until, _ in recipe.sizes:
        height, width = recipes.input_size(recipe, int(until * recipe.epochs) - 1, (full[0], full[1]))
        stages.append(f"{width}x{height} until {100 * until:g} % of the epochs")
    return f"; input {', '.join(stages)}, then {full[1]}x{full[0]}" if stages else ""


def _images_per_second(value: float) -> str:
    return f"{value:.{0 if value >= 10 else 1}f}"


def _gigabytes(metrics: dict) -> str:
    memory = f"{metrics['host_memory_bytes'] / 1e9:.1f} GB of memory"
    if metrics["device_memory_bytes"]:
        memory += f" and {metrics['device_memory_bytes'] / 1e9:.1f} GB of the GPU's"
    return memory


def _time(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
