"""Sizes of work that the encoder is measured with, and how a command line names them."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mindloc.config.schema import Config

CASES = ("base:384:2", "base:224:8", "compact:128:32")


@dataclass(frozen=True)
class Case:
    """Encoder and batch; of a training step, pairs."""

    backbone: str
    side_px: int
    batch_size: int
    fusion: str = "auto"  # run.operator_fusion; auto is what train.py and extract do

    @classmethod
    def parse(cls, text: str) -> "Case":
        """From BACKBONE:PIXELS:BATCH."""
        try:
            backbone, side_px, batch_size = text.split(":")
            return cls(backbone, int(side_px), int(batch_size))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no case; expected BACKBONE:PIXELS:BATCH, as base:384:2"
            ) from None

    def config(self) -> Config:
        """The recipe with this encoder and batch."""
        config = Config()
        config.model.backbone, config.train.batch_size = self.backbone, self.batch_size
        config.data.drone_size_px = config.data.satellite_size_px = (self.side_px, self.side_px)
        config.run.operator_fusion = self.fusion
        return config

    def use_device(self) -> None:
        """Choose the CPU as train.py and extract choose a device; before MindSpore is imported."""
        from mindloc.runtime.device import use_device

        use_device("CPU", operator_fusion=self.fusion)

    def __str__(self) -> str:
        return f"{self.backbone}, {self.side_px} px, batch {self.batch_size}"


def add_case_arguments(parser: argparse.ArgumentParser, default: Sequence[str]) -> None:
    cases = [Case.parse(case) for case in default]
    parser.add_argument("--cases", type=Case.parse, nargs="+", default=cases, metavar="BACKBONE:PIXELS:BATCH")
    add_fusion_argument(parser)


def add_fusion_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fusion", choices=("auto", "always", "never"), default="auto", help="run.operator_fusion")


def chosen_cases(args: argparse.Namespace) -> list[Case]:
    return [replace(case, fusion=args.fusion) for case in args.cases]
