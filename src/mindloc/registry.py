"""Tables of all backbones, heads, losses, readers and engines, by their names in config and command line.

A new part is one file with its builder and one entry here. Its own settings are fields of ``config/sections.py``, named
in the entry's ``reads``. A builder is imported when it is first called, so unused parts cost no start-up time.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mindloc.vocabulary import GLOBAL, OMEGA, PHI, PRECISIONS


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The entry of one part in its table: how the part is built, and which config keys it reads.

    ``builder`` is "module:function"; None: nothing to build. ``reads`` names the config keys that this part reads and
    other parts of its table do not; setting such a key is an error if no chosen part reads it.
    """

    builder: str | None = None
    reads: tuple[str, ...] = ()

    def build(self, *args: Any) -> Any:
        """Call the builder and return the part; None without a builder. Each entry class states the arguments."""
        return None if self.builder is None else imported(self.builder)(*args)


def imported(name: str) -> Callable[..., Any]:
    """Import a module and return one of its functions, named as "module:function"."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@dataclass(frozen=True, kw_only=True)
class BackboneEntry(Entry):
    """A backbone. Builder: (ModelConfig, precision, form) -> Cell that is a ``Backbone`` of models/encoder.py."""

    stride: int | None = None  # pixels per position of the feature map; None: model.patch_px
    convolutional: bool = False  # slow on CPUs with some versions of MindSpore


@dataclass(frozen=True, kw_only=True)
class HeadEntry(Entry):
    """A head. Builder: (HeadConfig, backbone width) -> Cell with ``descriptors``; None: the backbone's own descriptor.

    ``losses``: descriptor that images are compared by -> config key that names its loss.
    """

    losses: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class LossEntry(Entry):
    """The loss of one descriptor. Builder: (LossConfig) -> Cell, which declares the targets that it reads."""


@dataclass(frozen=True, kw_only=True)
class ReaderEntry(Entry):
    """A reader of data sets. Builder: (DataConfig, "train" or "test", Report) -> Split; see data/readers.py."""

    views: tuple[str, str]  # what the query and the reference side show, such as "drone"
    # "module:function": (DataConfig, directory, tile names) -> Ground; None: tile names do not state the ground area
    ground: str | None = None
    # view -> width over height of its images, where all should have the same; check-data notes others
    aspect: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineEntry(Entry):
    """An engine. Builder: (EngineRequest, Source, RunConfig, batch_size, say) -> Engine, on the RunConfig's device.

    The request and the source are those of inference/build.py; ``say`` is called with one line about engine and device.
    """

    precisions: tuple[str, ...]  # that the engine supports
    file_format: str | None = None  # of the exported files that it runs; None: it runs a checkpoint
    options: tuple[str, ...] = ()  # the engine-specific fields of the request that this engine reads


_ROPE_VIT = BackboneEntry(
    builder="mindloc.models.vit_rope:build_rope_vit",
    reads=("model.patch_px", "model.reference_grid", "model.layer_scale_init"),
)
# timm's names: patch size, then the input size of the learned position embedding; patch 8 exists for 224 px only
_PLAIN_VIT_PATCHES = {"tiny": (16,), "small": (8, 16, 32), "base": (8, 16, 32), "large": (16, 32)}

BACKBONES: dict[str, BackboneEntry] = {
    **dict.fromkeys(("tiny", "compact", "small", "medium", "base"), _ROPE_VIT),
    **{
        name: BackboneEntry(
            builder=f"mindloc.models.convolutional:build_{name}",
            stride=16,
            convolutional=True,
        )
        for name in ("resnet50", "vgg16")
    },
    **{
        f"vit_{size}_patch{patch_px}_{side_px}": BackboneEntry(
            builder="mindloc.models.vit_plain:build_plain_vit", stride=patch_px, reads=("model.pool",)
        )
        for size, patches in _PLAIN_VIT_PATCHES.items()
        for patch_px in patches
        for side_px in ((224,) if patch_px == 8 else (224, 384))
    },
}

HEADS: dict[str, HeadEntry] = {
    "global": HeadEntry(losses={GLOBAL: "loss.name"}, reads=("loss.name",)),
    "two_stage": HeadEntry(
        builder="mindloc.models.two_stage:build_two_stage_head",
        losses={OMEGA: "loss.omega", PHI: "loss.phi"},
        reads=(
            *("head.channels", "head.non_local", "head.non_local_pool", "head.omega_grid", "head.phi_reads_non_local"),
            *("head.nodes", "head.similarity", "head.area", "head.sort_by_area", "head.centroids"),
            *("loss.omega", "loss.phi", "loss.beta", "search.recall_n", "search.consistency_m"),
        ),
    ),
}

LOSSES: dict[str, LossEntry] = {
    "weighted_infonce": LossEntry(builder="mindloc.losses.infonce:build_weighted_infonce", reads=("loss.k",)),
    "infonce": LossEntry(builder="mindloc.losses.infonce:build_infonce", reads=("loss.label_smoothing",)),
    "cosine_embedding": LossEntry(
        builder="mindloc.losses.cosine:build_cosine_embedding", reads=("loss.embedding_margin", "loss.negatives")
    ),
    "cosine_triplet": LossEntry(
        builder="mindloc.losses.cosine:build_cosine_triplet", reads=("loss.triplet_margin", "loss.negatives")
    ),
}

READERS: dict[str, ReaderEntry] = {
    "gta_uav": ReaderEntry(
        builder="mindloc.data.gta_uav:read",
        views=("drone", "satellite"),
        ground="mindloc.data.gta_uav:read_ground",
        reads=(
            *("data.train_pairs", "data.test_pairs"),
            *("data.map_px", "data.m_per_px", "data.test_map_px", "data.test_m_per_px"),
        ),
    ),
    "visloc": ReaderEntry(
        builder="mindloc.data.visloc:read",
        views=("drone", "satellite"),
        ground="mindloc.data.visloc:read_ground",
        reads=("data.train_pairs", "data.test_pairs"),
    ),
    "vigor": ReaderEntry(
        builder="mindloc.data.vigor:read",
        views=("ground", "satellite"),
        ground="mindloc.data.vigor:read_ground",
        reads=("data.area", "data.cities", "data.test_cities"),
        aspect={"ground": 2.0},
    ),
}

ENGINES: dict[str, EngineEntry] = {
    "mindspore": EngineEntry(builder="mindloc.inference.build:start_mindspore_engine", precisions=PRECISIONS),
    "mindir": EngineEntry(
        builder="mindloc.inference.mindir:start_mindir_engine",
        precisions=PRECISIONS,
        file_format="MINDIR",
        options=("key",),
    ),
    "onnx": EngineEntry(
        builder="mindloc.inference.onnx:start_onnx_engine",
        precisions=("fp32", "fp16", "int8"),
        file_format="ONNX",
        options=("tensorrt", "allow_cpu_provider"),
    ),
}
