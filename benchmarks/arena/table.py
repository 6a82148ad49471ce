"""Measurements as tables in Markdown. Ratios are those of one turn, as the speed changes; the median is shown."""

import statistics

from .peers import OURS

Row = dict[str, float]
Turn = dict[str, Row]


def limit(batch: int) -> str:
    """Name the row of the bare loop."""
    return f"bare loop, batch 1 / {batch}"


def core_hours(seconds: float, images: float) -> float:
    """Return core-hours for a million images.

    Args:
        seconds: of cores, that some images took.
        images: their number.
    """
    return seconds / images * 1e6 / 3600 if images else float("nan")


def ratios(turn: Turn, bare: str) -> None:
    """Add to the rows of a turn what share of the bare loop's rate they reach, and how many times theirs is ours."""
    ours = turn.get(OURS)
    for name, row in turn.items():
        row["to_bare"] = row["many"] / turn[bare]["many"]
        if ours and name not in (bare, OURS):
            for key in ("one", "many", "batches"):
                row[f"ours_{key}"] = ours[key] / row[key] if row[key] else float("nan")
            row["ours_hours"] = row["hours"] / ours["hours"] if ours["hours"] else float("nan")
    if ours:
        ours["median_to_bare"] = ours["median"] / turn[bare]["median"]
        for key in ("queued", "direct"):
            if key in ours:
                ours[f"{key}_to_one"] = ours[key] / ours["one"]


def middle(turns: list[Turn], name: str, key: str, form: str = ".0f") -> str:
    """Format the median of a measurement over the turns; empty where there is none."""
    values = [turn[name][key] for turn in turns if key in turn[name]]
    return format(statistics.median(values), form) if values else ""


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tables(turns: list[Turn], connections: int, batch: int) -> str:
    """Format two tables, of speed and of cost, and what was measured of this project's server alone."""

    def cell(name: str, key: str, form: str = ".0f", times: str = "") -> str:
        text = middle(turns, name, key, form)
        return text + times if text else ""

    names = list(turns[0])
    speed = ["", "1 connection: requests/s", "p50, ms", "p99, ms", f"{connections} connections: requests/s"]
    speed += ["p50, ms", "p99, ms", "failed", "share of the bare loop", f"ours / theirs, at 1 / {connections}"]
    cost = ["", f"images/s in batches of {batch}", "ours / theirs", "core-hours a million images, one a request"]
    cost += [f"in batches of {batch}", "theirs / ours, one a request", "memory, MB", "start, s"]
    lines = [line(speed), "|---" * len(speed) + "|"]
    for name in names:
        pair = [cell(name, "ours_one", ".2f", "x"), cell(name, "ours_many", ".2f", "x")]
        cells = [name, cell(name, "one"), cell(name, "median", ".2f"), cell(name, "p99_one", ".1f"), cell(name, "many")]
        cells += [cell(name, "median_many"), cell(name, "p99"), cell(name, "failed"), cell(name, "to_bare", ".2f")]
        lines.append(line([*cells, " / ".join(filter(None, pair))]))
    lines += ["", line(cost), "|---" * len(cost) + "|"]
    for name in names:
        cells = [name, cell(name, "batches"), cell(name, "ours_batches", ".2f", "x"), cell(name, "hours", ".2f")]
        cells += [cell(name, "hours_batches", ".2f"), cell(name, "ours_hours", ".2f", "x"), cell(name, "memory")]
        lines.append(line([*cells, cell(name, "start", ".1f")]))
    if OURS in turns[0]:
        lines += ["", alone(turns, connections)]
    return "\n".join(lines)


def alone(turns: list[Turn], connections: int) -> str:
    """Say what was measured of this project's server alone."""
    shares = ", ".join(f"{turn[OURS]['to_bare']:.2f}" for turn in turns)
    text = (
        f"Share of the bare loop's rate at {connections} connections, per turn: {shares}. The median latency of one "
        f"connection is {middle(turns, OURS, 'median_to_bare', '.2f')} times the bare loop's."
    )
    if "queued" not in turns[0][OURS]:
        return text
    return text + (
        f" Calls of the app, 1 connection: {middle(turns, OURS, 'queued')} a second in two requests each, "
        f"{middle(turns, OURS, 'queued_to_one', '.2f')} of the requests for /classify, and "
        f"{middle(turns, OURS, 'direct')} at once, {middle(turns, OURS, 'direct_to_one', '.2f')}; "
        f"{middle(turns, OURS, 'app_failed')} failed."
    )


def better(turns: list[Turn], bare: str) -> list[str]:
    """Name what a peer does better than this project's server, in the median of the turns."""
    words = {"one": "requests/s at 1 connection", "many": "requests/s at many", "batches": "images/s in batches"}
    words |= {"hours": "core-hours"}
    found = []
    for name in turns[0]:
        if name == bare or name.startswith(OURS) or OURS not in turns[0]:
            continue
        for key, what in words.items():
            ratio = statistics.median(turn[name][f"ours_{key}"] for turn in turns)
            if ratio < 1:
                found.append(f"{name}: {what}, ours / theirs {ratio:.2f}")
    return found
