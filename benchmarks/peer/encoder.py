"""The encoder's work in PyTorch: timm's RoPE ViT in eager mode, a training step or the descriptors of a batch.

benchmarks/train_step.py and benchmarks/extraction.py start this script in an interpreter that has torch and timm, with
a JSON object as argument. The last line that the script prints is a JSON object too. Nothing of mindloc is imported.

If the work can be done in several forms, the fastest one is measured: each form is tried in a process of its own, and
the fastest one is run again in a new process, so that seconds and memory are those of one form.
"""

import json
import math
import sys
import time
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from turns import fastest, peak_mib, run_case

FORMS = {"train_step": ("two forwards", "one forward"), "extraction": ("one forward",)}


class TrainStep:
    """The training step of the recipe: two views, symmetric Weighted-InfoNCE, clipped gradient values, fused AdamW."""

    def __init__(self, model: nn.Module, request: dict):
        side, batch = request["side_px"], request["batch_size"]
        self.model = model.train()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.query, self.reference = torch.randn(batch, 3, side, side), torch.randn(batch, 3, side, side)
        self.smoothing = torch.sigmoid(-5.0 * torch.ones(batch))
        self.parameters = [*model.parameters(), self.log_scale]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.01, fused=True)
        self.forward = {"two forwards": self._two_forwards, "one forward": self._one_forward}[request["form"]]

    def run(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(*self.forward())
        loss.backward()
        nn.utils.clip_grad_value_(self.parameters, 100.0)
        self.optimizer.step()
        loss.item()

    def _two_forwards(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model(self.query), self.model(self.reference)

    def _one_forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.model(torch.cat([self.query, self.reference])).chunk(2)

    def _loss(self, query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        logits = self.log_scale.exp() * F.normalize(query, dim=-1) @ F.normalize(reference, dim=-1).T
        return (self._one_way(logits) + self._one_way(logits.T)) / 2

    def _one_way(self, logits: torch.Tensor) -> torch.Tensor:
        kept = (1 - self.smoothing) * logits.diagonal() + self.smoothing * logits.mean(1)
        return (torch.logsumexp(logits, 1) - kept).mean()


class Extraction:
    """Descriptors of a batch."""

    def __init__(self, model: nn.Module, request: dict):
        self.model = model.eval()
        self.images = torch.randn(request["batch_size"], 3, request["side_px"], request["side_px"])

    def run(self) -> None:
        with torch.inference_mode():
            self.model(self.images).numpy()


def main(request: dict) -> dict:
    """The result of ``measure`` for the form in ``request``, or for the fastest form if ``request`` has none."""
    if "form" in request:
        return measure(request)
    commands = {form: _command({**request, "form": form, "runs": 1}) for form in FORMS[request["work"]]}
    return run_case(_command({**request, "form": fastest(commands)}))


def measure(request: dict) -> dict:
    """Seconds of the first run and of the timed runs, and the peak memory, for one form of the work."""
    torch.manual_seed(0)
    torch.set_num_threads(request["cores"])
    width, depth, heads = request["backbone"]
    model = timm.create_model(
        "vit_base_patch16_rope_reg1_gap_256",
        pretrained=False,
        num_classes=0,
        img_size=request["side_px"],
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        ref_feat_shape=(16, 16),
    )
    work = {"train_step": TrainStep, "extraction": Extraction}[request["work"]](model, request)
    first_s, *seconds = (_timed(work) for _ in range(request["runs"] + 1))
    versions = {"torch": torch.__version__, "timm": timm.__version__, "python": sys.version.split()[0]}
    return {
        "first_s": first_s,
        "seconds": seconds,
        "peak_mib": peak_mib(),
        "form": request["form"],
        "versions": versions,
    }


def _timed(work: TrainStep | Extraction) -> float:
    started = time.perf_counter()
    work.run()
    return time.perf_counter() - started


def _command(request: dict) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), json.dumps(request)]


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
