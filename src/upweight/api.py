"""What the library does for a Python caller; the command line is a printer around these functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upweight.compose import build_session, quiet_libraries
from upweight.config import Config, ModelConfig
from upweight.configfile import apply_overrides, make_config, read_toml
from upweight.errors import UserError
from upweight.explain import explain as explain_run
from upweight.pipeline import Pipeline, Stage, load_pipeline, run_pipeline, stage_config
from upweight.plan import Plan, make_plan
from upweight.records.ledger import read_ledger
from upweight.records.run_dir import RunDir
from upweight.records.trackers import read_metrics
from upweight.speed import run_speed
from upweight.train import train as run_session

if TYPE_CHECKING:
    import pyarrow as pa

ConfigLike = str | Path | Mapping[str, Any] | Config


@dataclass(frozen=True)
class FinishedRun:
    """A run that has been made: its folder, and its summary as `summary.json` has it."""

    dir: Path
    summary: dict[str, Any]

    @property
    def model_dir(self) -> Path:
        """The trained model, a Hugging Face folder."""
        return RunDir(self.dir).final_dir

    def metrics(self) -> list[dict[str, Any]]:
        """The records of `metrics.jsonl`; evaluations are records of their own, with the same `step`."""
        return read_metrics(RunDir(self.dir).metrics_path)

    def ledger(self, step: int) -> pa.Table:
        """What happened to every token of a step, one row a rollout. Raises FileNotFoundError when none was written."""
        return read_ledger(RunDir(self.dir).ledger_dir, step)


def train(config: ConfigLike, *overrides: str, resume: bool = False) -> FinishedRun:
    """Makes the run that a TOML file, a mapping or a Config describes, with `key=value` overrides.

    Raises UserError for whatever of it cannot be had; `resume` goes on with a run that was interrupted.
    """
    chosen = resolve_config(config, overrides)
    summary = run_session(build_session(chosen, resume))
    return FinishedRun(chosen.run_dir, summary)


def pipeline(path: str | Path, *overrides: str) -> dict[str, Any]:
    """Runs the stages of a file in order, or what is left of them, and returns the pipeline's summary."""
    return run_pipeline(load_pipeline(path, overrides))


def plan(config: ConfigLike, *overrides: str) -> list[Plan]:
    """What a run, or each stage of a pipeline, will do and need; runs nothing."""
    quiet_libraries()
    if isinstance(config, str | Path) and "stages" in read_toml(config):
        stages = load_pipeline(config, overrides)
        return [make_plan(stage_config(stages, stage), _first_model(stages, stage)) for stage in stages.stages]
    return [make_plan(resolve_config(config, overrides))]


def speed(run: str | Path) -> dict[str, dict[str, float]]:
    """Where the time of a run in `run` went, by phase: `seconds`, `share`, `floor_share`, `useful_share`.

    The run may still be going on. Raises UserError when there is none.
    """
    path = RunDir(Path(run)).metrics_path
    if not path.is_file():
        raise UserError(f"{run} is not the folder of a run, or it has made no step yet: there is no {path.name}")
    return run_speed(read_metrics(path))


def explain(config: ConfigLike, *overrides: str) -> str:
    """The exact loss that a run, or each stage of a pipeline, will minimise, with its numbers; runs nothing."""
    if isinstance(config, str | Path) and "stages" in read_toml(config):
        stages = load_pipeline(config, overrides)
        return "\n\n".join(explain_run(stage_config(stages, stage)) for stage in stages.stages)
    return explain_run(resolve_config(config, overrides))


def resolve_config(config: ConfigLike, overrides: Sequence[str] = ()) -> Config:
    """A checked Config from any of its forms. Raises UserError."""
    if isinstance(config, Config):
        config = config.model_dump(exclude_none=True)
    where = "config" if isinstance(config, Mapping) else str(config)
    tables = config if isinstance(config, Mapping) else read_toml(config)
    if "stages" in tables:
        raise UserError(f"{where} has [[stages]], so it is a pipeline: run it with `upweight pipeline`")
    return make_config(apply_overrides(tables, overrides), where)


def _first_model(stages: Pipeline, stage: Stage) -> ModelConfig:
    """The model at the root of a stage's ancestry: what the stage starts from has its size, and may not exist yet."""
    by_name = {other.name: other for other in stages.stages}
    while stage.start is not None:
        stage = by_name[stage.start]
    return stage_config(stages, stage).model
