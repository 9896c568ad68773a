"""What is left of a sweep for people: leaderboard, table, picture."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from senet.files import write_atomically
from senet.uncertainty import standard_error
from sweeps.analysis import Configuration, Spread, configurations, front, weights_of_first_place
from sweeps.progress import percent
from sweeps.space import is_reference
from sweeps.status import Status
from sweeps.sweep import Sweep

_COLUMNS = ("joint", "original_topk", "streaming_topk", "base_topk", "retention")
_SHOWN = 10
_NARROW = 110


def write_report(sweep: Sweep, status: Status) -> list[Path]:
    """Write leaderboard.csv, report.md and result.png into the sweep's folder; returns the files."""
    ranking = configurations(status["trials"])
    table = sweep.folder / "leaderboard.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(_csv_rows(ranking))
    text = sweep.folder / "report.md"
    text.write_text(_markdown(status, ranking), "utf-8")
    files = [table, text]
    if ranking:
        picture = sweep.folder / "result.png"
        _draw(picture, status, ranking)
        files.append(picture)
    return files


def print_leaderboard(console: Console, status: Status) -> None:
    """The best configurations, or where there are two objectives the front, against the baseline."""
    k, pareto = status["objective"]["top_k"], status["objective"]["mode"] == "pareto"
    what = "front of original against streaming" if pareto else "best configurations"
    table = Table(
        title=f"{status['name']}: {what} (percent; accuracy is top-{k}; means over n seeds)", title_justify="left"
    )
    for heading in ("", "trial", "n", "joint", "original", "streaming", "base", "retention"):
        table.add_column(heading, justify="right")
    # In a narrow terminal the parameters stand below the table.
    below = console.width < _NARROW
    if not below:
        table.add_column("parameters", overflow="fold")
    ranking = configurations(status["trials"])
    baseline = next((one for one in ranking if one.enqueued), None)
    shown = [*reversed(front(ranking))] if pareto else ranking[:_SHOWN]
    if baseline is not None and baseline not in shown:
        shown.append(baseline)
    for one in shown:
        marks = ["best joint" if pareto else "best"] * (one is ranking[0]) + ["baseline"] * (one is baseline)
        marks += ["knee"] * (pareto and one.first["number"] == status["knee"])
        params = [] if below else [describe_params(one.first["params"])]
        table.add_row(", ".join(marks), str(one.first["number"]), *_cells(one), *params)
    console.print(table)
    for one in shown if below else []:
        text = f"trial {one.first['number']}: {describe_params(one.first['params'])}"
        console.print(text, soft_wrap=True, markup=False, highlight=False)
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
        gain = 100 * (best["joint_mean"] - baseline["joint_mean"])
        best_joint, baseline_joint = (
            f"trial {one['number']}, joint {spread_percent(Spread(one['joint_mean'], one['joint_sd'], one['n']))} "
            f"(n={one['n']})"
            for one in (best, baseline)
        )
        lines.append(f"best: {best_joint}; baseline: {baseline_joint}; {gain:+.1f} points on validation")
    if objective["mode"] == "pareto" and status["front"]:
        lines.append(
            f"front, from the best original accuracy to the best streaming accuracy: trial "
            f"{', '.join(map(str, status['front']))}; knee: trial {status['knee']}"
        )
    lines += _weights(status)
    lines.append(
        f"bases: {bases['trained']} trained, {bases['reused']} trials on reused ones, "
        f"{bases['seconds_saved']:.0f} s of training saved"
    )
    measured = [trial for trial in status["trials"] if trial["gpu_memory"]]
    if measured:
        largest = max(measured, key=lambda trial: trial["gpu_memory"]["bytes"])
        memory = largest["gpu_memory"]
        lines.append(
            f"GPU memory: at most {memory['bytes'] / 2**30:.1f} GiB of tensors, with the CUDA context "
            f"{percent(memory['fraction'])} % of a GPU (trial {largest['number']})"
        )
    references = [str(trial["number"]) for trial in status["trials"] if is_reference(trial["params"])]
    if references:
        lines.append(f"references, no competitors, since they look at old images: trial {', '.join(references)}")
    if objective["split"]:
        lines.append(objective["split"])
    failed = [trial for trial in status["trials"] if trial["state"] == "failed"]
    lines += [f"failed: trial {trial['number']}: {trial['error']}" for trial in failed]
    return "\n".join(lines)


def _weights(status: Status) -> list[str]:
    """For which weights of the objective the best stays the best, in a line; nothing where there is no best."""
    ranking = configurations(status["trials"])
    interval = weights_of_first_place(ranking[0], ranking) if ranking else None
    if interval is None:
        return []
    among = f"{len(ranking)} configurations"
    return [first_place(ranking[0].first["number"], among, interval, status["objective"]["original_weight"])]


def first_place(number: int, among: str, interval: Sequence[float], asked: float) -> str:
    """For which weights of the objective a trial stays first, in a line."""
    return (
        f"trial {number} is first of {among} for w from {interval[0]:.2f} to {interval[1]:.2f} "
        f"(w = {asked:g} was asked for)"
    )


def spread_percent(found: Spread) -> str:
    """A mean in percent, of several values with their standard deviation."""
    return percent(found.mean) + ("" if found.sd is None else f" ± {percent(found.sd)}")


def describe_params(params: dict[str, Any]) -> str:
    """Parameters in a line; rates with three digits."""
    return ", ".join(
        f"{path.replace('streaming.', 's.').replace('model.', '')} {value:.3g}"
        if isinstance(value, float)
        else f"{path.replace('streaming.', 's.').replace('model.', '')} {value}"
        for path, value in params.items()
    )


def _cells(one: Configuration) -> list[str]:
    """n, and the metrics in percent: the joint with its spread, the means of the others."""
    return [
        str(len(one.trials)),
        *(spread_percent(one.over_seeds(name)) if name == "joint" else percent(one.mean(name)) for name in _COLUMNS),
    ]


def _csv_rows(ranking: list[Configuration]) -> Iterator[list[Any]]:
    """The leaderboard with its heading: means over seeds; `trial` is the first of a configuration."""
    paths = sorted({path for one in ranking for path in one.first["params"]})
    yield ["trial", "n", "seeds", "joint", "joint_sd", *_COLUMNS[1:], "seconds", "base_reused", *paths]
    for one in ranking:
        joint, seconds = one.over_seeds("joint"), [trial["seconds"] for trial in one.trials]
        means = [one.mean(name) for name in _COLUMNS[1:]]
        seeds = " ".join(str(trial["seed"]) for trial in one.trials)
        told = [round(sum(seconds) / len(seconds), 2), one.first["base_reused"]]
        params = [one.first["params"].get(path) for path in paths]
        yield [one.first["number"], joint.n, seeds, joint.mean, joint.sd, *means, *told, *params]


def _markdown(status: Status, ranking: list[Configuration]) -> str:
    head = "| trial | n | joint | original | streaming | base | retention | base reused | parameters |"
    rows = [
        f"| {one.first['number']} | "
        + " | ".join(_cells(one))
        + f" | {'yes' if one.first['base_reused'] else 'no'} | {describe_params(one.first['params'])} |"
        for one in ranking
    ]
    objective, count = status["objective"], sum(len(one.trials) for one in ranking)
    intro = (
        f"# Sweep {status['name']}\n\nData set `{status['data']}`, {count} complete trials of {len(ranking)} "
        f"configurations, accuracy in percent on the validation split, top {objective['top_k']}; joint = "
        f"{objective['original_weight']} · original + {round(1 - objective['original_weight'], 6)} · streaming. A "
        "configuration's numbers are means over n seeds, the joint with its standard deviation; its trial is the "
        "first of them.\n\n"
    )
    bullets = "".join(f"- {line}\n" for line in summary(status).splitlines())
    return f"{intro}{bullets}\n![original against streaming accuracy](result.png)\n\n{head}\n" + (
        "|" + "---|" * 9 + "\n" + "\n".join(rows) + "\n"
    )


def _draw(path: Path, status: Status, ranking: list[Configuration]) -> None:
    """Original against streaming accuracy, one dot a configuration, lines of equal joint through best and baseline."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    bases = {key: i for i, key in enumerate(dict.fromkeys(one.first["base_key"] for one in ranking))}
    points = [tuple(100 * one.mean(name) for name in ("streaming_topk", "original_topk")) for one in ranking]
    colours = [bases[one.first["base_key"]] for one in ranking]
    axes.scatter([x for x, _ in points], [y for _, y in points], c=colours, cmap="tab20", s=36)
    if status["objective"]["mode"] == "pareto":
        edge = [tuple(100 * one.mean(name) for name in ("streaming_topk", "original_topk")) for one in front(ranking)]
        axes.plot([x for x, _ in edge], [y for _, y in edge], color="tab:red", linewidth=0.8, label="front")
    weight = status["objective"]["original_weight"]
    baseline = next((i for i, one in enumerate(ranking) if one.enqueued), None)
    for label, i, colour, marker in (("baseline", baseline, "tab:gray", "s"), ("best", 0, "tab:red", "*")):
        if i is None:
            continue
        joint = percent(ranking[i].mean("joint"))
        x, y = points[i]
        axes.plot(x, y, marker, color=colour, markersize=16, markerfacecolor="none", label=f"{label}: joint {joint}")
        if weight > 0:
            axes.axline((x, y), slope=-(1 - weight) / weight, color=colour, linewidth=0.8, linestyle="--")
    k = status["objective"]["top_k"]
    axes.set_xlabel(f"streaming accuracy, top {k} (percent)")
    axes.set_ylabel(f"original accuracy after streaming, top {k} (percent)")
    axes.set_title(f"{status['name']}: {len(ranking)} configurations; one colour a base, dashed: equal joint")
    axes.legend(loc="best")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    write_atomically(path, buffer.getvalue())
