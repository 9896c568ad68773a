"""The thesis' figures 6, 12 and 13 drawn from our results, its published points hollow beside them."""

import io
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from senet.files import write_atomically
from sweeps.analysis import spread
from sweeps.thesis.results import Results, RowResult

_CURVES = ("resnet18", "resnet18-soft-margin", "senet18", "senet18-soft-margin")


class Point(NamedTuple):
    """A row in a plane, in percent: one x and y a seed, and where the thesis has it."""

    x: list[float]
    y: list[float]
    published: tuple[float, float] | None


def draw_figures(folder: Path, results: Results, top_k: int) -> list[Path]:
    """Write figure-6.png, figure-12.png and figure-13.png into `folder`; returns them."""
    files = [folder / f"figure-{number}.png" for number in (6, 12, 13)]
    _save(_curves(results, top_k), files[0])
    base = ("base top-1 (percent)", f"base top-{top_k} (percent)")
    _save(_plane(results, base_point, *base, f"Figure 12: top-1 against top-{top_k} of the base"), files[1])
    change = (f"change in original top-{top_k} by streaming (points)", f"streaming top-{top_k} (percent)")
    _save(_plane(results, change_point, *change, "Figure 13: forgetting against streaming accuracy"), files[2])
    return files


def base_point(found: RowResult) -> Point:
    """Top-1 and top-k of the base (figure 12)."""
    published = found.row.published
    return Point(
        list(found.percents("base_top1").values()),
        list(found.percents("base_topk").values()),
        None if published.base_top1 is None or published.base_top5 is None
        else (published.base_top1, published.base_top5),
    )  # fmt: skip


def change_point(found: RowResult) -> Point:
    """Original − base top-k, and streaming top-k (figure 13)."""
    base, original = found.percents("base_topk"), found.percents("original_topk")
    published = found.row.published
    place = None
    if published.base_top5 is not None and published.original_top5 is not None and published.streaming_top5 is not None:
        place = (published.original_top5 - published.base_top5, published.streaming_top5)
    return Point([original[seed] - base[seed] for seed in base], list(found.percents("streaming_topk").values()), place)


def _plane(results: Results, point: Callable[[RowResult], Point], x: str, y: str, title: str) -> Figure:
    """One colour a row of the networks that stream: ours with standard deviations, the thesis' hollow."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    rows = [found for found in results.values() if 3 in found.row.tables and found.row.protocol == "streaming"]
    for i, found in enumerate(rows):
        place = point(found)
        across, up = spread(place.x), spread(place.y)
        if across is not None and up is not None:
            axes.errorbar(
                across.mean, up.mean, up.sd, across.sd, fmt="o", color=f"C{i}", elinewidth=0.8, label=found.row.label
            )
        if place.published is not None:
            axes.plot(*place.published, "o", color=f"C{i}", markerfacecolor="none")
    axes.plot([], [], "o", color="black", label="ours, mean ± sd over seeds")
    axes.plot([], [], "o", color="black", markerfacecolor="none", label="the thesis, top-5")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def _curves(results: Results, top_k: int) -> Figure:
    """Base validation accuracy by epoch of both networks with both losses: mean, and from least to most over seeds."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels: Any = figure.subplots(1, 2)
    for axes, metric, name in zip(panels, ("base_top1", "base_topk"), ("top-1", f"top-{top_k}"), strict=True):
        for i, key in enumerate(_CURVES):
            found = results[key]
            by_epoch = list(zip(*found.curves(metric), strict=True))
            epochs = range(1, len(by_epoch) + 1)
            label = f"{found.row.model}, {found.row.loss.replace('_', ' ')}"
            axes.plot(epochs, [statistics.mean(values) for values in by_epoch], color=f"C{i}", label=label)
            axes.fill_between(epochs, [*map(min, by_epoch)], [*map(max, by_epoch)], color=f"C{i}", alpha=0.2)
        axes.set_xlabel("epoch of the base phase")
        axes.set_ylabel(f"base validation accuracy, {name} (percent)")
    panels[0].legend(loc="best", fontsize="small")
    figure.suptitle("Figure 6, as we read it: losses in the base phase, mean and range over seeds")
    return figure


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format="png")
    write_atomically(path, buffer.getvalue())
