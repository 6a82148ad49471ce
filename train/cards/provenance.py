"""Which runs a network came of, and how it is trained once more: the command, and what has to be done before it."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import timm

from train.data.reference import recorded
from train.files import read_json, sha256
from train.training import models, recipes

# Settings of a recipe that a flag of train/fit.py overrides with a value; `--full-size` is another one.
FLAGS = {
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "mixed_precision": "--mixed-precision",
}


def earlier_runs(full_name: str, weights: str | None) -> list[dict[str, Any]]:
    """The runs that produced a set of weights, the oldest first.

    A published model contributes what must survive the replacement of its card; an unpublished run also what is needed
    to repeat it, as `run`. Other weights have no history.

    Args:
        full_name: as `models.tagged` gives it; without a tag the default one's weights are meant.
        weights: as `models.create` takes them.
    """
    if weights == "published":
        cfg = timm.get_pretrained_cfg(full_name)
        folder = models.MODEL_CARDS / f"{full_name.partition('.')[0]}.{cfg.tag if cfg else ''}"
        if not (folder / "metrics.json").is_file():  # another of timm's models
            return []
        return _with_last(read_json(folder / "metrics.json"), folder)
    if weights is None:
        return []
    folder = Path(weights)
    if not all((folder / name).is_file() for name in ("args.json", "metrics.json", "model.safetensors")):
        return []
    run = read_json(folder / "args.json")
    repeats = ("model", "model_kwargs", "dataset", "recipe", "settings", "seed", "overfit", "pretrained", "teacher")
    itself = {key: run.get(key) for key in repeats}
    for key in ("dataset", "pretrained"):  # a path tells nothing elsewhere
        if (path := itself[key]) and Path(path).exists():
            itself[key] = Path(path).resolve().name
    metrics = read_json(folder / "metrics.json")
    metrics |= {"earlier": run.get("earlier", []), "run": itself}
    metrics["safetensors_sha256"] = sha256(folder / "model.safetensors")
    return _with_last(metrics, folder)


def _with_last(metrics: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A run's own earlier ones, and behind them what is kept of itself."""
    kept = ("epochs", "train_seconds", "test_accuracy", "git_commit", "safetensors_sha256", "run")
    last = {"name": folder.resolve().name, **{key: metrics[key] for key in kept if key in metrics}}
    return [*metrics.get("earlier", []), last]


def changed_settings(metrics: dict) -> set[str]:
    """The settings of a run that are others in today's recipe of that name."""
    run = recipes.of_settings(metrics["settings"])
    today = recipes.get(metrics["recipe"], metrics["model"], metrics["dataset"])
    # Through JSON, where tuples within tuples are lists, as they are in what the run has written.
    before, now = map(recipes.as_settings, (run, today))
    changed = {name for name in now if before[name] != now[name]}
    return changed - {"augmentation"} if metrics.get("overfit") else changed


def _beyond_flags(metrics: dict) -> set[str]:
    """Those of them that no flag brings about."""
    beyond = changed_settings(metrics) - FLAGS.keys()
    return beyond - {"sizes"} if _full_size(metrics) else beyond


def _full_size(metrics: dict) -> bool:
    """Whether a run saw the full input size from its first epoch on."""
    return not recipes.of_settings(metrics["settings"]).sizes


def command(metrics: dict) -> str:
    """What trains a published network once more, given a recipe that stands as it did in all that no flag sets."""
    changed, beyond_flags = changed_settings(metrics), _beyond_flags(metrics)
    words = ["--model", metrics["model"]]
    if kwargs := metrics.get("model_kwargs"):
        words += ["--model-kwargs", *(f"{key}={value!r}" for key, value in kwargs.items())]
    words += ["--dataset", metrics["dataset"], "--recipe", metrics["recipe"]]
    for name, flag in FLAGS.items():
        # Before a `git checkout`, today's recipe tells nothing of the one that the flags are to override.
        if name in changed or beyond_flags:
            words += [flag, str(metrics["settings"][name])]
    if _full_size(metrics) and "sizes" in changed:
        words.append("--full-size")
    words += ["--seed", str(metrics["seed"])]
    if metrics.get("overfit"):
        words += ["--overfit", str(metrics["overfit"])]
    if start := metrics["pretrained"]:
        words += ["--pretrained", *([] if start == "published" else [start])]
    if teacher := metrics.get("teacher"):
        words += ["--teacher", teacher["name"]]
        words += ["--teacher-share", f"{teacher['share']:g}", "--temperature", f"{teacher['temperature']:g}"]
    return f"accelerate launch train/fit.py {shlex.join(words)}"


def prerequisites(metrics: dict) -> list[str]:
    """What has to be done before the command gives the published network."""
    sentences = []
    if changed := _beyond_flags(metrics):
        commit = metrics["git_commit"]
        if commit is None:
            stood = "at a commit that is not known"
        elif commit.endswith("+"):
            stood = f"at commit `{commit[:-1]}` with changes that were not committed"
        else:
            stood = f"at commit `{commit}`: `git checkout {commit}` before the command"
        what = listed(sorted(name.replace("_", " ") for name in changed))
        sentences.append(
            f"Recipe `{metrics['recipe']}` has changed since, in {what}. It was as this run had it {stood}."
        )
    if not recorded(metrics["dataset"]).hub_id:
        sentences.append(f"`{metrics['dataset']}` is a folder of pictures that lies where the network was trained.")
    replaces = takes_the_place(metrics)
    origin = (metrics["pretrained"], metrics.get("earlier", []), metrics["git_commit"])
    sentences += _origin("It starts", *origin, replaces)
    if teacher := metrics.get("teacher"):
        # Others may have taken its name since, this network itself among them.
        commit = (metrics["git_commit"] or "").removesuffix("+")
        then = f"at commit `{commit}`" if commit else "then"
        where = f"is what was published {then}" if teacher["published"] else "lies where the network was trained"
        sentences.append(
            f"The teacher `{teacher['name']}` {where} (SHA-256 `{teacher['safetensors_sha256'][:16]}...`, made at "
            f"commit `{teacher['git_commit']}`)."
        )
    return [" ".join(sentences), ""] if sentences else []


def takes_the_place(metrics: dict) -> bool:
    """Whether a network was trained from published weights of its own name, whose place it has taken since."""
    earlier = metrics.get("earlier", [])
    own = f"{metrics['model'].partition('.')[0]}.{recorded(metrics['dataset']).tag}"
    return metrics["pretrained"] == "published" and bool(earlier) and earlier[-1]["name"] == own


def _origin(
    who: str, pretrained: str | None, earlier: list[dict], commit: str | None, replaces: bool = False
) -> Iterator[str]:
    """Where the weights that a run started from are to be had: a sentence, or one for each run back to a known one."""
    if pretrained == "published" and earlier:
        commit = (commit or "").removesuffix("+")
        which = "that were published before these" if replaces else "that were published then"
        yield (
            f"{who} from the weights of `{earlier[-1]['name']}` {which} (SHA-256 "
            f"`{earlier[-1]['safetensors_sha256'][:16]}...`)"
            f"{f', as they are at commit `{commit}`: `git checkout {commit}` before the command' if commit else ''}."
        )
    elif earlier and "run" in earlier[-1]:
        *before, last = earlier
        yield (
            f"{who} from what a run left that is not published, `{command(last['run'])}` at commit "
            f"`{last['git_commit']}`, and calls its folder `{last['name']}`."
        )
        yield from _origin("That one started", last["run"]["pretrained"], before, last["git_commit"])
    elif pretrained not in (None, "published"):
        yield f"The weights `{pretrained}` lie where the network was trained."


def listed(words: Iterable[str]) -> str:
    """a, b -> "a and b"; a, b, c -> "a, b and c"."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
