"""States while a model runs: by layer and by branch of guidance, from step to step, and not from clip to clip."""

from __future__ import annotations

from attnbench.methods.states import States


def test_each_layer_and_each_branch_of_guidance_has_its_own_state() -> None:
    states = States()
    for step in range(3):
        for branch in ("with", "without"):
            for layer in range(2):
                wanted = None if step == 0 else (layer, branch, step - 1)
                assert states.of(layer, step) == wanted
                states.keep((layer, branch, step))
    assert len(states) == 4


def test_a_clip_begins_without_states() -> None:
    states = States()
    for clip in range(2):
        for step in (0, 1):
            assert states.of(0, step) == (None if step == 0 else clip)
            states.keep(clip)


def test_clips_of_one_step_are_told_apart_by_the_moment() -> None:
    states = States()
    for moment in range(3):
        assert states.of(0, 0, moment=moment) is None
        states.keep(moment)


def test_dense_steps_between_leave_the_states_and_other_shapes_have_others() -> None:
    states = States()
    states.of(0, 0, (1, 2))
    states.keep("small")
    assert states.of(0, 3, (3, 4)) is None
    states.keep("large")
    assert states.of(0, 4, (1, 2)) == "small"
    assert states.of(0, 4, (3, 4)) == "large"


def test_training_keeps_no_state() -> None:
    states = States()
    assert states.of(0, None) is None
    states.keep("lost")
    assert len(states) == 0
