"""The encoder's work in PyTorch: timm's RoPE ViT in eager mode, a training step or the descriptors of a batch.

Started by benchmarks/train_step.py and benchmarks/extraction.py in an interpreter that has torch and timm, with one
JSON object as argument; the last line that it prints is one too. Nothing of mindloc is imported here.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from process_figures import peak_mb


class TrainStep:
    """Two views, symmetric Weighted-InfoNCE, gradient values clipped, fused AdamW: the recipe's step."""

    def __init__(self, model: nn.Module, asked: dict):
        side, batch = asked["side_px"], asked["batch_size"]
        self.model = model.train()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.drone, self.satellite = torch.randn(batch, 3, side, side), torch.randn(batch, 3, side, side)
        self.smoothing = torch.sigmoid(-5.0 * torch.ones(batch))
        self.parameters = [*model.parameters(), self.log_scale]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.01, fused=True)
        self.forms: dict[str, Callable] = {"two forwards": self._two_forwards, "one forward": self._one_forward}

    def run(self, form: str) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*self.forms[form]())
        loss.backward()
        nn.utils.clip_grad_value_(self.parameters, 100.0)
        self.optimizer.step()
        loss.item()

    def _two_forwards(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model(self.drone), self.model(self.satellite)

    def _one_forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model(torch.cat([self.drone, self.satellite])).chunk(2)

    def _loss(self, drone: torch.Tensor, satellite: torch.Tensor) -> torch.Tensor:
        logits = self.log_scale.exp() * F.normalize(drone, dim=-1) @ F.normalize(satellite, dim=-1).T
        return (self._one_way(logits) + self._one_way(logits.T)) / 2

    def _one_way(self, logits: torch.Tensor) -> torch.Tensor:
        kept = (1 - self.smoothing) * logits.diagonal() + self.smoothing * logits.mean(1)
        return (torch.logsumexp(logits, 1) - kept).mean()


class Extraction:
    """Descriptors of a batch."""

    def __init__(self, model: nn.Module, asked: dict):
        self.model = model.eval()
        self.images = torch.randn(asked["batch_size"], 3, asked["side_px"], asked["side_px"])
        self.forms = {"one forward": None}

    def run(self, form: str) -> None:
        with torch.inference_mode():
            self.model(self.images).numpy()


def measure(asked: dict) -> dict:
    """Seconds of the first run and of those that count, in the faster of the forms that the work may take."""
    torch.manual_seed(0)
    torch.set_num_threads(asked["cores"])
    width, depth, heads = asked["backbone"]
    model = timm.create_model(
        "vit_base_patch16_rope_reg1_gap_256",
        pretrained=False,
        num_classes=0,
        img_size=asked["side_px"],
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        ref_feat_shape=(16, 16),
    )
    work = {"train_step": TrainStep, "extraction": Extraction}[asked["work"]](model, asked)
    tried = {form: [_timed(work, form) for _ in range(2)] for form in work.forms}
    form = min(tried, key=lambda name: tried[name][1])
    seconds = [_timed(work, form) for _ in range(asked["runs"])]
    versions = {"torch": torch.__version__, "timm": timm.__version__, "python": sys.version.split()[0]}
    first_s = next(iter(tried.values()))[0]
    return {"first_s": first_s, "seconds": seconds, "peak_mb": peak_mb(), "form": form, "versions": versions}


def _timed(work: TrainStep | Extraction, form: str) -> float:
    started = time.perf_counter()
    work.run(form)
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
