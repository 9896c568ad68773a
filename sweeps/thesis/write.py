"""Everything that `sweeps thesis` leaves of a sweep over the thesis' grid."""

from pathlib import Path
from typing import Any

from senet.config import TrialConfig
from senet.files import write_atomically
from sweeps.ledger import entries_of
from sweeps.progress import percent
from sweeps.status import Status
from sweeps.sweep import Sweep
from sweeps.thesis.figures import draw_figures
from sweeps.thesis.results import Results, gather
from sweeps.thesis.rows import ROWS, row_configs
from sweeps.thesis.statements import Statement, statements
from sweeps.thesis.tables import NOTHING, show, statements_markdown, table_csv, table_markdown

_NUMBERS = (1, 2, 3, 4, 5)

_NOTES = """\
- Ours: mean ± standard deviation over n seeds, accuracy in percent on the validation split. The thesis' values, on its
  own data with top-5, stand as printed; – where it has none.
- A streaming image counts if all of its labels are among the k highest scores; the thesis does not say what it counts.
- The single-target network has a class for every combination of labels, so that one hit suffices it there.
"""

_SECONDS = """
Table 5: mean ± standard deviation over n timed epochs (training and validation), one network at a time, after one
epoch to warm up; the thesis used a Tesla K80. For the single-target network an update is a retraining: its streaming
epoch is its base epoch.
"""

_FIGURES = """
![Base validation accuracy by epoch](figure-6.png)

What figure 6 shows in detail is our reading: base validation accuracy by epoch of ResNet and SENet with margin and
soft margin loss; lines are means over seeds, areas go from the lowest to the highest.

![Top-1 against top-k of the base](figure-12.png)

![Change in original accuracy against streaming accuracy](figure-13.png)
"""

_STATEMENTS = """
Differences are paired over seeds; the interval is Student's 95 % interval of their mean, unless the note says
otherwise. *holds* or *reversed*: all of the interval is on one side; *not decided*: it is not, or n is below 2.
"""


def timed_configs(sweep: Sweep) -> dict[str, TrialConfig]:
    """The configs whose epochs table 5 compares, by row."""
    configs = row_configs(sweep.recipe())
    return {row.key: configs[row.key] for row in ROWS if 5 in row.tables}


def write_thesis(sweep: Sweep, status: Status, timing: dict[str, Any]) -> tuple[list[Path], str]:
    """Write tables, statements and figures into the sweep's folder `thesis`.

    Args:
        status: of the sweep (`sweep_status`).
        timing: what `time_epochs` returned; empty where epochs were not timed.

    Returns:
        The files, and a summary in a few lines.
    """
    recipe = sweep.recipe()
    top_k, space = recipe.objective.top_k, recipe.parsed_space("recipe")
    entries = entries_of(sweep)
    results = gather(space, entries, row_configs(recipe), timing)
    found = statements(results, top_k)
    about = _about(sweep, status, timing)
    texts = {f"table-{number}.csv": table_csv(number, results, top_k) for number in _NUMBERS}
    tables = "\n".join(table_markdown(number, results, top_k) for number in _NUMBERS)
    texts["tables.md"] = f"# The thesis' tables\n\n{about}{_NOTES}{_failures(results)}\n{tables}{_SECONDS}{_FIGURES}"
    texts["statements.md"] = f"# The thesis' statements\n\n{about}{_STATEMENTS}\n{statements_markdown(found)}"
    folder = sweep.folder / "thesis"
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    files = [folder / name for name in sorted(texts)] + draw_figures(folder, results, top_k)
    return files, "\n".join(map(_in_a_line, found))


def _about(sweep: Sweep, status: Status, timing: dict[str, Any]) -> str:
    """Data, measure and machine, as a list."""
    objective = status["objective"]
    weight = objective["original_weight"]
    lines = [
        f"sweep `{status['name']}`, data set `{status['data']}`, k = {objective['top_k']}, joint = {weight} · original "
        f"+ {round(1 - weight, 6)} · streaming"
    ]
    if objective["chance"] is not None:
        chance = ", ".join(f"{name} {percent(value)}" for name, value in objective["chance"].items())
        images = ", ".join(f"{name} {count}" for name, count in objective["images"].items())
        lines.append(f"chance level: {chance}; validation images: {images}")
    lines += [objective["split"]] if objective["split"] else []
    machine = timing.get("environment")
    if machine is None:
        lines.append("epochs were not timed")
    else:
        lines.append(f"epochs were timed on {machine['device']}, {machine['precision']}")
    lines.append(", ".join(f"{package} {number}" for package, number in sweep.about()["versions"].items()))
    return "".join(f"- {line}\n" for line in lines)


def _failures(results: Results) -> str:
    return "".join(
        f"- failed: {found.row.label}, seed {seed}: {reason}\n"
        for found in results.values()
        for seed, reason in sorted(found.failures.items())
    )


def _in_a_line(statement: Statement) -> str:
    ends = NOTHING if statement.low is None else f"{statement.low:.2f} to {statement.high:.2f}"
    count = statement.estimate.n if statement.estimate else 0
    measured = f"{statement.measure}: {show(statement.estimate, 2)}, {ends}, n={count}"
    return f"{statement.claim}: {statement.verdict} ({measured})"
