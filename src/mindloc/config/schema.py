"""Every setting of a run, its type, its default and its unit.

One YAML file under ``configs/`` is one experiment: it names only what differs from the defaults here. The defaults are
Game4Loc's recipe. A ``Config`` goes as far as the builders (``*/build.py``) and no further.
"""

from dataclasses import dataclass, field
from typing import Literal

PairMode = Literal["pos", "pos_semipos"]
PlainVit = Literal[  # timm's names: patch, then the input size whose grid the learned table of positions has
    "vit_tiny_patch16_224",
    "vit_tiny_patch16_384",
    "vit_small_patch8_224",
    "vit_small_patch16_224",
    "vit_small_patch16_384",
    "vit_small_patch32_224",
    "vit_small_patch32_384",
    "vit_base_patch8_224",
    "vit_base_patch16_224",
    "vit_base_patch16_384",
    "vit_base_patch32_224",
    "vit_base_patch32_384",
    "vit_large_patch16_224",
    "vit_large_patch16_384",
    "vit_large_patch32_224",
    "vit_large_patch32_384",
]


@dataclass
class DataConfig:
    """Where the pictures and pairs are, and how the map is cut into tiles."""

    reader: Literal["gta_uav", "visloc"] = "gta_uav"  # layout of the data set; see docs/data.md
    root: str = "data/GTA-UAV"  # folder of the data set
    train_pairs: str = "cross-area-drone2sate-train.json"  # file in the root: which drone picture shows which tiles
    test_root: str | None = None  # a second data set for evaluation; None: the same root
    test_pairs: str = "cross-area-drone2sate-test.json"  # as train_pairs, in the root for evaluation
    map_px: int = 24576  # side of the whole map at the finest zoom, pixels
    m_per_px: float = 0.45  # meters per pixel of that map
    test_map_px: int | None = None  # None: as map_px
    test_m_per_px: float | None = None  # None: as m_per_px
    train_mode: PairMode = "pos_semipos"  # pairs to train on: tiles that overlap enough, or also partly
    test_mode: PairMode = "pos"  # what counts as a right answer
    query_mode: Literal["D2S", "S2D"] = "D2S"  # who asks: drone pictures for tiles, or tiles for drone pictures
    train_ratio: float = 1.0  # share of the training drone pictures that is used, 0..1
    drone_size_px: tuple[int, int] = (384, 384)  # height, width given to the encoder
    satellite_size_px: tuple[int, int] = (384, 384)  # height, width
    on_bad_image: Literal["stop", "skip"] = "stop"  # a picture that can't be read: an error, or its pairs are left out
    workers: int = 2  # threads that read and decode; at most as many as cores are used

    def source(self, split: Literal["train", "test"]) -> tuple[str, str, int, float]:
        """(root, pairs file, map_px, m_per_px) of a split."""
        if split == "train":
            return self.root, self.train_pairs, self.map_px, self.m_per_px
        map_px, m_per_px = self.test_map_px or self.map_px, self.test_m_per_px or self.m_per_px
        return self.test_root or self.root, self.test_pairs, map_px, m_per_px


@dataclass
class AugmentConfig:
    """Random changes of the training pictures (field names: probability, then size)."""

    enabled: bool = True  # False: pictures are only resized
    flip_p: float = 0.5  # both pictures of a pair together
    jpeg_p: float = 0.5  # compressed again
    jpeg_quality: tuple[int, int] = (90, 100)  # from, to; of 100
    color_p: float = 0.5  # colors jittered
    color_jitter: tuple[float, float, float, float] = (0.15, 0.15, 0.15, 0.15)  # brightness, contrast, saturation, hue
    filter_p: float = 0.3  # one of blur, sharpen
    dropout_p: float = 0.3  # one of grid dropout, coarse dropout
    grid_dropout_ratio: float = 0.4  # side of a hole, of a grid cell's
    coarse_dropout_holes: tuple[int, int] = (10, 25)  # from, to
    coarse_dropout_side: tuple[float, float] = (0.1, 0.2)  # of the input side
    rotate_drone: bool = True  # by multiples of 90 degrees
    rotate_satellite: bool = True  # the recipe: only in the cross-area setting
    cut_border: float = 0.0  # share cropped from each side before everything else; for ground pictures


@dataclass
class SamplingConfig:
    """Which pairs share a batch; all but ``mode`` is for hard negatives, pairs that follow another into its batch."""

    mode: Literal["exclusive", "exclusive_padded", "masked", "random"] = "exclusive"  # see data/sampler.py
    # a pair is followed into its batch by pairs of tiles near its drone picture: on the map, or by the descriptors of
    # the encoder as it stands; both: of the two in turn; map_then_descriptors: by the map up to hard_from_epoch
    hard_negatives: Literal["none", "map", "descriptors", "both", "map_then_descriptors"] = "none"
    # whole epochs before the first with hard negatives; of map_then_descriptors: with those by the map
    hard_from_epoch: int = 1
    refresh_every_epochs: int = 1  # between two searches by descriptors, each a pass over the training pictures
    neighbors: int = 32  # nearest tiles that may be drawn from, those that overlap left out; of both, as many of each
    companions: int = 4  # most that a pair brings: one half the nearest, the other at random of those behind
    hard_share: float = 0.5  # of a batch that companions fill at most, above 0, below 1


@dataclass
class ModelConfig:
    # RoPE ViT in five sizes (models/vit_rope.py), a convolutional network up to stride 16, or timm's plain ViT; for any
    # of them data.*_size_px says how large the pictures are, a plain ViT's positions are resampled to it
    backbone: Literal["tiny", "compact", "small", "medium", "base", "resnet50", "vgg16", PlainVit] = "base"
    pool: Literal["token", "avg"] = "token"  # plain ViT: class token through norm, or mean patch token through fc_norm
    patch_px: int = 16  # RoPE ViT; plain ones have theirs in the name, the convolutional ones a stride of 16
    reference_grid: int = 16  # RoPE ViT: grid side at which the RoPE frequencies are defined
    share_weights: bool = True  # one encoder for both views
    pretrained: str | None = None  # other people's weights to begin from, .safetensors or .pth, matched by name
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels scaled to 0..1; follows the weights
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)  # as mean
    layer_scale_init: float = 0.1  # RoPE ViT: share of each branch that is added at the start; timm pretrains from 1e-5
    logit_scale_init: float = 14.285714285714286  # 1 / 0.07


@dataclass
class HeadConfig:
    """From the backbone's map to descriptors; all but ``name`` is for ``two_stage`` (SGM-Net)."""

    name: Literal["global", "two_stage"] = "global"  # one descriptor, or Omega to recall and Phi to re-rank
    channels: int = 256  # of the map that both descriptors are made from
    non_local: Literal["dot_product", "embedded_gaussian", "none"] = "dot_product"  # how positions are compared
    non_local_pool: int = 1  # side of the squares over which keys and values are max-pooled; 1: not at all
    omega_grid: int = 0  # side of the grid that the map is averaged to for Omega; 0: the whole map
    nodes: int = 4  # K, learned centers; each makes one node of Phi
    similarity: Literal["dot", "cosine"] = "dot"  # of a position to a center
    area: Literal["soft", "count"] = "soft"  # of a node: sum of its similarities, or number of positions
    sort_by_area: bool = True  # nodes of Phi, the largest first
    phi_reads_non_local: bool = False  # Phi from the map after the non-local block instead of before
    centroids: bool = False  # where each node lies, as a third output beside Omega and Phi; no stage compares by it


@dataclass
class LossConfig:
    name: Literal["weighted_infonce", "infonce"] = "weighted_infonce"  # of the one descriptor of head.name=global
    k: float = 5.0  # steepness of the smoothing over IoU
    label_smoothing: float = 0.0  # infonce only
    # of head.name=two_stage: beta * omega + (1 - beta) * phi
    omega: Literal["cosine_embedding", "weighted_infonce", "infonce"] = "cosine_embedding"
    phi: Literal["cosine_triplet", "weighted_infonce", "infonce"] = "cosine_triplet"  # as omega
    beta: float = 0.5  # share of omega's loss
    omega_margin: float = 0.0  # cosine that negatives are pushed below; -1 pushes without end
    triplet_margin: float = 0.2  # by which the positive's cosine has to exceed a negative's
    negatives: Literal["all", "hardest"] = "all"  # of a batch: the mean over them, or the one with the largest loss


@dataclass
class OptimizerConfig:
    lr: float = 1e-4  # the largest, after the warm-up
    weight_decay: float = 0.01  # AdamW's: of the weight itself, per unit of learning rate
    decay_norm_and_bias: bool = True  # False: none on norm, bias, LayerScale, logit scale, pos_embed
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's, of mean and square of the gradient
    eps: float = 1e-8  # AdamW's
    clip: Literal["value", "norm", "none"] = "value"  # gradients: each number, or the norm of all
    clip_at: float = 100.0  # bound of that
    freeze: list[str] = field(default_factory=list)  # parameter name prefixes
    lr_scale: dict[str, float] = field(default_factory=dict)  # parameter name prefix -> factor


@dataclass
class ScheduleConfig:
    name: Literal["cosine", "polynomial", "constant"] = "cosine"  # how the learning rate falls, step by step
    warmup_epochs: float = 0.1  # rises from 0 over so many
    end_lr: float = 0.0  # at the last step
    power: float = 1.0  # polynomial only


@dataclass
class TrainConfig:
    epochs: int = 5  # over all pairs
    # weights to begin from, everything else begins anew: a mindloc checkpoint as a whole, others as model.pretrained
    checkpoint_start: str | None = None
    batch_size: int = 64  # pairs per step over all ranks together
    accumulate: int = 1  # parts of a batch that take turns on the device; without grad_cache they share no negatives
    grad_cache: bool = False  # the parts share negatives: gradients of the whole batch, for one more forward pass
    recompute: bool = False  # blocks are computed again on the way back instead of kept: half the memory on Ascend
    seed: int = 1  # of the weights, the order, the augmentation and the bootstrap
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"  # of the products; which device has which: README.md
    loss_scale_init: float = 1024.0  # fp16 only
    loss_scale_window: int = 2000  # steps without overflow before the scale doubles
    zero_shot_eval: bool = True  # before the first step
    eval_every_epochs: int = 1  # 0: never
    checkpoint_every_epochs: int = 1  # 0: only the last and a new best
    checkpoint_every_steps: int = 0  # 0: only at epoch ends
    keep_checkpoints: int = 3  # newest ones kept; the best is kept besides
    log_every_steps: int = 10  # a line on the console; metrics.jsonl has every step


@dataclass
class EvalConfig:
    batch_size: int = 64  # pictures encoded at once
    recall_at: tuple[int, ...] = (1, 5, 10)  # first answers
    sdm_at: tuple[int, ...] = (1, 3, 5)  # first answers
    bootstrap: int = 1000  # resamples for the confidence interval of Recall@1
    contact_sheet_queries: int = 8  # rows of the report's picture
    histogram_baseline: bool = True  # color histograms as a baseline in the report


@dataclass
class SearchConfig:
    """How many answers pass from stage to stage of a two-stage search."""

    recall_n: int = 100  # N: found by Omega, re-ranked by Phi
    consistency_m: int = 0  # M: first ones ordered once more by the consistency of their nodes; 0: none


@dataclass
class RunConfig:
    work_dir: str = "work_dir"  # where run folders are made
    name: str | None = None  # run folder: work_dir/{name or backbone}/{MMDDhhmmss}
    device_target: Literal["auto", "CPU", "GPU", "Ascend"] = "auto"  # auto: the best that works here
    device_ids: tuple[int, ...] = (0,)  # cards of this server; several: as many ranks
    # compiled training steps kept for the next start: a folder; none; auto: the user's cache folder, on one CPU rank.
    # With fused operators only where no evaluation comes before the first step: resumed, train.zero_shot_eval=false
    compiler_cache: str = "auto"
    # operators fused into loops, on CPUs: about half the time and memory, some seconds more to compile; auto: where it
    # can be
    operator_fusion: Literal["auto", "always", "never"] = "auto"


@dataclass
class Config:
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def view_name(self, side: Literal["query", "reference"]) -> str:
        """What a side shows."""
        return {"query": "drone", "reference": "satellite"}[side]

    def view_input(self, view: Literal["query", "reference"]) -> tuple[tuple[int, int], float]:
        """((height, width) in pixels, share cropped from each side before) of the pictures given to the encoder.

        ``augment.cut_border`` concerns the drone pictures alone: a tile's border belongs to the ground that its
        overlaps were computed for.
        """
        if view == "query":
            return self.data.drone_size_px, self.augment.cut_border
        return self.data.satellite_size_px, 0.0
