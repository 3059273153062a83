"""The folder of a run, `runs/NAME/`: what lies where, and when it may be entered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from upweight.config import Config
from upweight.configfile import make_config, read_toml
from upweight.errors import UserError
from upweight.records.files import could_not_write, replace_file, to_json

MAY_DIFFER = frozenset(
    {
        # where the run lies, how long it may go on, and what is kept of it:
        *("name", "runs_dir", "max_seconds", "learner.max_skipped_steps"),
        *("checkpoint.every", "checkpoint.keep", "records.tensorboard", "records.wandb"),
        # speed and memory, for the resume after the machine ran out of it: the same mathematics, other rounding
        *("threads", "learner.tokens_per_microbatch", "learner.pad_multiple", "sampling.max_rows"),
        "learner.gradient_checkpointing",
    }
)


@dataclass(frozen=True)
class RunDir:
    """Where the parts of a run lie."""

    path: Path

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.path / "config.toml"

    @property
    def metrics_path(self) -> Path:
        """One line of JSON a step."""
        return self.path / "metrics.jsonl"

    @property
    def failures_path(self) -> Path:
        """The first rewards that failed, one line of JSON each, with their tracebacks."""
        return self.path / "failed_rewards.jsonl"

    @property
    def ledger_dir(self) -> Path:
        """One Parquet file a step."""
        return self.path / "ledger"

    @property
    def checkpoint_dir(self) -> Path:
        """What a resumed run starts from."""
        return self.path / "checkpoints"

    @property
    def final_dir(self) -> Path:
        """The trained model, a Hugging Face folder."""
        return self.path / "final"

    @property
    def tensorboard_dir(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def ceilings_path(self) -> Path:
        """What the machine can do at most, as its speeds are compared with it."""
        return self.path / "ceilings.json"

    @property
    def summary_path(self) -> Path:
        """The run in a few numbers."""
        return self.path / "summary.json"


def open_run(config: Config, resume: bool) -> RunDir:
    """Makes the folder of a new run, or enters that of an old one when `resume` is set.

    Raises UserError when there is a run already and `resume` is not set, when its config differs in more than
    `MAY_DIFFER`, or when the folder holds something else. With `resume` and no run to resume, a new one is made.
    """
    run = RunDir(config.run_dir)
    if run.config_path.is_file():
        if not resume:
            raise UserError(f"{run.path} holds a run already: go on with it by --resume, or choose another name=")
        _check_same(run.config_path, config)
    elif run.path.exists() and (not run.path.is_dir() or _visible(run.path)):
        raise UserError(f"{run.path} exists but is not the folder of a run (no config.toml): choose another name=")
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise could_not_write(run.path, error) from error
    replace_file(run.config_path, config_toml(config).encode())
    return run


def config_toml(config: Config) -> str:
    """The resolved config as TOML, which loads to an equal one. What is None is left out: TOML has no word for it."""
    return tomli_w.dumps(config.model_dump(exclude_none=True))


def write_summary(run: RunDir, summary: Mapping[str, Any]) -> None:
    """Writes `summary.json`, replacing an earlier one whole."""
    replace_file(run.summary_path, (to_json(summary, indent=2, sort_keys=True) + "\n").encode())


def _visible(folder: Path) -> bool:
    """Whether a folder holds anything but hidden files; a run killed at its very start leaves one."""
    return any(not path.name.startswith(".") for path in folder.iterdir())


def _check_same(path: Path, config: Config) -> None:
    old = _flat(make_config(read_toml(path), str(path)).model_dump())
    new = _flat(config.model_dump())
    changed = [key for key in sorted(old | new) if key not in MAY_DIFFER and old.get(key) != new.get(key)]
    if changed:
        pairs = (f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in changed)
        raise UserError(
            f"{path.parent} is a run of another config: {'; '.join(pairs)}: take these values back, or choose another "
            "name= for a new run"
        )


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """Nested tables as `{"dotted.key": value}`; an entry of a list of tables has its index in the key."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, Mapping):
        return {place: value}
    return {key: item for name, inner in value.items() for key, item in _flat(inner, _join(place, name)).items()}


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
