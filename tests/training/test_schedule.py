"""The rate decays to 0 wherever a training ends: as planned, earlier, or later."""

import pytest

from medseg.planning.plan import OptimizerPlan
from medseg.training.recipe import settle_optimizer
from medseg.training.schedule import Part, Schedule, Stretch, Watch, continued_stretch, planned_stretch

SGD = settle_optimizer(OptimizerPlan(name="sgd"), 1000)
ADAMW = settle_optimizer(OptimizerPlan(), 200)
WATCH = Watch(cases=("a",), every=10)


def part(iterations: int = 300, early_stop: bool = True) -> Part:
    return Part(stretch=planned_stretch(SGD, iterations), watch=WATCH, early_stop=early_stop)


def rates(schedule: Schedule, first: int = 0) -> list[float]:
    return [schedule.rate_at(i) for i in range(first, schedule.end)]


def test_nnunets_polynomial_is_kept_to_the_number() -> None:
    stretch = planned_stretch(SGD, 250_000)
    assert stretch.rate_at(0) == 0.01
    assert stretch.rate_at(125_000) == pytest.approx(0.01 * 0.5**0.9)


def test_adamw_warms_up_and_decays_to_nothing_over_the_whole_length() -> None:
    found = rates(Schedule([Part(stretch=planned_stretch(ADAMW, 200))]))
    top = found.index(max(found))
    assert 0 < top <= 10
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True)
    assert 0 < found[-1] < 0.02 * max(found)
    assert planned_stretch(SGD, 1000, gently=True).warmup == 30


def test_an_early_decay_goes_to_nothing_in_a_quarter_of_what_was_done_without_a_jump() -> None:
    schedule = Schedule([part()])
    before = schedule.rate_at(159)
    assert schedule.decay_early(160)
    assert schedule.end == 200
    found = rates(schedule, 160)
    assert found[0] == pytest.approx(before, rel=0.01)
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.05 * before
    assert not schedule.decay_early(170)


def test_where_an_early_decay_would_save_nothing_the_schedule_stays() -> None:
    schedule = Schedule([part()])
    assert not schedule.decay_early(250)
    assert schedule.end == 300
    assert not Schedule([part(early_stop=False)]).decay_early(160)
    assert not Schedule([part(iterations=110)]).decay_early(60)  # 11 checks are too few


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
def test_a_finished_training_warms_up_to_the_rate_that_the_new_length_has_there(optimizer: OptimizerPlan) -> None:
    schedule = Schedule([Part(stretch=planned_stretch(optimizer, 100))])
    stretch = continued_stretch(schedule, 100, optimizer, 400)
    assert optimizer.learning_rate is not None
    assert stretch.rate == pytest.approx(optimizer.learning_rate * 0.75**0.9)
    assert (stretch.before, stretch.warmup, stretch.end) == (0.0, 9, 400)
    extended = Schedule([*schedule.parts, Part(stretch=stretch)])
    found = rates(extended)
    assert found[:100] == rates(schedule)
    assert found[100:109] == sorted(found[100:109])
    assert found[109:] == sorted(found[109:], reverse=True)
    assert found[-1] < 0.02 * max(found)


def test_a_shortened_training_decays_from_where_it_is() -> None:
    schedule = Schedule([part(1000)])
    stretch = continued_stretch(schedule, 400, SGD, 500)
    assert stretch.rate == schedule.rate_at(400)
    assert stretch.warmup == 0
    found = rates(Schedule([*schedule.parts, Part(stretch=stretch)]), 399)
    assert found == sorted(found, reverse=True)
    assert len(found) == 101


def test_what_was_asked_for_last_counts_even_after_an_early_decay() -> None:
    schedule = Schedule([part()])
    schedule.decay_early(160)
    stretch = continued_stretch(schedule, 180, SGD, 600)
    assert stretch.rate > schedule.rate_at(180)
    longer = Schedule([*schedule.parts, Part(stretch=stretch, watch=WATCH, early_stop=True)], schedule.decays)
    assert longer.end == 600
    assert rates(longer)[:180] == rates(schedule)[:180]
    assert longer.part_of(180) is longer.parts[0]
    assert longer.part_of(181) is longer.parts[1]
    # Resumed from a checkpoint before the decay was decided, the same decision leads to the same rates.
    again = Schedule(longer.parts)
    assert again.decay_early(160)
    assert rates(again) == rates(longer)
    assert longer.decay_early(400)
    assert longer.end == 455


def test_checks_are_due_at_fixed_iterations_of_each_part_and_at_the_end() -> None:
    schedule = Schedule([part(105), Part(stretch=Stretch(start=105, end=140, rate=1e-3), watch=WATCH)])
    due = [done for done in range(1, 141) if schedule.is_check(done)]
    assert due == [*range(10, 101, 10), 115, 125, 135, 140]


def test_every_cycle_falls_from_the_same_rate_to_nothing_and_only_the_first_warms_up() -> None:
    stretch = planned_stretch(ADAMW, 200, cycles=4)
    assert stretch.ends == (50, 100, 150, 200)
    found = rates(Schedule([Part(stretch=stretch)]))
    for start in (50, 100, 150):
        assert found[start] == stretch.rate
        assert found[start : start + 50] == sorted(found[start : start + 50], reverse=True)
        assert found[start - 1] < 0.05 * stretch.rate
    assert found[0] < stretch.rate
    assert stretch.rate_at(200) == 0
    assert planned_stretch(ADAMW, 200, cycles=1) == planned_stretch(ADAMW, 200)
