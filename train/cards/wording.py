"""A run's settings and costs in words, for model cards, the README's table and the report."""

from train.data.augment import Augmentation
from train.records import CardMetrics, RunMetrics
from train.training import recipes

__all__ = [
    "augmentation", "duration", "epoch_count", "epochs", "fine_tuning", "input_sizes", "learning_rate", "memory",
    "precision", "recipe_and_teacher", "size", "throughput",
]  # fmt: skip

FLIPS = {"random": "random horizontal flip", "alternating": "horizontal flip in every other epoch"}


def epochs(metrics: CardMetrics) -> str:
    """Return the epochs of all runs that led to a card's weights, the oldest first: "44 + 36"."""
    return " + ".join(map(str, [*(run.epochs for run in metrics.earlier), metrics.epochs]))


def recipe_and_teacher(metrics: CardMetrics) -> str:
    """Return the recipe of a card's last run, as in "`fast` with teacher `improved_vgg16.cifar10`"."""
    return f"`{metrics.recipe}`" + (f" with teacher `{metrics.teacher.name}`" if metrics.teacher else "")


def precision(metrics: RunMetrics) -> str:
    """Return the precision that a run was computed in."""
    return "float32" if metrics.mixed_precision == "no" else f"{metrics.mixed_precision} mixed precision"


def augmentation(ranges: Augmentation) -> list[str]:
    """Return a phrase for each augmentation that a run applied. Every field of `Augmentation` has one."""
    phrases = []
    if ranges.flip != "none":
        phrases.append(FLIPS[ranges.flip])
    if ranges.rotation:
        phrases.append(f"rotation by up to {ranges.rotation:g} degrees")
    if ranges.shear:
        phrases.append(f"shear by up to {ranges.shear:g} degrees")
    if ranges.shift:
        phrases.append(f"shift by up to {100 * ranges.shift:g} % of the side")
    if ranges.scale != (1, 1):
        phrases.append("scale {:g} to {:g}".format(*ranges.scale))
    if ranges.brightness:
        phrases.append(f"brightness changed by up to {100 * ranges.brightness:g} %")
    if ranges.contrast:
        phrases.append(f"contrast changed by up to {100 * ranges.contrast:g} %")
    if ranges.saturation:
        phrases.append(f"saturation changed by up to {100 * ranges.saturation:g} %")
    if ranges.cutout:
        phrases.append(f"Cutout of a square of {100 * ranges.cutout:g} % of the side")
    return phrases


def epoch_count(number: int) -> str:
    """Return a number of epochs: "1 epoch", "24 epochs"."""
    return f"{number} epoch" if number == 1 else f"{number} epochs"


def learning_rate(recipe: recipes.Recipe) -> str:
    """Return the schedule of the learning rate."""
    if recipe.schedule == "one-cycle":
        peak = f"one cycle with a peak of {recipe.learning_rate:g}"
        usual = recipe.warm_up == recipes.Recipe.warm_up
        return peak if usual else f"{peak}, reached after {100 * recipe.warm_up:g} % of the steps"
    if recipe.schedule == "milestones":
        milestones = ", ".join(f"{milestone:g}" for milestone in recipe.milestones)
        return f"{recipe.learning_rate:g}, divided by ten at the start of epochs {milestones}"
    return f"{recipe.learning_rate:g}, constant"


def fine_tuning(recipe: recipes.Recipe) -> list[str]:
    """Return a phrase for each way in which a run treated the weights that it started from."""
    phrases = []
    if recipe.fit_classifier:
        phrases.append("the classifier was first fitted to the features of the initial weights")
    if recipe.freeze:
        phrases.append("all other layers were frozen")
    if recipe.keep_statistics:
        phrases.append("BatchNorm kept the initial running statistics")
    return phrases


def input_sizes(recipe: recipes.Recipe, full: tuple[int, int]) -> str:
    """Return the input sizes of a run, as in "32x32 until 50 % of the epochs, then 64x64"; `full` is the last one."""
    stages = []
    for until, _ in recipe.sizes:
        last_epoch = int(until * recipe.epochs) - 1
        stages.append(f"{size(recipes.input_size(recipe, last_epoch, full))} until {100 * until:g} % of the epochs")
    last = size(full) + (" instead of the network's default" if recipe.side else "")
    return ", ".join([*stages, f"then {last}"]) if stages else last


def size(height_and_width: tuple[int, int]) -> str:
    """Format a size in pixels as width x height: "32x32"."""
    height, width = height_and_width
    return f"{width}x{height}"


def throughput(images_per_second: float) -> str:
    """Return a throughput, with a decimal only where it is small."""
    return f"{images_per_second:.{0 if images_per_second >= 10 else 1}f} images/s"


def memory(metrics: RunMetrics) -> str:
    """Return the peak memory of a run."""
    host = f"{metrics.host_memory_bytes / 1e9:.1f} GB of memory"
    if not metrics.device_memory_bytes:
        return host
    return f"{host}, {metrics.device_memory_bytes / 1e9:.1f} GB of GPU memory"


def duration(seconds: float) -> str:
    """Return a time to the minute, as in "2 h 14 min"; in seconds where it is shorter."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
