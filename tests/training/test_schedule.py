"""The learning-rate schedule equals values computed by hand."""

import pytest

from mindloc.config.sections import ScheduleConfig
from mindloc.training.schedule import Schedule


def schedule_of(lr: float, epochs: int, **config) -> Schedule:
    return Schedule(ScheduleConfig(**config), lr, epochs)


def test_warm_up_is_linear_from_zero():
    schedule = schedule_of(lr=1.0, epochs=10, warmup_epochs=2.0)
    assert [schedule.at(x) for x in (0.0, 0.5, 1.0)] == [0.0, 0.25, 0.5]
    assert schedule.at(2.0) == 1.0


def test_cosine_is_halfway_down_halfway_through():
    schedule = schedule_of(lr=1.0, epochs=10, warmup_epochs=2.0, end_lr=0.2)
    assert schedule.at(6.0) == pytest.approx(0.6)  # halfway from 1 to 0.2
    assert schedule.at(4.0) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + 0.5**0.5))  # cos 45 degrees
    assert schedule.at(10.0) == pytest.approx(0.2)


def test_polynomial_of_power_two():
    schedule = schedule_of(lr=1.0, epochs=4, name="polynomial", warmup_epochs=0.0, power=2.0)
    assert [schedule.at(x) for x in (0, 1, 2, 4)] == pytest.approx([1.0, 0.5625, 0.25, 0.0])


def test_constant_schedule_keeps_the_rate_after_the_warm_up():
    schedule = schedule_of(lr=0.3, epochs=4, name="constant", warmup_epochs=1.0, end_lr=0.1)
    assert [schedule.at(x) for x in (0.5, 1.0, 4.0)] == pytest.approx([0.15, 0.3, 0.3])


def test_each_epoch_counts_its_own_steps():
    # the warm-up of half an epoch ends in the middle of the first epoch, however long that is
    for steps in (4, 10, 1000):
        assert schedule_of(lr=1.0, epochs=2, warmup_epochs=0.5).at_step(0, steps // 2, steps) == 1.0
    # the last step of a two-epoch run of 4 + 8 steps: 1 + 7/8 epochs
    schedule = schedule_of(lr=1.0, epochs=2, name="polynomial", warmup_epochs=0.0)
    assert schedule.at_step(1, 7, 8) == pytest.approx(1 / 16)


def test_a_warm_up_longer_than_the_run_only_warms_up():
    schedule = schedule_of(lr=1.0, epochs=1, warmup_epochs=2.0)
    assert schedule.at(1.0) == 0.5
