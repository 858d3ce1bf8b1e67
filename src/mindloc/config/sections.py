"""Every setting of a run: its type and range, its default, its unit.

The defaults are Game4Loc's recipe. What holds between several settings is checked in ``rules.py``.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mindloc.config.field_types import (
    Condition,
    Count,
    Flag,
    LowerFirst,
    NameIn,
    Natural,
    NoBool,
    Note,
    NotNegative,
    OpenShare,
    Positive,
    Probability,
    ReadWith,
    Share,
    SizePx,
    Text,
    Whole,
)
from mindloc.registry import BACKBONES, HEADS, LOSSES, READERS
from mindloc.vocabulary import PairMode, Precision

Percent = Annotated[Whole, Field(ge=1, le=100)]
Jitter = Annotated[
    tuple[NotNegative, NotNegative, NotNegative, NotNegative],
    Condition("the last (hue) at most 0.5", lambda jitter: jitter[3] <= 0.5),
]
AllDifferent = Condition("all different", lambda numbers: len(set(numbers)) == len(numbers))
LossName = Annotated[Text, NameIn(LOSSES)]
_HARD = ReadWith("sampling.hard_negatives", ("map", "descriptors", "both", "map_then_descriptors"))
_HARD_BY_DESCRIPTORS = ReadWith("sampling.hard_negatives", ("descriptors", "both", "map_then_descriptors"))
_FP16 = ReadWith("train.precision", ("fp16",))


class Section(BaseModel):
    """Settings that can't be changed, only copied; an unknown name is refused, and so are inf and nan."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, tree: Any) -> Any:
        return {} if tree is None else tree  # a section of a YAML file without lines


class DataConfig(Section):
    """Where the images and pairs are, and how the map is cut into tiles."""

    reader: Annotated[Text, NameIn(READERS)] = "gta_uav"  # layout of the data set; see docs/data.md
    root: Text = "data/GTA-UAV"  # directory of the data set
    train_pairs: Text = "cross-area-drone2sate-train.json"  # file in the root: which query image shows which tiles
    test_root: Text | None = None  # a second data set for evaluation; null: the same root
    test_pairs: Text = "cross-area-drone2sate-test.json"  # as train_pairs, in the root for evaluation
    map_px: Count = 24576  # side of the whole map at the finest zoom, pixels
    m_per_px: Positive = 0.45  # meters per pixel of that map
    test_map_px: Annotated[Count | None, Note("which means data.map_px")] = None  # of the second data set
    test_m_per_px: Annotated[Positive | None, Note("which means data.m_per_px")] = None  # of the second data set
    train_mode: PairMode = "pos_semipos"  # pairs to train on: tiles that overlap enough, or also partly
    test_mode: PairMode = "pos"  # what counts as a right answer
    train_ratio: Annotated[float, Field(gt=0, le=1), NoBool] = 1.0  # share of the training query images that is used
    query_size_px: SizePx = (384, 384)  # height, width of the query side's images as the encoder gets them
    reference_size_px: SizePx = (384, 384)  # height, width of the reference side's
    on_bad_image: Literal["stop", "skip"] = "stop"  # an image that can't be read: an error, or its pairs are left out
    workers: Count = 2  # threads that read and decode; at most as many as cores are used

    def source(self, split: Literal["train", "test"]) -> tuple[str, str, int, float]:
        """(root, pairs file, map_px, m_per_px) of a split."""
        if split == "train":
            return self.root, self.train_pairs, self.map_px, self.m_per_px
        map_px, m_per_px = self.test_map_px or self.map_px, self.test_m_per_px or self.m_per_px
        return self.test_root or self.root, self.test_pairs, map_px, m_per_px


class AugmentConfig(Section):
    """Random changes of the training images (names: probability, then size)."""

    enabled: Flag = True  # false: images are only resized
    flip_p: Probability = 0.5  # both images of a pair together
    jpeg_p: Probability = 0.5  # compressed again
    jpeg_quality: Annotated[tuple[Percent, Percent], LowerFirst] = (90, 100)  # from, to
    color_p: Probability = 0.5  # colors jittered
    color_jitter: Jitter = (0.15, 0.15, 0.15, 0.15)  # brightness, contrast, saturation, hue
    filter_p: Probability = 0.3  # one of blur, sharpen
    dropout_p: Probability = 0.3  # one of grid dropout, coarse dropout
    grid_dropout_ratio: Share = 0.4  # side of a hole, of a grid cell's
    coarse_dropout_holes: Annotated[tuple[Count, Count], LowerFirst] = (10, 25)  # from, to
    coarse_dropout_side: Annotated[tuple[Share, Share], LowerFirst] = (0.1, 0.2)  # of the input side; from, to
    rotate_query: Flag = True  # by multiples of 90 degrees
    rotate_reference: Flag = True  # the recipe: only in the cross-area setting
    # share cropped from each side of the query images before everything else; for photos from the ground
    cut_border: Annotated[float, Field(ge=0, lt=0.5), NoBool] = 0.0


class SamplingConfig(Section):
    """Which pairs share a batch; all but ``mode`` is for hard negatives, pairs that a miner adds to another's batch."""

    mode: Literal["exclusive", "exclusive_padded", "masked", "random"] = "exclusive"  # see data/sampler.py
    # mined pairs show tiles near the pair's query image: on the map, or by the descriptors of the encoder as it is;
    # both: of the two in turn; map_then_descriptors: by the map up to hard_from_epoch
    hard_negatives: Literal["none", "map", "descriptors", "both", "map_then_descriptors"] = "none"
    # whole epochs before the first with hard negatives; of map_then_descriptors: with those by the map
    hard_from_epoch: Annotated[Natural, _HARD] = 1
    # between two searches by descriptors, each a pass over the training images
    refresh_every_epochs: Annotated[Count, _HARD_BY_DESCRIPTORS] = 1
    # nearest tiles that may be drawn from, those that overlap left out; of both, as many of each
    neighbors: Annotated[Count, _HARD] = 32
    mined_per_pair: Annotated[Count, _HARD] = 4  # most pairs mined for one: half the nearest, the rest at random
    hard_share: Annotated[OpenShare, _HARD] = 0.5  # of a batch that mined pairs fill at most


class ModelConfig(Section):
    """The backbone, and how both sides use it."""

    # RoPE ViT in five sizes, a convolutional network up to stride 16, or timm's plain ViT; for any of them
    # data.*_size_px says how large the images are, a plain ViT's positions are resampled to it
    backbone: Annotated[Text, NameIn(BACKBONES)] = "base"
    pool: Literal["token", "avg"] = "token"  # plain ViT: class token through norm, or mean patch token through fc_norm
    patch_px: Count = 16  # RoPE ViT; plain ones have theirs in the name, the convolutional ones a stride of 16
    reference_grid: Count = 16  # RoPE ViT: grid side at which the RoPE frequencies are defined
    share_weights: Flag = True  # one encoder for both sides
    pretrained: Text | None = None  # other people's weights to begin from, .safetensors or .pth, matched by name
    pretrained_strict: Flag = False  # refuse weights in which a parameter is missing, or that have unexpected ones
    # of pixels scaled to 0..1; follows the weights
    mean: Annotated[tuple[Share, Share, Share], Note("of pixels scaled to that")] = (0.5, 0.5, 0.5)
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)  # as mean
    # RoPE ViT: share of each branch that is added at the start; timm pretrains from 1e-5
    layer_scale_init: NotNegative = 0.1
    logit_scale_init: Positive = 14.285714285714286  # 1 / 0.07

    @property
    def stride_px(self) -> int:
        """Pixels of an image per position of the backbone's map."""
        return BACKBONES[self.backbone].stride or self.patch_px


class HeadConfig(Section):
    """From the backbone's map to descriptors; all but ``name`` is for ``two_stage`` (SGM-Net)."""

    name: Annotated[Text, NameIn(HEADS)] = "global"  # one descriptor, or Omega to recall and Phi to re-rank
    channels: Count = 256  # of the map that both descriptors are made from
    non_local: Literal["dot_product", "embedded_gaussian", "none"] = "dot_product"  # how positions are compared
    non_local_pool: Count = 1  # side of the squares over which keys and values are max-pooled; 1: not at all
    omega_grid: Natural = 0  # side of the grid that the map is averaged to for Omega; 0: the whole map
    nodes: Count = 4  # K, learned centers; each makes one node of Phi
    similarity: Literal["dot", "cosine"] = "dot"  # of a position to a center
    area: Literal["soft", "count"] = "soft"  # of a node: sum of its similarities, or number of positions
    sort_by_area: Flag = True  # nodes of Phi, the largest first
    phi_reads_non_local: Flag = False  # Phi from the map after the non-local block instead of before
    centroids: Flag = False  # where each node lies, as a third output beside Omega and Phi; no stage compares by it


class LossConfig(Section):
    """The loss of each descriptor, by its name in LOSSES of mindloc/registry.py."""

    name: LossName = "weighted_infonce"  # of the one descriptor of head.name=global
    k: NotNegative = 5.0  # weighted_infonce: steepness of the smoothing over IoU
    label_smoothing: Share = 0.0  # infonce
    omega: LossName = "cosine_embedding"  # of head.name=two_stage: beta * omega + (1 - beta) * phi
    phi: LossName = "cosine_triplet"  # as omega
    beta: Share = 0.5  # weight of omega's loss
    # cosine_embedding: the cosine that negatives are pushed below; -1 pushes without end
    omega_margin: Annotated[float, Field(ge=-1, le=1), NoBool, Note("a cosine")] = 0.0
    triplet_margin: NotNegative = 0.2  # cosine_triplet: by which the positive's cosine has to exceed a negative's
    # of both cosine losses, over a batch: the mean over the negatives, or the one with the largest loss
    negatives: Literal["all", "hardest"] = "all"


class OptimizerConfig(Section):
    """AdamW, and what is done to the gradients before."""

    lr: NotNegative = 1e-4  # the largest, after the warm-up
    weight_decay: NotNegative = 0.01  # of the weight itself, per unit of learning rate
    decay_norm_and_bias: Flag = True  # false: none on norm, bias, LayerScale, logit scale, pos_embed
    betas: tuple[OpenShare, OpenShare] = (0.9, 0.999)  # of mean and square of the gradient
    eps: Positive = 1e-8  # added to the root of the square
    clip: Literal["value", "norm", "none"] = "value"  # gradients: each number, or the norm of all
    clip_at: Positive = 100.0  # bound of that
    freeze: tuple[Text, ...] = ()  # parameter name prefixes
    lr_scale: dict[Text, NotNegative] = {}  # parameter name prefix -> factor


class ScheduleConfig(Section):
    """How the learning rate rises and falls, step by step."""

    name: Literal["cosine", "polynomial", "constant"] = "cosine"  # how it falls
    warmup_epochs: NotNegative = 0.1  # rises from 0 over so many
    end_lr: Annotated[NotNegative, ReadWith("schedule.name", ("cosine", "polynomial"))] = 0.0  # at the last step
    power: Annotated[Positive, ReadWith("schedule.name", ("polynomial",))] = 1.0  # polynomial only


class TrainConfig(Section):
    """How long, in which batches and number format, and how often it evaluates, saves and logs."""

    epochs: Count = 5  # over all pairs
    # weights to begin from, everything else begins anew: a mindloc checkpoint as a whole, others as model.pretrained
    checkpoint_start: Text | None = None
    batch_size: Count = 64  # pairs per step over all ranks together
    accumulate: Count = 1  # parts of a batch that take turns on the device; without grad_cache they share no negatives
    grad_cache: Flag = False  # the parts share negatives: gradients of the whole batch, for one more forward pass
    recompute: Flag = False  # blocks are computed again in the backward pass, not kept: half the memory on Ascend
    seed: Natural = 1  # of the weights, the order, the augmentation and the bootstrap
    precision: Precision = "fp32"  # of the products; which device has which: README.md
    loss_scale_init: Annotated[Positive, _FP16] = 1024.0  # fp16 only
    loss_scale_window: Annotated[Count, _FP16] = 2000  # fp16 only: steps without overflow before the scale doubles
    zero_shot_eval: Flag = True  # before the first step
    eval_every_epochs: Natural = 1  # 0: never
    checkpoint_every_epochs: Natural = 1  # 0: only the last and a new best
    checkpoint_every_steps: Natural = 0  # 0: only at epoch ends
    keep_checkpoints: Count = 3  # newest ones kept; the best is kept besides
    log_every_steps: Count = 10  # a line on the console; metrics.jsonl has every step


class EvalConfig(Section):
    """Which side asks, and which numbers are reported."""

    swap_sides: Flag = False  # true: the reference side asks, and the query side is searched
    batch_size: Count = 64  # images encoded at once
    recall_at: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 5, 10)  # first answers
    sdm_at: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 3, 5)  # first answers
    bootstrap: Count = 1000  # resamples for the confidence interval of Recall@1
    contact_sheet_queries: Natural = 8  # rows of the report's contact sheet
    histogram_baseline: Flag = True  # color histograms as a baseline in the report


class SearchConfig(Section):
    """How many answers pass from stage to stage of a two-stage search."""

    recall_n: Count = 100  # N: found by Omega, re-ranked by Phi
    consistency_m: Natural = 0  # M: first ones ordered once more by the consistency of their nodes; 0: none


class RunConfig(Section):
    """Where a run is written and computed."""

    work_dir: Text = "work_dir"  # where run directories are made
    name: Text | None = None  # run directory: work_dir/{name or backbone}/{MMDDhhmmss}
    device_target: Literal["auto", "CPU", "GPU", "Ascend"] = "auto"  # auto: the best that works here
    # cards of this server; several: as many ranks
    device_ids: Annotated[tuple[Natural, ...], Field(min_length=1), AllDifferent] = (0,)
    # operators fused into loops, on CPUs: about half the time and memory, some seconds more to compile; auto: where it
    # can be
    operator_fusion: Literal["auto", "always", "never"] = "auto"
