"""The examples that `upweight rewards` shows are true, and there are some of every reward."""

from __future__ import annotations

import pytest

from tests.unit.sandboxed import MISSING
from upweight.rewards.call import Stepwise
from upweight.rewards.examples import EXAMPLES
from upweight.rewards.load import BUILTIN, SANDBOXED


def test_every_reward_has_examples_of_more_than_one_value() -> None:
    assert set(EXAMPLES) == set(BUILTIN)
    for name, examples in EXAMPLES.items():
        assert len({example.reward for example in examples}) > 1, name


@pytest.mark.parametrize(
    ("name", "example"), [(name, example) for name, examples in EXAMPLES.items() for example in examples]
)
def test_examples_are_true(name, example) -> None:
    if name in SANDBOXED and MISSING:
        pytest.skip(MISSING)
    value = BUILTIN[name](**example.arguments, **example.options)
    assert (value.value if isinstance(value, Stepwise) else value) == pytest.approx(example.reward, abs=1e-12)
