"""A model's own answers as data: training problems are answered, scored, and written as a file of rows."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from upweight.ask import question_tables
from upweight.compose import in_compute_dtype, make_encoder, make_sampler, maker_of, quiet_libraries, texts_of
from upweight.config import Config
from upweight.configfile import make_config
from upweight.errors import UserError, nearest
from upweight.models.load import load_model
from upweight.probes import decided
from upweight.records.files import to_json
from upweight.records.progress import open_progress
from upweight.rollout_rows import Harvest, Keep, Kind, Wanted, is_plain
from upweight.sources import by_draw
from upweight.tasks.data import TaskData
from upweight.tasks.load import load_data
from upweight.tasks.order import DrawOrder
from upweight.types import Problem, Prompt, SamplingParams

# Samples for a dataset have their own place in the space of sample keys: training and evaluation draw others.
ROLLOUT_STEP = 2**32 - 2
_SUFFIXES = (".jsonl", ".parquet")
_SAMPLING = ("temperature", "top_p", "top_k", "max_completion_tokens", "seed")
_UPDATES, _LEAST_ROWS = 16, 64  # progress is shown this often, unless that would make batches of fewer rows


def rollout(
    model: str | Path,
    out: str | Path,
    task: str | None = None,
    *options: str,
    config: str | Path | None = None,
    reward: str | None = None,
    n: int = 8,
    problems: int = 256,
    keep: str | None = None,
    dedupe: bool = False,
    max_per_problem: int | None = None,
    pairs: bool = False,
    labels: bool = False,
    force: bool = False,
    **sampling: Any,
) -> dict[str, Any]:
    """Writes a model's scored answers to training problems as rows to learn from, and returns the counts.

    What is asked and how it is judged is said as in `evaluate`, but these are the training problems: those of the
    first `problems` draws of the seed, `n` completions each. Rows are demonstrations (`prompt`, `completion`) of what
    `keep` says, "correct" unless given, "all" or "wrong"; with `labels` all completions with their `label`, with
    `pairs` a correct one (`chosen`) beside a wrong one (`rejected`). `dedupe` leaves out repeated completions of a
    problem, `max_per_problem` all rows of a problem but the first. `sampling` may have temperature (0: greedy), top_p,
    top_k, max_completion_tokens and seed. A completion that the token budget cut off is in no row: its text would be
    given an end that the model did not write.
    Raises UserError when that cannot be had, when `out` exists (unless `force`), or when there is no row to write.
    """
    began = time.monotonic()
    wanted = _wanted(n, keep, dedupe, max_per_problem, pairs, labels)
    path = _writable(Path(out).expanduser(), force)
    quiet_libraries()
    settings, params = _settings(question_tables(str(model), task, options, config, reward), sampling, n)
    harvest = _harvest(settings, params, wanted, problems)
    if not harvest.rows:
        raise UserError(f"nothing was written: {why_empty(harvest.summary())}")
    write_rows(path, harvest.rows)
    return {"model": str(model), "file": str(path), **harvest.summary(), "seconds": time.monotonic() - began}


def why_empty(found: Mapping[str, Any]) -> str:
    """Why a summary has no rows, in a line."""
    wrong = found["sampled"] - found["correct"]
    facts = (
        f"of {found['sampled']} completions {found['correct']} are correct and {wrong} wrong; {found['cut_off']} were "
        f"cut off by the token budget, and {found['unusable']} are blank or refused when their text is read back"
    )
    if found["kind"] == "pairs":
        return f"no problem has both a correct and a wrong completion to pair: {facts}"
    return facts


def _wanted(n: int, keep: str | None, dedupe: bool, most: int | None, pairs: bool, labels: bool) -> Wanted:
    """What the caller asks for. Raises UserError when it contradicts itself."""
    if n < 1 or (most is not None and most < 1):
        raise UserError("-n and --max-per-problem must be at least 1")
    if keep is not None and keep not in get_args(Keep):
        raise UserError(
            f"--keep must be one of {', '.join(get_args(Keep))}, not {keep!r}{nearest(keep, get_args(Keep))}"
        )
    if pairs and labels:
        raise UserError("give either --pairs or --labels, not both: a file has rows of one kind")
    if pairs and n < 2:
        raise UserError("--pairs needs -n of at least 2: a pair is a correct and a wrong completion of one problem")
    if pairs and keep is not None:
        raise UserError("--pairs takes correct and wrong completions alike, so it goes without --keep")
    kind: Kind = "pairs" if pairs else "labels" if labels else "demonstrations"
    default: Keep = "correct" if kind == "demonstrations" else "all"
    return Wanted(kind, n, cast("Keep", keep or default), dedupe, most or (1 if pairs else None))


def _writable(path: Path, force: bool) -> Path:
    """The path, found to be one that can be written, before hours are spent on what goes there. Raises UserError."""
    if path.suffix not in _SUFFIXES:
        raise UserError(f"--out {path}: rows are written to a file that ends in {' or '.join(_SUFFIXES)}")
    if path.is_dir():
        raise UserError(f"--out {path} is a folder")
    if path.exists() and not force:
        raise UserError(f"--out {path} exists: choose another name, or replace it with --force")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"--out {path}: {folder} cannot be written to")
    return path


def _settings(tables: Mapping[str, Any], chosen: Mapping[str, Any], samples: int) -> tuple[Config, SamplingParams]:
    """The config of the questions, and how they are answered: its `[sampling]` with the caller's values over it."""
    given = {key: value for key, value in chosen.items() if value is not None}
    if unknown := set(given) - set(_SAMPLING):
        raise TypeError(f"rollout() has no argument {min(unknown)!r}")
    budget = {key: given[key] for key in ("max_completion_tokens",) if key in given}
    seed = given.get("seed", tables.get("seed", 0))
    config = make_config({**tables, "seed": seed, "sampling": {**tables.get("sampling", {}), **budget}}, "rollout")
    if config.turns.tool is not None:
        raise UserError(
            "the run has a tool in [turns], but a row holds one completion: say what to ask with --task, or give a "
            "--config without it"
        )
    params = SamplingParams(
        given.get("temperature", config.sampling.temperature),
        config.sampling.max_completion_tokens,
        config.sampling.stop,
        given.get("top_p", 1.0),
        given.get("top_k", 0),
    )
    if not (params.temperature >= 0 and 0 < params.top_p <= 1 and params.top_k >= 0):
        raise UserError("--temperature and --top-k must be at least 0, and --top-p more than 0 and at most 1")
    if params.temperature == 0 and samples > 1:
        raise UserError(f"at --temperature 0 all {samples} completions of a problem are the same: use -n 1")
    return config, params


def _harvest(config: Config, params: SamplingParams, wanted: Wanted, problems: int) -> Harvest:
    """Samples chunk by chunk, each of whole problems, and keeps of each only what goes into the file."""
    data = load_data(config.data, config.seed, "problems")
    model, tokenizer = load_model(config.model, texts_of(data), config.seed)
    config = decided(config, model, tokenizer)
    encoder = make_encoder(config, model, tokenizer)
    prompts = encoder.prompts(drawn_problems(data, config.seed, problems), "training problems")
    sampler = make_sampler(in_compute_dtype(model, config), tokenizer, encoder.stop_ids, config.sampling.max_rows)
    maker = maker_of(config, sampler, encoder, params)
    plain = all(is_plain(prompt.messages) for prompt in prompts)
    harvest = Harvest(wanted, replace(encoder, on_bad_row="error"), maker.rewards, plain)
    chunks = list(_chunks(prompts, wanted.samples, config.sampling.max_rows))
    began = time.monotonic()
    with open_progress("rollout", len(chunks)) as progress:
        for number, chunk in enumerate(chunks):
            collected = maker.collect(chunk, wanted.samples, config.seed, ROLLOUT_STEP)
            harvest.counts["failed_rewards"] += len(collected.failures)
            for group in by_draw(collected.rollouts):
                harvest.add(group)
            speed = harvest.counts["tokens"] / (time.monotonic() - began)
            progress.update(number, {"rollout/accuracy": harvest.accuracy(), "time/tokens_per_second": speed})
    return harvest


def drawn_problems(data: Sequence[TaskData], seed: int, draws: int) -> list[Problem]:
    """The training problems of the first draws, in their order, each once."""
    if draws < 1:
        raise UserError("--problems must be at least 1")
    order = DrawOrder([len(task.problems) for task in data], [task.weight for task in data], seed)
    places = dict.fromkeys(order.at(position) for position in range(draws))
    return [data[stream].problems[row] for stream, row in places]


def _chunks(prompts: Sequence[Prompt], samples: int, max_rows: int) -> Iterator[list[tuple[int, Prompt]]]:
    rows = min(max_rows, max(_LEAST_ROWS, math.ceil(len(prompts) * samples / _UPDATES)))
    size = max(1, rows // samples)
    numbered = list(enumerate(prompts))
    yield from (numbered[start : start + size] for start in range(0, len(numbered), size))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as JSONL or Parquet, by the suffix: written beside and renamed, so that an interruption leaves no half file.

    Raises UserError when the disk, or the format, does not take them.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (_write_parquet if path.suffix == ".parquet" else _write_jsonl)(temporary, rows)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"--out {path} could not be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    try:
        lines = [to_json(row) for row in rows]
    except TypeError as error:
        raise UserError(
            f"a column of the problems cannot be written as JSON ({error}): write a .parquet file"
        ) from None
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    names = dict.fromkeys(name for row in rows for name in row)
    try:
        parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"a column of the problems cannot be written as Parquet ({reason}): write a .jsonl file"
        ) from None
