"""How a published network is trained once more: the command, and what has to be done before it."""

import shlex
from collections.abc import Iterator

from train import data, recipes

# Settings of a recipe that a flag of train/fit.py overrides.
FLAGS = {
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "learning_rate": "--learning-rate",
    "mixed_precision": "--mixed-precision",
}


def changed_settings(metrics: dict) -> set[str]:
    """The settings of a run that are others in today's recipe of that name."""
    run = recipes.of_settings(metrics["settings"])
    today = recipes.get(metrics["recipe"], metrics["model"], metrics["dataset"])
    # Through JSON, where tuples within tuples are lists, as they are in what the run has written.
    before, now = map(recipes.as_settings, (run, today))
    changed = {name for name in now if before[name] != now[name]}
    return changed - {"augmentation"} if metrics.get("overfit") else changed


def command(metrics: dict) -> str:
    """What trains a published network once more, given a recipe that stands as it did in all that no flag sets."""
    changed = changed_settings(metrics)
    words = ["--model", metrics["model"]]
    if kwargs := metrics.get("model_kwargs"):
        words += ["--model-kwargs", *(f"{key}={value!r}" for key, value in kwargs.items())]
    words += ["--dataset", metrics["dataset"], "--recipe", metrics["recipe"]]
    for name, flag in FLAGS.items():
        # Before a `git checkout`, today's recipe tells nothing of the one that the flags are to override.
        if name in changed or changed - FLAGS.keys():
            words += [flag, str(metrics["settings"][name])]
    words += ["--seed", str(metrics["seed"])]
    if metrics.get("overfit"):
        words += ["--overfit", str(metrics["overfit"])]
    if start := metrics["pretrained"]:
        words += ["--pretrained", *([] if start == "published" else [start])]
    if teacher := metrics.get("teacher"):
        words += ["--teacher", teacher["name"]]
        words += ["--teacher-share", f"{teacher['share']:g}", "--temperature", f"{teacher['temperature']:g}"]
    return f"accelerate launch train/fit.py {shlex.join(words)}"


def reservations(metrics: dict) -> list[str]:
    """What has to be done before the command gives the published network."""
    sentences = []
    if changed := changed_settings(metrics) - FLAGS.keys():
        commit = metrics["git_commit"]
        if commit is None:
            stood = "at a commit that is not known"
        elif commit.endswith("+"):
            stood = f"at commit `{commit[:-1]}` with changes that were not committed"
        else:
            stood = f"at commit `{commit}`: `git checkout {commit}` before the command"
        sentences.append(
            f"Recipe `{metrics['recipe']}` has changed since, in {_and(changed)}. It was as this run had it {stood}."
        )
    if not data.hub_id(metrics["dataset"]):
        sentences.append(f"`{metrics['dataset']}` is a folder of pictures that lies where the network was trained.")
    sentences += _origin("It starts", metrics["pretrained"], metrics.get("earlier", []), metrics["git_commit"])
    if teacher := metrics.get("teacher"):
        where = "is published" if teacher["published"] else "lies where the network was trained"
        sentences.append(
            f"The teacher `{teacher['name']}` {where} (SHA-256 `{teacher['safetensors_sha256'][:16]}...`, made at "
            f"commit `{teacher['git_commit']}`)."
        )
    return [" ".join(sentences), ""] if sentences else []


def _origin(who: str, pretrained: str | None, earlier: list[dict], commit: str | None) -> Iterator[str]:
    """Where the weights that a run started from are to be had: a sentence, or one for each run back to a known one."""
    if pretrained == "published" and earlier:
        commit = (commit or "").removesuffix("+")
        yield (
            f"{who} from the weights of `{earlier[-1]['name']}` that were published before these (SHA-256 "
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


def _and(names: set[str]) -> str:
    *most, last = sorted(name.replace("_", " ") for name in names)
    return f"{', '.join(most)} and {last}" if most else last
