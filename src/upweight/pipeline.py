"""Stages in order, each from the model of an earlier one: SFT -> GRPO, and whatever else a file lists.

A file has the tables of a config, shared by all stages, then one `[[stages]]` table a stage that is laid over them:

    name = "demo"
    [[stages]]
    name = "sft"
    algorithm = "sft"
    [[stages]]
    name = "grpo"            # starts from the stage before, or from the one named by `from`
    algorithm = "grpo"

Each stage is an ordinary run in `runs/NAME/STAGE`. A pipeline that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from upweight.compose import build_session, measure_model
from upweight.config import Config, Positive, Section
from upweight.configfile import apply_overrides, make_config, merge, read_toml
from upweight.errors import UserError
from upweight.records.files import replace_file, to_json
from upweight.train import train


class MeasureConfig(Section):
    """Held-out accuracy of the starting model and of each stage's."""

    problems: Positive = 1024
    samples: Positive = 8


@dataclass(frozen=True)
class Stage:
    """One run of a pipeline. `start` names the stage whose model it starts from; None is the shared `[model]`.

    `seconds_of` names a stage whose training time it may use, whatever its steps; a `control` is not counted in the
    pipeline's training time.
    """

    name: str
    start: str | None
    seconds_of: str | None
    control: bool
    tables: Mapping[str, Any]


@dataclass(frozen=True)
class Pipeline:
    """A parsed pipeline file."""

    folder: Path
    seed: int
    measure: MeasureConfig
    stages: tuple[Stage, ...]
    source: Mapping[str, Any]


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """The pipeline of a TOML file. An override may begin with a stage's name to mean that stage alone.

    Raises UserError for a mistake in any stage before anything runs.
    """
    tables = read_toml(path)
    listed = tables.get("stages", ())
    if not isinstance(listed, list) or not all(isinstance(stage, Mapping) for stage in listed):
        raise UserError(f"{path}: stages must be a list of tables, [[stages]]")
    names = [stage.get("name") for stage in listed]
    own = {name: [text for text in overrides if text.split(".")[0] == name] for name in names}
    shared = [text for text in overrides if text.split(".")[0] not in names]
    tables = apply_overrides(tables, shared)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise UserError(f"{path}: a pipeline needs [[stages]], each with a name of its own")
    specs = [
        apply_overrides(stage, [text.partition(".")[2] for text in own[stage["name"]]]) for stage in tables["stages"]
    ]
    common = {key: value for key, value in tables.items() if key not in ("stages", "measure")}
    try:
        measure = MeasureConfig.model_validate(tables.get("measure", {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path}: measure.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    stages = tuple(_stage(path, common, spec, names[:i]) for i, spec in enumerate(specs))
    folder = Path(common.get("runs_dir", "runs")) / common.get("name", Path(path).stem)
    pipeline = Pipeline(folder, common.get("seed", 0), measure, stages, {**tables, "stages": specs})
    for stage in stages:
        stage_config(pipeline, stage)
    return pipeline


def _stage(path: str | Path, common: Mapping[str, Any], spec: Mapping[str, Any], before: Sequence[str]) -> Stage:
    own = dict(spec)
    name, control = own.pop("name"), own.pop("control", False)
    start, seconds_of = own.pop("from", before[-1] if before else None), own.pop("seconds_of", None)
    for key, other in (("from", start), ("seconds_of", seconds_of)):
        if other is not None and other not in before:
            raise UserError(f"{path}: stage {name}: {key} = {other!r} is not a stage before it")
    tables = merge(common, own)
    tables["name"] = f"{common.get('name', Path(path).stem)}/{name}"
    if isinstance(own.get("algorithm"), (str, Mapping)):
        tables["algorithm"] = own["algorithm"]
    return Stage(name, start, seconds_of, bool(control), tables)


def stage_config(pipeline: Pipeline, stage: Stage) -> Config:
    """The config of a stage's run, its model taken from where the stage starts."""
    tables = dict(stage.tables)
    if stage.start is not None:
        kept = {key: value for key, value in tables.get("model", {}).items() if key not in ("init", "path", "revision")}
        tables["model"] = {**kept, "path": str(pipeline.folder / stage.start / "final")}
    if stage.seconds_of is not None:
        tables["max_seconds"] = _seconds(pipeline, stage.seconds_of)
    return make_config(tables, f"stage {stage.name}")


def run_pipeline(pipeline: Pipeline) -> dict[str, Any]:
    """Runs what is not finished yet, measures every model, and returns the summary that it also writes.

    The summary has `accuracy.STAGE` (and `accuracy.base`, but where the first stage makes a reward model),
    `seconds.STAGE`, `seconds.total`, `peak_memory_bytes.STAGE` and `seed`.
    """
    _claim(pipeline)
    summary_path = pipeline.folder / "summary.json"
    summary: dict[str, Any] = {"seed": pipeline.seed, "accuracy": {}, "seconds": {}}
    if summary_path.exists():
        summary = json.loads(summary_path.read_text(encoding="utf-8"))
    first = stage_config(pipeline, pipeline.stages[0])
    if "base" not in summary["accuracy"] and first.algorithm.resolve().model == "policy":
        _measure(pipeline, first, "base", summary)
    for stage in pipeline.stages:
        config = stage_config(pipeline, stage)
        finished = (config.run_dir / "summary.json").exists()
        if not finished:
            train(build_session(config, resume=True))
        summary["seconds"][stage.name] = _seconds(pipeline, stage.name)
        peaks = summary.setdefault("peak_memory_bytes", {})
        peaks[stage.name] = _stage_summary(pipeline, stage.name)["peak_memory_bytes"]
        counted = [s.name for s in pipeline.stages if not s.control and s.name in summary["seconds"]]
        summary["seconds"]["total"] = sum(summary["seconds"][name] for name in counted)
        if stage.name not in summary["accuracy"]:
            trained = config.model_copy(
                update={"model": config.model.model_copy(update={"init": None, "path": str(config.run_dir / "final")})}
            )
            _measure(pipeline, trained, stage.name, summary)
    return summary


def _measure(pipeline: Pipeline, config: Config, name: str, summary: dict[str, Any]) -> None:
    settings = config.evaluate.model_copy(update=pipeline.measure.model_dump())
    metrics = measure_model(config.model_copy(update={"evaluate": settings}))
    summary["accuracy"][name] = {key.removeprefix("eval/"): value for key, value in metrics.items()}
    replace_file(pipeline.folder / "summary.json", (to_json(summary, indent=2, sort_keys=True) + "\n").encode())


def _seconds(pipeline: Pipeline, stage: str) -> float:
    """Training time of a finished stage; a placeholder of one second before it ran, when configs are only checked."""
    return float(_stage_summary(pipeline, stage).get("seconds", 1.0))


def _stage_summary(pipeline: Pipeline, stage: str) -> dict[str, Any]:
    """The summary of a finished stage's run; empty before."""
    path = pipeline.folder / stage / "summary.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _claim(pipeline: Pipeline) -> None:
    """Raises UserError when the folder holds another pipeline; otherwise leaves this one's file there."""
    text = tomli_w.dumps(dict(pipeline.source))
    path = pipeline.folder / "pipeline.toml"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{pipeline.folder} holds another pipeline: choose another name=, or move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode())
