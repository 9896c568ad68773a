"""The thesis' tables with our results beside the published ones, as Markdown and CSV."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sweeps.analysis import Spread, spread
from sweeps.thesis.results import Results, RowResult
from sweeps.thesis.rows import ROWS, Row
from sweeps.thesis.statements import Statement

NOTHING = "–"

_TITLES = {
    1: "single labels alone, softmax",
    2: "losses, after the base phase",
    3: "accuracy after the base phase",
    4: "accuracy after streaming",
    5: "seconds of an epoch",
}


class Cell(NamedTuple):
    """Ours and the thesis' value; None where there is none."""

    ours: Spread | None
    thesis: float | None


@dataclass(frozen=True, kw_only=True)
class Column:
    """One measure in a table."""

    key: str
    """its name in CSV files"""
    ours: str
    """heading of our values"""
    thesis: str | None
    """heading of the thesis' values; None: it has no such measure"""
    cell: Callable[[RowResult], Cell]
    digits: int = 1
    thesis_digits: int = 1


def columns(number: int, results: Results, top_k: int) -> list[Column]:
    """The measures of table `number`."""
    top1 = _accuracy("base_top1", "base top-1", "base top-1", lambda row: row.published.base_top1)
    topk = _accuracy("base_topk", f"base top-{top_k}", "base top-5", lambda row: row.published.base_top5)
    if number < 4:
        return [top1, topk]
    if number == 5:
        return _second_columns(results)
    return [
        topk,
        _accuracy("original_topk", f"original top-{top_k}", "original top-5", lambda row: row.published.original_top5),
        _accuracy(
            "streaming_topk", f"streaming top-{top_k}", "streaming top-5", lambda row: row.published.streaming_top5
        ),
        _accuracy("joint", "joint", None, lambda row: None),
    ]


def table_rows(number: int, results: Results) -> list[RowResult]:
    """The rows of table `number`; in table 2 network by network."""
    rows = [results[row.key] for row in ROWS if number in row.tables]
    return sorted(rows, key=lambda found: (found.row.model, found.row.loss)) if number == 2 else rows


def table_csv(number: int, results: Results, top_k: int) -> str:
    """Table `number`: for every measure mean, standard deviation and n of ours, and the thesis' value."""
    used = columns(number, results, top_k)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = [
        f"{column.key}_{part}"
        for column in used
        for part in ("mean", "sd", "n", *(["thesis"] if column.thesis else []))
    ]
    writer.writerow(["model", "variant", *heads])
    for found in table_rows(number, results):
        cells: list[float | int | None] = []
        for column in used:
            ours, thesis = column.cell(found)
            cells += [ours and round(ours.mean, 4), ours and ours.sd and round(ours.sd, 4), ours.n if ours else 0]
            cells += [thesis and round(thesis, 4)] if column.thesis else []
        writer.writerow([found.row.model, _variant(number, found), *cells])
    return file.getvalue()


def table_markdown(number: int, results: Results, top_k: int) -> str:
    """Table `number` with its title."""
    used = columns(number, results, top_k)
    heads = [head for column in used for head in (column.ours, column.thesis and f"thesis: {column.thesis}") if head]
    lines = [f"## Table {number}: {_TITLES[number]}", "", _line(["model", "variant", "n", *heads])]
    lines.append(_line(["---"] * (3 + len(heads))))
    for found in table_rows(number, results):
        cells = [column.cell(found) for column in used]
        shown = [
            text
            for column, cell in zip(used, cells, strict=True)
            for text in (
                show(cell.ours, column.digits),
                *([_number(cell.thesis, column.thesis_digits)] if column.thesis else []),
            )
        ]
        count = max((cell.ours.n for cell in cells if cell.ours), default=0)
        lines.append(_line([found.row.model, _variant(number, found), str(count), *shown]))
    return "\n".join(lines) + "\n"


def statements_markdown(found: list[Statement]) -> str:
    """The statements as a table."""
    lines = [_line(["statement", "measure", "mean ± sd", "interval", "n", "verdict", "note"]), _line(["---"] * 7)]
    for one in found:
        ends = NOTHING if one.low is None or one.high is None else f"{one.low:.2f} to {one.high:.2f}"
        count = str(one.estimate.n) if one.estimate else "0"
        lines.append(_line([one.claim, one.measure, show(one.estimate, 2), ends, count, one.verdict, one.note]))
    return "\n".join(lines) + "\n"


def show(value: Spread | None, digits: int = 1) -> str:
    """Mean ± standard deviation."""
    if value is None:
        return NOTHING
    return f"{value.mean:.{digits}f}" + ("" if value.sd is None else f" ± {value.sd:.{digits}f}")


def _accuracy(key: str, ours: str, thesis: str | None, published: Callable[[Row], float | None]) -> Column:
    return Column(
        key=key,
        ours=ours,
        thesis=thesis,
        cell=lambda found: Cell(spread([*found.percents(key).values()]), published(found.row)),
    )


def _second_columns(results: Results) -> list[Column]:
    """Seconds of an epoch in both phases, and how many times those of SENet's normal variant they are."""
    normal = results["senet18"]
    published = normal.row.published

    def ratio(
        ours: Callable[[RowResult], list[float]], thesis: Callable[[Row], float | None], of: float | None
    ) -> Callable[[RowResult], Cell]:
        def cell(found: RowResult) -> Cell:
            mean, reference, value = spread(ours(found)), spread(ours(normal)), thesis(found.row)
            times = Spread(mean.mean / reference.mean, None, mean.n) if mean and reference else None
            return Cell(times, value / of if value and of else None)

        return cell

    def base(found: RowResult) -> list[float]:
        return found.seconds.get("base", [])

    def base_published(row: Row) -> float | None:
        return row.published.base_seconds

    def update_published(row: Row) -> float | None:
        return row.published.streaming_seconds

    update = RowResult.update_seconds
    return [
        Column(key="base_seconds", ours="base, s", thesis="base, s", digits=2,
               cell=lambda found: Cell(spread(base(found)), base_published(found.row))),
        Column(key="streaming_seconds", ours="streaming, s", thesis="streaming, s", digits=2,
               cell=lambda found: Cell(spread(update(found)), update_published(found.row))),
        Column(key="base_ratio", ours="base ÷ SENet normal", thesis="its base ÷ its SENet normal", digits=2,
               thesis_digits=2, cell=ratio(base, base_published, published.base_seconds)),
        Column(key="streaming_ratio", ours="streaming ÷ SENet normal", thesis="its streaming ÷ its SENet normal",
               digits=2, thesis_digits=2, cell=ratio(update, update_published, published.streaming_seconds)),
    ]  # fmt: skip


def _variant(number: int, found: RowResult) -> str:
    """A row's variant; where widths are others than the thesis', with ours."""
    row = found.row
    if number == 2:
        return {"margin": "margin", "soft_margin": "soft margin"}[row.loss]
    if row.name == "inception_resnet" and str(found.config.model.width) != row.variant:
        return f"{row.variant} (here {found.config.model.width})"
    return row.variant


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
