"""Draws the table of the README as a chart, docs/images/benchmarks.svg: `make screenshots`."""

import re
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot

ROOT = Path(__file__).parent.parent
CHART = ROOT / "docs" / "images" / "benchmarks.svg"


def ratios() -> dict[str, float]:
    """The ratios of the README's table: our cost over that of Pipecat's own service."""
    rows = re.findall(r"^\| ([^|]+) \|[^|]+\|[^|]+\| ([\d.]+)× \|$", _readme(), re.MULTILINE)
    return {name: float(ratio) for name, ratio in rows}


def draw() -> None:
    """Write the chart."""
    mpl.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none"})
    found = dict(reversed(ratios().items()))
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(found) + 1.2), layout="constrained")
    bars = axes.barh(list(found), list(found.values()), color="#e8590c", height=0.6)
    axes.bar_label(bars, [f" {ratio:.2f}×" for ratio in found.values()])
    axes.axvline(1, color="grey", linestyle="--", linewidth=1)
    axes.set_xlim(0, 1.2)
    axes.set_xlabel("cost relative to Pipecat's own service (less is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(CHART, metadata={"Date": None})


def _readme() -> str:
    return (ROOT / "README.md").read_text()


if __name__ == "__main__":
    draw()
