"""The table of methods, in the order of the ladder. Each is a row of `methods/`; nothing else knows its name.

Defaults are those of the paper where it states them; where implementations differ, a row's `traps` say how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from upweight.algorithms import Algorithm
from upweight.errors import UserError, nearest
from upweight.methods import group_relative, likelihood, policy_gradient, preference, process
from upweight.userfile import load_object

PRESETS: dict[str, Algorithm] = {
    method.name: method
    for method in (
        likelihood.SFT,
        likelihood.RFT,
        policy_gradient.REINFORCE,
        policy_gradient.REINFORCE_TOKEN_MEAN,
        policy_gradient.REINFORCE_BASELINE,
        policy_gradient.RLOO,
        policy_gradient.REINFORCE_PP,
        policy_gradient.REINFORCE_PP_BASELINE,
        policy_gradient.PPO,
        group_relative.GRPO,
        group_relative.DR_GRPO,
        group_relative.DAPO,
        group_relative.GSPO,
        group_relative.GSPO_TOKEN,
        group_relative.CISPO,
        group_relative.GDPO,
        process.GRPO_PROCESS,
        group_relative.GRPO_TRL,
        group_relative.GRPO_VERL,
        policy_gradient.RLOO_TRL,
        preference.DPO,
        preference.SIMPO,
        preference.ORPO,
        preference.KTO,
        preference.REWARD_MODEL,
        process.PROCESS_REWARD_MODEL,
    )
}


def algorithm(name: str, options: Mapping[str, Any] | None = None) -> Algorithm:
    """The preset of that name, or the one in `file.py:name`, with options overridden.

    Raises UserError for an unknown name or option, or a file whose object is no Algorithm.
    """
    if ":" in name:
        method = load_object(name, "algorithm")
        if not isinstance(method, Algorithm):
            raise UserError(f"algorithm {name!r} is a {type(method).__name__}, not an upweight.Algorithm")
    elif name in PRESETS:
        method = PRESETS[name]
    else:
        raise UserError(
            f"unknown algorithm {name!r}{nearest(name, PRESETS)}; a method of your own is written file.py:name"
        )
    return method.with_options(options or {})
