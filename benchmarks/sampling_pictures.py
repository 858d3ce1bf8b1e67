"""The pictures of sampling_ablation.py: Recall@1 of each variant, and over the epochs."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Curve = Sequence[tuple[int, float]]  # (epochs, Recall@1 as a share)


def draw_variants(recalls: Mapping[str, Mapping[int, float]], title: str, path: Path) -> None:
    """A bar per variant for the mean, a line per seed. ``recalls``: variant -> seed -> Recall@1 as a share."""
    figure, axes = plt.subplots(figsize=(2.6 + 1.5 * len(recalls), 4))
    means = [100 * np.mean(list(of_seed.values())) for of_seed in recalls.values()]
    axes.bar(range(len(recalls)), means, color="#c9d7e8", width=0.6, label="mean")
    for seed in sorted({seed for of_seed in recalls.values() for seed in of_seed}):
        values = [100 * of_seed.get(seed, np.nan) for of_seed in recalls.values()]
        axes.plot(range(len(recalls)), values, "o-", markersize=5, linewidth=0.8, label=f"seed {seed}")
    axes.set_xticks(range(len(recalls)), [textwrap.fill(name, 14) for name in recalls], fontsize=8)
    axes.set_ylabel("Recall@1, %")
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    _legend_beside(axes)
    _save(figure, path)


def draw_epochs(curves: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """Each variant in a color of its own: a thin line per seed, their mean thick."""
    figure, axes = plt.subplots(figsize=(7.5, 4))
    for color, (name, of_seed) in enumerate(curves.items()):
        for curve in of_seed:
            axes.plot(*_points(curve), color=f"C{color}", linewidth=0.6, alpha=0.5)
        mean = np.mean(of_seed, axis=0)
        axes.plot(*_points(mean), "o-", color=f"C{color}", linewidth=1.8, markersize=4, label=name)
    axes.set_xlabel("epochs")
    axes.set_ylabel("Recall@1, %")
    axes.set_ylim(bottom=0)
    axes.set_title("thin: each seed; thick: their mean", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_beside(axes)
    _save(figure, path)


def _points(curve: Curve | np.ndarray) -> tuple[list[float], list[float]]:
    """(epochs, percent)"""
    return [epoch for epoch, _ in curve], [100 * share for _, share in curve]


def _legend_beside(axes: Axes) -> None:
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))  # never over a point


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
