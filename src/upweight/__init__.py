"""upweight: post-training of language models as one update. Give good tokens more weight, bad ones less.

import upweight
run = upweight.train("examples/arithmetic/sft.toml", "steps=100")
print(run.summary["eval"]["greedy"], run.model_dir)
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from upweight.algorithms import Algorithm, Call, Derived, Term
    from upweight.api import pipeline, plan, train
    from upweight.ask import evaluate, sample
    from upweight.config import Config
    from upweight.configfile import load_config
    from upweight.errors import UserError
    from upweight.presets import PRESETS
    from upweight.rollout_data import rollout
    from upweight.scoring import score

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "Algorithm",
    "Call",
    "Config",
    "Derived",
    "Term",
    "UserError",
    "__version__",
    "evaluate",
    "load_config",
    "pipeline",
    "plan",
    "rollout",
    "sample",
    "score",
    "train",
]

_HOME = {
    **dict.fromkeys(("train", "pipeline", "plan"), "upweight.api"),
    **dict.fromkeys(("evaluate", "sample"), "upweight.ask"),
    "rollout": "upweight.rollout_data",
    "score": "upweight.scoring",
    "Config": "upweight.config",
    "load_config": "upweight.configfile",
    **dict.fromkeys(("Algorithm", "Call", "Derived", "Term"), "upweight.algorithms"),
    "PRESETS": "upweight.presets",
    "UserError": "upweight.errors",
}


class _Package(ModuleType):
    """The package with its names imported when they are asked for: torch takes seconds, `upweight --help` must not.

    A function wins over the submodule of its name (`train`, `plan`, ...), which Python would put in its place as soon
    as that is imported.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOME[name]), name)


sys.modules[__name__].__class__ = _Package
