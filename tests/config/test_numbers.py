"""Every numeric setting is tried with 0, -1, nan and inf; only those listed here accept one of them."""

from mindloc.config import Config, load_config
from mindloc.config.messages import fields_of
from mindloc.errors import ConfigError

ACCEPTED = {
    0: {
        # a probability or a fraction
        *(f"augment.{key}" for key in ("flip_p", "jpeg_p", "color_p", "filter_p", "dropout_p", "grid_dropout_ratio")),
        *("augment.coarse_dropout_side", "augment.cut_border", "loss.beta", "loss.label_smoothing"),
        # no change, no margin, no smoothing by overlap, LayerScale 0
        *("augment.color_jitter", "loss.triplet_margin", "loss.embedding_margin", "loss.k", "model.layer_scale_init"),
        # never, none, from the first epoch, the whole map: as their comments state
        *("train.eval_every_epochs", "train.checkpoint_every_epochs", "train.checkpoint_every_steps"),
        *("search.consistency_m", "head.omega_grid", "sampling.hard_from_epoch", "eval.contact_sheet_queries"),
        # learning rate 0, of all or of one part; no decay; no warm-up; final learning rate 0
        *("optimizer.lr", "optimizer.lr_scale", "optimizer.weight_decay", "schedule.warmup_epochs", "schedule.end_lr"),
        # an identifier or value: a seed, a card, a pixel mean
        *("train.seed", "run.device_ids", "model.mean"),
    },
    -1: {"loss.embedding_margin"},  # a cosine
    "nan": set(),
    "inf": set(),
}
CHOICES = {  # under which a key is read
    "head": ["head.name=two_stage"],
    "search": ["head.name=two_stage"],
    "sampling": ["sampling.hard_negatives=both"],
    "loss.beta": ["head.name=two_stage"],
    "loss.embedding_margin": ["loss.name=cosine_embedding"],
    "loss.triplet_margin": ["loss.name=cosine_triplet"],
    "loss.label_smoothing": ["loss.name=infonce"],
    "schedule.power": ["schedule.name=polynomial"],
    "train.loss_scale_init": ["train.precision=fp16"],
    "train.loss_scale_window": ["train.precision=fp16"],
}


def shape_of(field: dict) -> str | None:
    """YAML template of a numeric setting; None for other settings."""
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
    assert set().union(*ACCEPTED.values(), (key for key in CHOICES if "." in key)) <= NUMBERS.keys()


def test_an_invalid_number_is_an_error_that_names_the_key():
    unexpected = []
    for key in NUMBERS:
        for value, accepted in ACCEPTED.items():
            *choices, word = words_with(key, value)
            load_config(None, choices)
            try:
                load_config(None, [*choices, word])
                said = None
            except ConfigError as error:
                said = str(error)
            by_name = said and said.startswith(f"config key {key}") and "to have it read" not in said
            if bool(by_name) == (key in accepted) or (said and not by_name):
                unexpected.append((word, said))
    assert not unexpected
