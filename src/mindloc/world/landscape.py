"""Turn a plan into the map's pixel layers: first the ground, then buildings, then plants."""

import numpy as np

from mindloc.world.buildings import build_on_parcels
from mindloc.world.ground import cover_ground
from mindloc.world.map_layers import MapLayers, empty_layers
from mindloc.world.materials import numbers
from mindloc.world.town_plan import Plan
from mindloc.world.vegetation import Woods, plant


def build_layers(plan: Plan, map_px: int, m_per_px: float, rng: np.random.Generator) -> MapLayers:
    """Draw everything that stands still; cars come with each season."""
    layers = empty_layers(map_px, m_per_px, numbers("meadow")[0])
    cover_ground(layers, plan, rng)
    build_on_parcels(layers, plan, rng)
    plant(layers, plan, Woods(m_per_px, rng), rng)
    return layers
