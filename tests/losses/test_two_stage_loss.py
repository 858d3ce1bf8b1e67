"""The combined loss of Omega and Phi: its parts, their weights, and the settings."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindloc.config import load_config
from mindloc.losses.cosine import cosine_embedding, cosine_triplet
from mindloc.losses.criterion import build_criterion
from mindloc.losses.infonce import infonce, weighted_infonce


@pytest.fixture(scope="module", autouse=True)
def graph_mode():
    ms.set_context(mode=ms.GRAPH_MODE)


def outputs():
    random = np.random.RandomState(0)
    rows = {
        f"{view}.{name}": random.standard_normal((4, 7)) for view in ("query", "reference") for name in ("omega", "phi")
    }
    rows["logit_scale"] = np.array([10.0, 20.0])
    return {name: Tensor(array.astype(np.float32)) for name, array in rows.items()}


WEIGHT = Tensor(np.array([0.9, 0.5, 0.2, 0.7], np.float32))
MASK = np.ones((4, 4), bool)
MASK[0, 2] = False


def criterion_of(*overrides):
    return build_criterion(load_config(None, ["head.name=two_stage", *overrides]))


def expected(name, made, which, scale, loss):
    query, reference, mask = made[f"query.{which}"], made[f"reference.{which}"], Tensor(MASK)
    scale = Tensor(np.array([scale], np.float32))
    functions = {
        "cosine_embedding": lambda: cosine_embedding(query, reference, loss.get("embedding_margin", 0.0), "all", mask),
        "cosine_triplet": lambda: cosine_triplet(query, reference, 0.2, "all", mask),
        "weighted_infonce": lambda: weighted_infonce(query, reference, scale, WEIGHT, 5.0, mask)[0],
        "infonce": lambda: infonce(query, reference, scale, 0.1, mask)[0],
    }
    return float(functions[name]())


@pytest.mark.parametrize(
    ("omega", "phi"),
    [
        ("cosine_embedding", "cosine_triplet"),
        ("weighted_infonce", "infonce"),
        ("infonce", "weighted_infonce"),
        ("cosine_triplet", "cosine_embedding"),
    ],
)
def test_the_losses_are_weighted_by_beta(omega, phi):
    smoothing = ["loss.label_smoothing=0.1"] if "infonce" in (omega, phi) else []
    criterion = criterion_of(f"loss.omega={omega}", f"loss.phi={phi}", "loss.beta=0.3", *smoothing)
    made = outputs()
    total, parts = criterion(made, {"iou": WEIGHT}, Tensor(MASK))
    of_omega, of_phi = expected(omega, made, "omega", 10.0, {}), expected(phi, made, "phi", 20.0, {})
    assert tuple(parts) == criterion.component_names == ("omega", "phi")
    assert float(parts["omega"]) == pytest.approx(of_omega, rel=1e-6)
    assert float(parts["phi"]) == pytest.approx(of_phi, rel=1e-6)
    assert float(total) == pytest.approx(0.3 * of_omega + 0.7 * of_phi, rel=1e-6)


def test_margins_and_negatives_follow_the_settings():
    made = outputs()
    criterion = criterion_of("loss.embedding_margin=-1", "loss.triplet_margin=0.5", "loss.negatives=hardest")
    _, parts = criterion(made, {"iou": WEIGHT}, Tensor(MASK))
    pairs = {name: (made[f"query.{name}"], made[f"reference.{name}"]) for name in ("omega", "phi")}
    assert float(parts["omega"]) == pytest.approx(
        float(cosine_embedding(*pairs["omega"], -1.0, "hardest", Tensor(MASK))), rel=1e-6
    )
    assert float(parts["phi"]) == pytest.approx(
        float(cosine_triplet(*pairs["phi"], 0.5, "hardest", Tensor(MASK))), rel=1e-6
    )
