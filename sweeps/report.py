"""What is left of a sweep for people: leaderboard, table, picture."""

import csv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from senet.files import write_atomically
from sweeps.progress import percent
from sweeps.status import Status
from sweeps.sweep import Sweep

_COLUMNS = ("joint", "original_topk", "streaming_topk", "base_topk", "retention")
_SHOWN = 10


def ranked(status: Status) -> list[Status]:
    """Complete trials, best first."""
    complete = [trial for trial in status["trials"] if trial["state"] == "complete"]
    return sorted(complete, key=lambda trial: -trial["metrics"]["joint"])


def write_report(sweep: Sweep, status: Status) -> list[Path]:
    """Write leaderboard.csv, report.md and result.png into the sweep's folder; returns the files."""
    trials = ranked(status)
    paths = sorted({path for trial in trials for path in trial["params"]})
    table = sweep.folder / "leaderboard.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["trial", "seed", *_COLUMNS, "seconds", "base_reused", *paths])
        for trial in trials:
            numbers = [trial["metrics"][name] for name in _COLUMNS]
            params = [trial["params"].get(path) for path in paths]
            told = [round(trial["seconds"], 2), trial["base_reused"]]
            rows.writerow([trial["number"], trial["seed"], *numbers, *told, *params])
    text = sweep.folder / "report.md"
    text.write_text(_markdown(status, trials))
    files = [table, text]
    if trials:
        picture = sweep.folder / "result.png"
        _draw(picture, status, trials)
        files.append(picture)
    return files


def print_leaderboard(console: Console, status: Status) -> None:
    """The best trials against the baseline."""
    k = status["objective"]["top_k"]
    table = Table(title=f"{status['name']}: best trials (percent, top {k})", title_justify="left")
    for heading in ("", "trial", "joint", "original", "streaming", "base", "retention"):
        table.add_column(heading, justify="right")
    table.add_column("parameters", overflow="fold")
    baseline, best = status["baseline"], status["best"]
    shown = ranked(status)[:_SHOWN]
    if baseline is not None and baseline["number"] not in [trial["number"] for trial in shown]:
        shown.append(baseline)
    for trial in shown:
        is_baseline = baseline is not None and trial["number"] == baseline["number"]
        mark = "best" if trial["number"] == best["number"] else "baseline" if is_baseline else ""
        cells = [percent(trial["metrics"][name]) for name in _COLUMNS]
        table.add_row(mark, str(trial["number"]), *cells, describe_params(trial["params"]))
    console.print(table)
    console.print(summary(status), soft_wrap=True, markup=False, highlight=False)


def summary(status: Status) -> str:
    """Chance level, gain over the baseline, bases and what they saved, in a few lines."""
    lines = []
    objective, best, baseline, bases = (status[key] for key in ("objective", "best", "baseline", "bases"))
    if objective["chance"] is not None:
        original, streaming = percent(objective["chance"]["original"]), percent(objective["chance"]["streaming"])
        lines.append(f"chance level: original {original}, streaming {streaming}")
    if best is not None and objective["images"] is not None:
        errors = [
            f"{name} ± {percent(standard_error(best['metrics'][f'{name}_topk'], count))} ({count} images)"
            for name, count in objective["images"].items()
        ]
        lines.append(f"standard error of the best trial's accuracy: {', '.join(errors)}")
    if best is not None and baseline is not None:
        gain = 100 * (best["metrics"]["joint"] - baseline["metrics"]["joint"])
        lines.append(
            f"best: trial {best['number']}, joint {percent(best['metrics']['joint'])}; baseline: trial "
            f"{baseline['number']}, joint {percent(baseline['metrics']['joint'])}; {gain:+.1f} points on validation"
        )
    lines.append(
        f"bases: {bases['trained']} trained, {bases['reused']} trials on reused ones, "
        f"{bases['seconds_saved']:.0f} s of training saved"
    )
    if objective["split"]:
        lines.append(objective["split"])
    failed = [trial for trial in status["trials"] if trial["state"] == "failed"]
    lines += [f"failed: trial {trial['number']}: {trial['error']}" for trial in failed]
    return "\n".join(lines)


def standard_error(fraction: float, count: int) -> float:
    """Of a fraction of `count` independent images."""
    return float((fraction * (1 - fraction) / max(1, count)) ** 0.5)


def describe_params(params: dict[str, Any]) -> str:
    """Parameters in a line; rates with three digits."""
    return ", ".join(
        f"{path.replace('streaming.', 's.').replace('model.', '')} {value:.3g}"
        if isinstance(value, float)
        else f"{path.replace('streaming.', 's.').replace('model.', '')} {value}"
        for path, value in params.items()
    )


def _markdown(status: Status, trials: list[Status]) -> str:
    head = "| trial | joint | original | streaming | base | retention | base reused | parameters |"
    rows = [
        f"| {trial['number']} | "
        + " | ".join(percent(trial["metrics"][name]) for name in _COLUMNS)
        + f" | {'yes' if trial['base_reused'] else 'no'} | {describe_params(trial['params'])} |"
        for trial in trials
    ]
    objective = status["objective"]
    intro = (
        f"# Sweep {status['name']}\n\nData set `{status['data']}`, {len(trials)} complete trials, accuracy in percent "
        f"on the validation split, top {objective['top_k']}; joint = {objective['original_weight']} · original + "
        f"{round(1 - objective['original_weight'], 6)} · streaming.\n\n"
    )
    bullets = "".join(f"- {line}\n" for line in summary(status).splitlines())
    return f"{intro}{bullets}\n![original against streaming accuracy](result.png)\n\n{head}\n" + (
        "|" + "---|" * 8 + "\n" + "\n".join(rows) + "\n"
    )


def _draw(path: Path, status: Status, trials: list[Status]) -> None:
    """Original against streaming accuracy, one dot a trial, lines of equal joint through best and baseline."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    bases = {key: i for i, key in enumerate(dict.fromkeys(trial["base_key"] for trial in trials))}
    axes.scatter(
        [100 * trial["metrics"]["streaming_topk"] for trial in trials],
        [100 * trial["metrics"]["original_topk"] for trial in trials],
        c=[bases[trial["base_key"]] for trial in trials],
        cmap="tab20",
        s=36,
    )
    weight = status["objective"]["original_weight"]
    marks = [("baseline", status["baseline"], "tab:gray", "s"), ("best", status["best"], "tab:red", "*")]
    for label, trial, colour, marker in marks:
        if trial is None:
            continue
        x, y = (100 * trial["metrics"][name] for name in ("streaming_topk", "original_topk"))
        joint = percent(trial["metrics"]["joint"])
        axes.plot(x, y, marker, color=colour, markersize=16, markerfacecolor="none", label=f"{label}: joint {joint}")
        if weight > 0:
            axes.axline((x, y), slope=-(1 - weight) / weight, color=colour, linewidth=0.8, linestyle="--")
    k = status["objective"]["top_k"]
    axes.set_xlabel(f"streaming accuracy, top {k} (percent)")
    axes.set_ylabel(f"original accuracy after streaming, top {k} (percent)")
    axes.set_title(f"{status['name']}: {len(trials)} trials; one colour a base, dashed: equal joint")
    axes.legend(loc="best")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    write_atomically(path, buffer.getvalue())
