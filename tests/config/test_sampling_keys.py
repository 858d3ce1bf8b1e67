"""Keys of hard negatives that contradict each other, or that nothing would read."""

import pytest

from mindloc.config import load_config
from mindloc.errors import ConfigError


@pytest.mark.parametrize("source", ["map", "descriptors", "both", "map_then_descriptors"])
@pytest.mark.parametrize("mode", ["exclusive", "exclusive_padded", "masked", "random"])
def test_every_source_goes_with_every_mode(source, mode):
    config = load_config(overrides=[f"sampling.mode={mode}", f"sampling.hard_negatives={source}"])
    assert (config.sampling.hard_negatives, config.sampling.mode) == (source, mode)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["hard_from_epoch=2"], "hard_from_epoch is 2; expected 1 with sampling.hard_negatives=none"),
        (["neighbors=8"], "neighbors is 8; expected 32 with sampling.hard_negatives=none"),
        (["companions=2"], "companions is 2; expected 4 with sampling.hard_negatives=none"),
        (["hard_share=0.3"], "hard_share is 0.3; expected 0.5 with sampling.hard_negatives=none"),
        (["refresh_every_epochs=2"], "refresh_every_epochs is 2; expected 1 with sampling.hard_negatives=none"),
        (["hard_negatives=map", "refresh_every_epochs=2"], "expected 1 with sampling.hard_negatives=map"),
        (["hard_negatives=map", "hard_share=1.0"], "hard_share is 1.0; expected a share above 0 and below 1"),
        (["hard_negatives=map", "hard_share=0.0"], "a share above 0 and below 1"),
        (["hard_negatives=map", "hard_share=0.001"], "a pair or more of train.batch_size=64"),
        (
            ["hard_negatives=map", "companions=9", "neighbors=8"],
            "companions is 9; expected at most sampling.neighbors=8",
        ),
        (["hard_negatives=map", "neighbors=0"], "neighbors is 0; expected a number above 0"),
        (["hard_negatives=both", "hard_from_epoch=5"], "hard_from_epoch is 5; expected below train.epochs=5"),
        (["hard_negatives=both", "hard_from_epoch=-1"], "hard_from_epoch is -1; expected 0 or more"),
        (["hard_negatives=map_then_descriptors", "hard_from_epoch=0"], "expected 1 or more with map_then_descriptors"),
        (["hard_negatives=both", "refresh_every_epochs=0"], "refresh_every_epochs is 0; expected a number above 0"),
        (["hard_negatives=nearest"], "choose from none, map, descriptors, both, map_then_descriptors"),
    ],
)
def test_what_contradicts_or_nothing_reads_is_refused(overrides, says):
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[f"sampling.{word}" for word in overrides])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_bad_pictures_can_not_be_skipped_where_every_picture_is_encoded():
    words = ["data.on_bad_image=skip", "sampling.hard_negatives=descriptors"]
    with pytest.raises(ConfigError, match="data.on_bad_image is skip; expected stop with sampling.hard_negatives"):
        load_config(overrides=words)
    assert load_config(overrides=["data.on_bad_image=skip", "sampling.hard_negatives=map"])
