"""Every setting of a run: its type and range, its default, its unit.

The defaults are Game4Loc's recipe. Constraints between settings are checked in ``schema.py``.
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
CityNames = Annotated[
    tuple[Text, ...],
    Condition(
        "all different, each the name of a directory",
        lambda names: (
            len(set(names)) == len(names) and not any(name in ("", ".", "..") or "/" in name for name in names)
        ),
    ),
]
LossName = Annotated[Text, NameIn(LOSSES)]
_HARD = ReadWith("sampling.hard_negatives", ("map", "descriptors", "both", "map_then_descriptors"))
_HARD_BY_DESCRIPTORS = ReadWith("sampling.hard_negatives", ("descriptors", "both", "map_then_descriptors"))
_FP16 = ReadWith("train.precision", ("fp16",))


class Section(BaseModel):
    """Immutable settings; unknown names, inf and nan are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty(cls, tree: Any) -> Any:
        return {} if tree is None else tree  # an empty section of a YAML file


class DataConfig(Section):
    """Images, pairs, and the tiling of the map."""

    reader: Annotated[Text, NameIn(READERS)] = "gta_uav"  # layout of the data set; see docs/data.md
    root: Text = "data/GTA-UAV"  # directory of the data set
    train_pairs: Text = "cross-area-drone2sate-train.json"  # file in the root: tiles that each query image overlaps
    test_root: Text | None = None  # directory of a second data set, for evaluation; null: data.root
    test_pairs: Text = "cross-area-drone2sate-test.json"  # as train_pairs, for evaluation
    # VIGOR: train and test in different cities, or in one half each of the same ones
    area: Literal["same", "cross"] = "cross"
    # VIGOR: cities of both halves, or with cross those of the training; empty: those of the publication, or in other
    # data all, with cross the first half by name
    cities: CityNames = ()
    test_cities: CityNames = ()  # VIGOR with cross: cities of the evaluation, where data.cities names those of training
    map_px: Count = 24576  # side of the whole map at the finest zoom, pixels
    m_per_px: Positive = 0.45  # meters per pixel of that map
    test_map_px: Annotated[Count | None, Note("which means data.map_px")] = None  # map_px of the second data set
    test_m_per_px: Annotated[Positive | None, Note("which means data.m_per_px")] = (
        None  # m_per_px of the second data set
    )
    train_mode: PairMode = "pos_semipos"  # training pairs: positives only, or also semi-positives (partial overlap)
    test_mode: PairMode = "pos"  # tiles that count as a correct answer
    train_ratio: Annotated[float, Field(gt=0, le=1), NoBool] = 1.0  # fraction of the training query images used
    query_size_px: SizePx = (384, 384)  # height, width in pixels of the encoder's input for the query side
    reference_size_px: SizePx = (384, 384)  # height, width in pixels for the reference side
    on_bad_image: Literal["stop", "skip"] = (
        "stop"  # unreadable image: an error, or left out; always an error in an evaluation
    )
    workers: Count = 2  # threads that read and decode images; limited to the number of cores

    def source(self, split: Literal["train", "test"]) -> tuple[str, str, int, float]:
        """(root, pairs file, map_px, m_per_px) of a split."""
        if split == "train":
            return self.root, self.train_pairs, self.map_px, self.m_per_px
        map_px, m_per_px = self.test_map_px or self.map_px, self.test_m_per_px or self.m_per_px
        return self.test_root or self.root, self.test_pairs, map_px, m_per_px


class AugmentConfig(Section):
    """Augmentation of the training images. A key that ends in ``_p`` is a probability."""

    enabled: Flag = True  # false: images are only resized
    flip_p: Probability = 0.5  # horizontal flip, both images of a pair together
    jpeg_p: Probability = 0.5  # JPEG compression
    jpeg_quality: Annotated[tuple[Percent, Percent], LowerFirst] = (90, 100)  # minimum, maximum
    color_p: Probability = 0.5  # color jitter
    color_jitter: Jitter = (0.15, 0.15, 0.15, 0.15)  # brightness, contrast, saturation, hue
    filter_p: Probability = 0.3  # blur or sharpen
    dropout_p: Probability = 0.3  # grid dropout or coarse dropout
    grid_dropout_ratio: Share = 0.4  # side of a hole as a fraction of the grid cell's
    coarse_dropout_holes: Annotated[tuple[Count, Count], LowerFirst] = (10, 25)  # minimum, maximum number
    coarse_dropout_side: Annotated[tuple[Share, Share], LowerFirst] = (0.1, 0.2)  # fraction of the input side; min, max
    rotate_query: Flag = True  # by multiples of 90 degrees
    rotate_reference: Flag = True  # as rotate_query; Game4Loc does so in the cross-area setting only
    # fraction of height and width cropped at each border of the query images, before any other step; for photos from
    # the ground
    cut_border: Annotated[float, Field(ge=0, lt=0.5), NoBool] = 0.0


class SamplingConfig(Section):
    """Composition of batches. All but ``mode`` is for hard negatives: pairs that a miner adds to a pair's batch."""

    mode: Literal["exclusive", "exclusive_padded", "masked", "random"] = (
        "exclusive"  # pairs of a batch, see data/sampler.py
    )
    # source of the mined pairs, whose tiles are near the pair's query image: on the map, or by the encoder's current
    # descriptors; both: the two in turn; map_then_descriptors: by the map until hard_from_epoch
    hard_negatives: Literal["none", "map", "descriptors", "both", "map_then_descriptors"] = "none"
    # number of epochs before the first with hard negatives; map_then_descriptors: before the first by descriptors
    hard_from_epoch: Annotated[Natural, _HARD] = 1
    # epochs between two searches by descriptors, each of which encodes all training images
    refresh_every_epochs: Annotated[Count, _HARD_BY_DESCRIPTORS] = 1
    # nearest non-overlapping tiles to draw from; with both, this many from each source
    neighbors: Annotated[Count, _HARD] = 32
    mined_per_pair: Annotated[Count, _HARD] = 4  # maximum mined pairs per pair: half the nearest, the rest random
    hard_share: Annotated[OpenShare, _HARD] = 0.5  # maximum fraction of mined pairs in a batch


class ModelConfig(Section):
    """The backbone, its initial weights and its input."""

    # RoPE ViT in five sizes, a convolutional network up to stride 16, or timm's plain ViT, whose position embedding is
    # resampled to data.*_size_px
    backbone: Annotated[Text, NameIn(BACKBONES)] = "base"
    pool: Literal["token", "avg"] = "token"  # plain ViT: class token after norm, or mean patch token after fc_norm
    patch_px: Count = 16  # RoPE ViT: patch side; a plain ViT's is in its name, convolutional networks have stride 16
    reference_grid: Count = 16  # RoPE ViT: grid side at which the RoPE frequencies are defined
    share_weights: Flag = True  # one encoder for both sides
    pretrained: Text | None = None  # initial weights from elsewhere, .safetensors, .pth or .ckpt, matched by name
    pretrained_strict: Flag = False  # true: missing or unexpected parameters in these weights are an error
    # pixel mean after scaling to 0..1; must match the pretrained weights
    mean: Annotated[tuple[Share, Share, Share], Note("for pixels scaled to 0..1")] = (0.5, 0.5, 0.5)
    std: tuple[Positive, Positive, Positive] = (0.5, 0.5, 0.5)  # as mean
    # RoPE ViT: initial LayerScale; timm pretrains from 1e-5
    layer_scale_init: NotNegative = 0.1
    logit_scale_init: Positive = 14.285714285714286  # 1 / 0.07

    @property
    def stride_px(self) -> int:
        """Image pixels per position of the backbone's feature map."""
        return BACKBONES[self.backbone].stride or self.patch_px


class HeadConfig(Section):
    """How the feature map becomes descriptors; all keys but ``name`` are for ``two_stage`` (SGM-Net)."""

    name: Annotated[Text, NameIn(HEADS)] = "global"  # one descriptor; two_stage: Omega for recall, Phi for re-ranking
    channels: Count = 256  # of the feature map that both descriptors are computed from
    non_local: Literal["dot_product", "embedded_gaussian", "none"] = "dot_product"  # form of the non-local block
    non_local_pool: Count = 1  # max-pooling window side for keys and values; 1: no pooling
    omega_grid: Natural = 0  # side of the grid that the map is average-pooled to for Omega; 0: the whole map
    nodes: Count = 4  # K, number of learned centers; one node of Phi each
    similarity: Literal["dot", "cosine"] = "dot"  # between a position and a center
    area: Literal["soft", "count"] = "soft"  # of a node: sum of its similarities, or number of positions
    sort_by_area: Flag = True  # order of Phi's nodes: largest first
    phi_reads_non_local: Flag = False  # true: Phi from the map after the non-local block, false: before it
    centroids: Flag = False  # image position of each node as a third output; never compared between images


class LossConfig(Section):
    """The loss of each descriptor, by name in LOSSES of mindloc/registry.py."""

    name: LossName = "weighted_infonce"  # loss of the single descriptor of head.name=global
    k: NotNegative = 5.0  # weighted_infonce: steepness of the label smoothing over IoU
    label_smoothing: Share = 0.0  # infonce: 0 to 1
    omega: LossName = (
        "cosine_embedding"  # loss of Omega; total with head.name=two_stage: beta * omega + (1 - beta) * phi
    )
    phi: LossName = "cosine_triplet"  # loss of Phi
    beta: Share = 0.5  # weight of Omega's loss; Phi's is 1 - beta
    # cosine_embedding: negatives with a cosine below this have no loss; -1: all have one
    embedding_margin: Annotated[float, Field(ge=-1, le=1), NoBool, Note("a cosine")] = 0.0
    triplet_margin: NotNegative = 0.2  # cosine_triplet: margin between the positive's cosine and a negative's
    # both cosine losses, within a batch: mean over the negatives, or only the one with the largest loss
    negatives: Literal["all", "hardest"] = "all"


class OptimizerConfig(Section):
    """AdamW and gradient clipping."""

    lr: NotNegative = 1e-4  # learning rate at its peak, after the warm-up
    weight_decay: NotNegative = 0.01  # decoupled, multiplied by the learning rate
    decay_norm_and_bias: Flag = True  # false: no decay of norm, bias, LayerScale, logit scale, pos_embed, cls_token
    betas: tuple[OpenShare, OpenShare] = (0.9, 0.999)  # decay rates of the first and second moment
    eps: Positive = 1e-8  # added to the root of the second moment
    clip: Literal["value", "norm", "none"] = "value"  # gradient clipping: each element, or the global norm
    clip_at: Positive = 100.0  # clipping threshold
    freeze: tuple[Text, ...] = ()  # prefixes of parameter names that are not trained
    lr_scale: dict[Text, NotNegative] = {}  # parameter name prefix -> factor of the learning rate


class ScheduleConfig(Section):
    """The learning rate at each step."""

    name: Literal["cosine", "polynomial", "constant"] = "cosine"  # decay after the warm-up
    warmup_epochs: NotNegative = 0.1  # epochs of linear warm-up from 0
    end_lr: Annotated[NotNegative, ReadWith("schedule.name", ("cosine", "polynomial"))] = 0.0  # at the last step
    power: Annotated[Positive, ReadWith("schedule.name", ("polynomial",))] = 1.0  # polynomial only: exponent


class TrainConfig(Section):
    """Length, batches, precision, and the intervals of evaluation, checkpoints and log lines."""

    epochs: Count = 5  # passes over the training pairs
    # initial weights of a new run: a run directory, a mindloc checkpoint, or weights as for model.pretrained
    checkpoint_start: Text | None = None
    batch_size: Count = 64  # pairs per step, over all ranks
    accumulate: Count = 1  # parts that a batch is processed in; without grad_cache they do not share negatives
    grad_cache: Flag = False  # true: the parts share negatives, as in one batch, at the cost of a second forward pass
    recompute: Flag = False  # true: recompute activations in the backward pass; half the memory on Ascend
    seed: Natural = 1  # of initial weights, order, augmentation and bootstrap
    precision: Precision = "fp32"  # of matrix products; for support by device see README.md
    loss_scale_init: Annotated[Positive, _FP16] = 1024.0  # fp16 only: initial loss scale
    loss_scale_window: Annotated[Count, _FP16] = 2000  # fp16 only: steps without overflow before the scale doubles
    zero_shot_eval: Flag = True  # evaluate before the first step
    eval_every_epochs: Natural = 1  # 0: never
    checkpoint_every_epochs: Natural = 1  # 0: only the last and a new best
    checkpoint_every_steps: Natural = 0  # 0: only at the end of an epoch
    keep_checkpoints: Count = 3  # number of newest checkpoints to keep; the best is kept in addition
    log_every_steps: Count = 10  # console lines; metrics.jsonl records every step


class EvalConfig(Section):
    """Direction of the search, and what is reported."""

    swap_sides: Flag = False  # true, S2D: search the query side with the reference side's images
    batch_size: Count = 64  # images per forward pass
    recall_at: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 5, 10)  # K of Recall@K
    sdm_at: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 3, 5)  # K of SDM@K
    bootstrap: Annotated[Count, Field(le=100_000)] = 1000  # resamples for the confidence interval of Recall@1
    contact_sheet_queries: Natural = 8  # rows of the report's contact sheet
    histogram_baseline: Flag = True  # report a color-histogram baseline


class SearchConfig(Section):
    """Number of candidates in each stage of a two-stage search."""

    recall_n: Count = 100  # N: recalled by Omega, re-ranked by Phi
    consistency_m: Natural = 0  # M: top candidates re-ranked again by the consistency of their nodes; 0: none


class RunConfig(Section):
    """Output directory and device of a run."""

    work_dir: Text = "work_dir"  # parent of the run directories
    name: Text | None = None  # run directory: work_dir/{name or backbone}/{MMDDhhmmss}
    device_target: Literal["auto", "CPU", "GPU", "Ascend"] = "auto"  # device; auto: the best that works here
    # cards of this server, one rank each
    device_ids: Annotated[tuple[Natural, ...], Field(min_length=1), AllDifferent] = (0,)
    # operator fusion on CPUs: about half the time and memory, some seconds longer to compile; auto: where supported
    operator_fusion: Literal["auto", "always", "never"] = "auto"
