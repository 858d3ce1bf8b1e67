"""Parameters as the console sends them: strings, with the platform's own among them."""

import pytest

from mindloc.errors import ConfigError
from mindloc.modelarts.arguments import parse_arguments

URLS = ["--data_url=obs://bucket/data", "--train_url=obs://bucket/out"]


def test_the_consoles_strings_are_converted():
    words = ["--modelarts=True", "--run_distribute=False", "--eval", "false", "--begin_epoch=3", "--checkpoint_url="]
    args = parse_arguments([*URLS, *words])
    assert (args.modelarts, args.run_distribute, args.eval, args.evaluate_only) == (True, False, False, False)
    assert args.begin_epoch == 3
    assert args.checkpoint_url is None  # a field left empty


def test_parameters_that_are_left_out_have_their_defaults():
    args = parse_arguments(URLS)
    assert (args.modelarts, args.run_distribute, args.eval, args.begin_epoch) == (True, True, None, None)


def test_the_flags_of_train_keep_their_order():
    args = parse_arguments([*URLS, "--lr=0.1", "--set", "train.seed=4", "--epochs", "7", "--config", "x.yaml"])
    assert args.overrides == ("optimizer.lr=0.1", "train.seed=4", "train.epochs=7")
    assert str(args.config) == "x.yaml"


def test_the_platforms_own_parameters_are_named_and_ignored(capsys):
    parse_arguments([*URLS, "--num_gpus=8", "--init_method", "tcp://host:1", "--epohcs=3", "stray"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "warning: ignored, mindloc has no such parameter: --num_gpus=8",
        "warning: ignored, mindloc has no such parameter: --init_method tcp://host:1",
        "warning: ignored, mindloc has no such parameter: --epohcs=3 stray (did you mean --epochs?)",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--eval=yes"],
            "invalid value for '--eval': 'yes' is neither True nor False; python modelarts/start.py --help",
        ),
        (["--modelarts="], "invalid value for '--modelarts': '' is neither True nor False"),
        (["--run_distribute=1"], "invalid value for '--run_distribute': '1' is"),
        (["--begin_epoch=three"], "invalid value for '--begin_epoch': 'three' is not an integer from 0"),
        (["--begin_epoch=-1"], "invalid value for '--begin_epoch': '-1' is"),
        (["--upload_every_s=0"], "invalid value for '--upload_every_s': '0' is not a number of seconds above 0"),
        (["--lr"], "option '--lr' requires an argument; python modelarts/start.py --help"),
        (["--evaluate_only=True"], "--evaluate_only needs --checkpoint_url"),
        (["--train_url="], "--train_url is missing"),
        (["--modelarts=False"], "--modelarts is False and --data_url is obs://bucket/data"),
    ],
)
def test_invalid_parameters_are_one_line(words, says):
    with pytest.raises(ConfigError, match="^[^\n]*$") as caught:
        parse_arguments([*URLS, *words])
    assert says in str(caught.value)
