"""No setting takes a number that makes no sense: each is tried with 0, -1, nan and inf."""

from mindloc.config import Config, load_config
from mindloc.config.messages import fields_of
from mindloc.errors import ConfigError

TAKEN = {
    0: {
        # a probability, or a share
        *(f"augment.{key}" for key in ("flip_p", "jpeg_p", "color_p", "filter_p", "dropout_p", "grid_dropout_ratio")),
        *("augment.coarse_dropout_side", "augment.cut_border", "loss.beta", "loss.label_smoothing"),
        # no change, no margin, no smoothing by overlap, nothing added at the start
        *("augment.color_jitter", "loss.triplet_margin", "loss.omega_margin", "loss.k", "model.layer_scale_init"),
        # never, none, from the first on, the whole map: so say their comments
        *("train.eval_every_epochs", "train.checkpoint_every_epochs", "train.checkpoint_every_steps"),
        *("search.consistency_m", "head.omega_grid", "sampling.hard_from_epoch", "eval.contact_sheet_queries"),
        # nothing is learned, or nothing of one part; no decay; no warm-up; down to nothing
        *("optimizer.lr", "optimizer.lr_scale", "optimizer.weight_decay", "schedule.warmup_epochs", "schedule.end_lr"),
        # a number among others: of a generator, of a card, a pixel's
        *("train.seed", "run.device_ids", "model.mean"),
    },
    -1: {"loss.omega_margin"},  # a cosine
    "nan": set(),
    "inf": set(),
}
CHOICES = {  # under which a key is read at all
    "head": ["head.name=two_stage"],
    "search": ["head.name=two_stage"],
    "sampling": ["sampling.hard_negatives=both"],
    "loss.beta": ["head.name=two_stage"],
    "loss.omega_margin": ["loss.name=cosine_embedding"],
    "loss.triplet_margin": ["loss.name=cosine_triplet"],
    "loss.label_smoothing": ["loss.name=infonce"],
    "schedule.power": ["schedule.name=polynomial"],
    "train.loss_scale_init": ["train.precision=fp16"],
    "train.loss_scale_window": ["train.precision=fp16"],
}


def shape_of(field: dict) -> str | None:
    """What YAML of a key that holds numbers looks like; None where it holds none."""
    if "anyOf" in field:
        return next(filter(None, map(shape_of, field["anyOf"])), None)
    if field["type"] == "array":
        items = field.get("prefixItems") or [field["items"]]
        return "[" + ", ".join(["{0}"] * len(items)) + "]" if shape_of(items[0]) else None
    if field["type"] == "object":
        return "{{backbone: {0}}}" if shape_of(field["additionalProperties"]) else None
    return "{0}" if field["type"] in ("integer", "number") else None


NUMBERS = {
    f"{section}.{key}": shape
    for section in Config.model_fields
    for key, field in fields_of(Config, section).items()
    if (shape := shape_of(field))
}


def words_with(key: str, value: object) -> list[str]:
    choices = CHOICES.get(key, CHOICES.get(key.partition(".")[0], []))
    number = f".{value}" if isinstance(value, str) else value
    return [*choices, f"{key}={NUMBERS[key].format(number)}"]


def test_numbers_of_every_form_are_found():
    forms = ("train.epochs", "optimizer.lr", "data.test_map_px", "model.std", "eval.recall_at", "optimizer.lr_scale")
    assert set(forms) <= NUMBERS.keys() and "train.grad_cache" not in NUMBERS and "run.name" not in NUMBERS
    assert set().union(*TAKEN.values(), (key for key in CHOICES if "." in key)) <= NUMBERS.keys()


def test_a_number_without_meaning_is_refused_by_name():
    unexpected = []
    for key in NUMBERS:
        for value, taken in TAKEN.items():
            *choices, word = words_with(key, value)
            load_config(None, choices)
            try:
                load_config(None, [*choices, word])
                said = None
            except ConfigError as error:
                said = str(error)
            by_name = said and said.startswith(f"config key {key}") and "to have it read" not in said
            if bool(by_name) == (key in taken) or (said and not by_name):
                unexpected.append((word, said))
    assert not unexpected
