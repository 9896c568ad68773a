"""What confirming a sweep has come to, for people."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from senet.files import write_atomically
from sweeps.analysis import Spread
from sweeps.confirm.result import Result, row_of
from sweeps.progress import percent
from sweeps.report import describe_params, first_place, spread_percent
from sweeps.status import Status, complete_trials
from sweeps.sweep import Sweep

_HEADINGS = ("", "trial", "n", "joint", "original", "streaming", "joint in the sweep", "ahead of the next")


def print_result(console: Console, result: Result) -> None:
    """The ranking on validation as a table, then what the test split says."""
    title = f"{result['sweep']} on fresh seeds: validation (percent, top {result['objective']['top_k']})"
    table = Table(title=title, title_justify="left")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    table.add_column("parameters", overflow="fold")
    for row in result["validation"]:
        table.add_row(*_cells(result, row), describe_params(row["params"]))
    console.print(table)
    console.print("\n".join(summary(result)), soft_wrap=True, markup=False, highlight=False)


def write_markdown(sweep: Sweep, result: Result) -> Path:
    """Write confirm.md into the sweep's folder; returns the file."""
    objective = result["objective"]
    head = [*_HEADINGS, "parameters"]
    rows = [[*_cells(result, row), describe_params(row["params"])] for row in result["validation"]]
    lines = [
        f"# Sweep {result['sweep']}, confirmed on fresh seeds",
        "",
        f"Data set `{result['data']}`; seeds {', '.join(map(str, result['seeds']))}, none of which the sweep has had; "
        f"accuracy in percent, top {objective['top_k']}, mean ± standard deviation over n seeds; joint = "
        f"{objective['original_weight']} · original + {round(1 - objective['original_weight'], 6)} · streaming. "
        f"Intervals: {result['interval']}. The candidates are ranked on the validation split"
        f"{', the knee of the sweep before all' if objective['mode'] == 'pareto' else ''}; the test split was read "
        f"once, at {result['read_test_split']}, for the first of them and the baseline.",
        "",
        *(f"- {line}" for line in summary(result)),
        "",
        *("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)),
    ]
    file = sweep.folder / "confirm.md"
    write_atomically(file, ("\n".join(lines) + "\n").encode())
    return file


def summary(result: Result) -> list[str]:
    """What the test split says of the pick and of the baseline, and the verdict; a line each."""
    test = result["test"]
    roles = ["pick"] if result["pick"] == result["baseline"] else ["pick", "baseline"]
    lines = [
        f"test split, {role}: trial {result[role]}, joint {_shown(test[role]['joint'])}, original "
        f"{_shown(test[role]['original_topk'])}, streaming {_shown(test[role]['streaming_topk'])} "
        f"(n={test[role]['n']} seeds)"
        for role in roles
    ]
    lines.append(verdict(result))
    weights = result.get("weights_of_first_place")
    if weights is not None:
        among = f"{len(result['validation'])} candidates"
        lines.append(first_place(result["pick"], among, weights, result["objective"]["original_weight"]))
    lines += [result["split"]] if result.get("split") else []
    lines += [f"trial {number} failed with all fresh seeds" for number in result["failed"]]
    deviation = result["largest_deviation_of_a_joint_measured_again"]
    if deviation > 1e-9:
        lines.append(
            "note: pictures were looked at on another kind of machine than the trials ran on: a joint differs by up to "
            f"{percent(deviation)} points"
        )
    return lines


def verdict(result: Result) -> str:
    """Whether the pick is better than the baseline, in a line."""
    better, pick, pictures = result["test"]["better"], result["pick"], result["test"]["pick"]["pictures"]
    if pick == result["baseline"]:
        return f"trial {pick}, the baseline, came first: nothing better than it was found"
    if better is None:
        return f"trial {pick} came first, but it and the baseline share fewer than two seeds: not compared"
    word = "better than" if better["low"] > 0 else "worse than" if better["high"] < 0 else "not shown to be better than"
    return (
        f"trial {pick} is {word} the baseline: {100 * better['mean']:+.1f} points on the test split, 95 % interval "
        f"{_ends(better)} ({better['n']} seeds × {pictures['original']} base and {pictures['streaming']} streaming "
        "pictures)"
    )


def extended_since(result: Result, status: Status) -> str:
    """How many trials of the sweep are complete since it was confirmed, to end a line with; empty where none is."""
    later = complete_trials(status) - result["complete_trials"]
    return f"; trials that are complete since then, and were no candidates: {later}" if later else ""


def confirmation(result: Result | None, params: dict[str, Any], name: str) -> dict[str, Any]:
    """What is known of a configuration from fresh seeds: `confirmed`, `said` in a line, and for the pick its figures.

    Confirmed is what came first on fresh seeds and is better than the baseline on the test split, beyond the interval.

    Args:
        result: of its sweep (`stored_result`).
        params: of the configuration.
        name: the sweep's.
    """
    if result is None:
        return {"confirmed": False, "said": f"not confirmed on fresh seeds: sweeps confirm {name}"}
    first, row = result["pick"], row_of(result, params)
    if row is None:
        said = f"not confirmed: it was no candidate of `sweeps confirm`, where trial {first} came first"
        return {"confirmed": False, "said": said}
    fresh = f"joint {_shown(row['joint'])} on validation with {row['n']} fresh seeds"
    if row["trial"] != first:
        said = f"not confirmed: {fresh}, where trial {first} came first (--pick confirmed)"
        return {"confirmed": False, "said": said}
    better, joint = result["test"]["better"], result["test"]["pick"]["joint"]
    confirmed = better is not None and better["low"] > 0
    return {
        "confirmed": confirmed,
        "said": f"{'' if confirmed else 'not '}confirmed: {fresh}; {verdict(result)}",
        "test_joint": {"mean": joint["mean"], "sd": joint["sd"], "n": len(joint["values"])},
        "better_than_baseline": better,
    }


def _cells(result: Result, row: Result) -> list[str]:
    """A candidate's line, without its parameters."""
    mark = "pick" if row["trial"] == result["pick"] else "baseline" if row["is_baseline"] else ""
    ahead = row["ahead_of_next"]
    return [
        mark,
        str(row["trial"]),
        str(row["n"]),
        *(_shown(row[name]) for name in ("joint", "original_topk", "streaming_topk")),
        f"{spread_percent(Spread(**row['in_the_sweep']))} (n={row['in_the_sweep']['n']})",
        "" if ahead is None else f"{100 * ahead['mean']:+.1f} ({_ends(ahead)})",
    ]


def _ends(interval: dict[str, Any]) -> str:
    return f"{100 * interval['low']:.1f} to {100 * interval['high']:.1f}"


def _shown(values: dict[str, Any]) -> str:
    return spread_percent(Spread(values["mean"], values["sd"], len(values["values"])))
