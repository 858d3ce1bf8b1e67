"""One PNG: which share of the queries lands within x meters, beside the baselines."""

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no window system needed

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, PercentFormatter

from mindloc.errors import DataError
from mindloc.runtime.atomic import atomic_write

_STYLES = {
    "model": {"color": "#1f5fbf", "linewidth": 2.6, "zorder": 4},
    "stage_one": {"color": "#5fa8e8", "linewidth": 1.9, "zorder": 3.6},
    "phi": {"color": "#7d5fc4", "linewidth": 1.7, "linestyle": (0, (6, 1.5)), "zorder": 3.3},
    "color_histogram": {"color": "#c2701c", "linewidth": 1.7, "zorder": 3},
    "constant": {"color": "#6b7580", "linewidth": 1.7, "linestyle": (0, (5, 2)), "zorder": 2},
    "chance": {"color": "#9aa4ad", "linewidth": 1.7, "linestyle": (0, (1, 1.5)), "zorder": 1},
}
_LEGEND_COLUMNS = 4


@dataclass(frozen=True)
class Curve:
    """Distances of one method's first answers."""

    method: str
    title: str
    distance_Q: np.ndarray  # meters; for chance, of every answer as likely as any other


def share_within(distance_Q: np.ndarray, limit_X: np.ndarray) -> np.ndarray:
    """(X,) share of the distances that are at most each limit."""
    return np.searchsorted(np.sort(distance_Q), limit_X, side="right") / len(distance_Q)


def draw_distance_curve(path: Path, curves: list[Curve], title: str, subtitle: str) -> None:
    """Write the picture; the axis of distances is logarithmic, since near misses matter most."""
    limit_X = np.geomspace(*_range(curves), 2000)
    figure, axes = plt.subplots(figsize=(9.2, 5.4), dpi=150)
    for curve in curves:
        median = float(np.median(curve.distance_Q))
        label = f"{curve.title} ({median:.0f} m)"
        axes.plot(limit_X, share_within(curve.distance_Q, limit_X), label=label, **_STYLES[curve.method])
    _dress(axes, limit_X)
    rows = -(-len(curves) // _LEGEND_COLUMNS)
    figure.legend(  # rows above the picture, where no curve can run into them
        loc="upper left",
        bbox_to_anchor=(0.067, 0.872),
        ncols=-(-len(curves) // rows),
        frameon=False,
        fontsize=9.5,
        handlelength=1.8,
        columnspacing=1.5,
        borderaxespad=0,
    )
    figure.text(0.075, 0.965, title, fontsize=14, fontweight="bold", color="#1b1f24", va="top")
    figure.text(0.075, 0.915, f"{subtitle}; in brackets the median", fontsize=10, color="#667079", va="top")
    figure.subplots_adjust(left=0.075, right=0.975, top=0.85 - 0.05 * rows, bottom=0.115)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", metadata={"Software": None})
    plt.close(figure)
    with atomic_write(path, error=DataError) as file:
        file.write(encoded.getvalue())


def _range(curves: list[Curve]) -> tuple[float, float]:
    far = max(20.0, *(float(curve.distance_Q.max()) for curve in curves))
    near = min(float(np.quantile(curve.distance_Q, 0.02)) for curve in curves)
    return max(1.0, far / 3000, min(near, far / 10)), far


def _dress(axes: plt.Axes, limit_X: np.ndarray) -> None:
    axes.set_xscale("log")
    axes.set_xlim(limit_X[0], limit_X[-1])
    axes.set_ylim(0, 1.005)
    steps = [mantissa * 10**power for power in range(8) for mantissa in (1, 2, 5)]
    axes.set_xticks([step for step in steps if limit_X[0] <= step <= limit_X[-1]])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} m" if x < 1000 else f"{x / 1000:g} km"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("distance from the true place to the center of the first answer", fontsize=10, color="#1b1f24")
    axes.set_ylabel("queries within that distance", fontsize=10, color="#1b1f24")
    axes.grid(True, color="#e3e6e9", linewidth=0.8)
    axes.tick_params(length=0, labelsize=9, labelcolor="#444c54")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#9aa4ad")
