"""The command line: parses, calls `api` and `ask`, prints. Results go to stdout, progress and warnings to stderr.

Whatever is slow to import (torch, transformers) is imported in the command that needs it, so that `--help` is quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from upweight import __version__
from upweight.errors import UserError

app = typer.Typer(
    help="Post-training of language models: give good tokens more weight, bad ones less.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SHOWN_FAILURES = 5  # of a scored file

ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="a TOML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="values over the file's, such as optimizer.lr=1e-4")
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="a model folder or Hub id")]
TaskOptions = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="options of the task, such as digits=3")
]
Task = Annotated[str | None, typer.Option(help="arithmetic, countdown, gsm8k, or a file of rows")]
RunConfig = Annotated[str | None, typer.Option(help="take data and rewards from this run's config")]
Reward = Annotated[str | None, typer.Option(help="what is right: number, exact, file.py:name, ...")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="of sampled answers; default 1")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="sample from the most likely tokens of this share")]
TopK = Annotated[int | None, typer.Option(min=0, help="sample from this many most likely tokens; 0: from all")]
Budget = Annotated[int | None, typer.Option(min=1, help="longest answer, in tokens; default 256")]
Seed = Annotated[int | None, typer.Option(min=0, help="of the sampled answers")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script. A user's mistake is one line on stderr and exit code 2; a bug keeps its traceback."""
    try:
        app(args=arguments, prog_name="upweight")
    except UserError as error:
        print("upweight:", " ".join(str(error).split("\n")), file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"upweight {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with this run where it was interrupted")] = False,
) -> None:
    """Train one run: runs/NAME gets its metrics, ledger, checkpoints and the trained model."""
    with _resumable(f"upweight train {config} {' '.join(overrides or ())}".strip() + " --resume"):
        from upweight import api

        run = api.train(config, *(overrides or ()), resume=resume)
    for line in run_lines(run.summary):
        print(line)
    if sys.stdout.isatty():
        _show(speed_table(run.summary["speed"]))


@app.command()
def pipeline(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the stages of a file in order, each from the model of an earlier one; run it again to go on."""
    with _resumable(f"upweight pipeline {config} {' '.join(overrides or ())}".strip()):
        from upweight import api

        summary = api.pipeline(config, *(overrides or ()))
    _show(stage_table(summary))


@app.command()
def plan(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Say what a run or a pipeline will do and need; runs nothing."""
    from upweight import api
    from upweight.plan import describe

    plans = api.plan(config, *(overrides or ()))
    if as_json:
        _print_json({"runs": [one.to_dict() for one in plans]})
        return
    print("\n\n".join("\n".join(describe(one)) for one in plans))


@app.command()
def speed(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's folder, finished or not")], as_json: Json = False
) -> None:
    """Say where the time of a run went, and how near each phase came to the machine's limits."""
    from upweight import api

    found = api.speed(run)
    if as_json:
        _print_json(found)
        return
    _show(speed_table(found))


@app.command(name="eval")
def evaluate(
    model: Model,
    options: TaskOptions = None,
    task: Task = None,
    config: RunConfig = None,
    reward: Reward = None,
    k: Annotated[int, typer.Option("-k", min=0, help="sampled answers a problem, for mean@k and pass@k")] = 0,
    problems: Annotated[int, typer.Option(min=1, help="at most this many problems")] = 256,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    max_completion_tokens: Budget = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Measure held-out accuracy. Without --task or --config the run that MODEL lies in says what to ask."""
    from upweight import ask

    found = ask.evaluate(
        model,
        task,
        *(options or ()),
        config=config,
        reward=reward,
        k=k,
        problems=problems,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_completion_tokens=max_completion_tokens,
        seed=seed,
    )
    if as_json:
        _print_json(found)
        return
    for line in accuracy_lines(found):
        print(line)


@app.command()
def sample(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="the user's message")],
    n: Annotated[int, typer.Option("-n", min=1, help="how many answers")] = 1,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    max_completion_tokens: Budget = 256,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Print answers of a model to one message."""
    from dataclasses import asdict

    from upweight import ask

    settings: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    answers = ask.sample_completions(model, prompt, n, max_completion_tokens=max_completion_tokens or 256, **settings)
    if as_json:
        _print_json({"model": model, "prompt": prompt, "completions": [asdict(answer) for answer in answers]})
        return
    console = Console(soft_wrap=True)
    for number, answer in enumerate(answers, 1):
        ending = f"{answer.finish_reason} after {answer.tokens} tokens"
        console.print(f"[bold]{number}/{n}[/] [dim]{ending}[/]", highlight=False)
        console.print(_printable(answer.text), markup=False, highlight=False)


@app.command()
def rollout(
    model: Model,
    out: Annotated[str, typer.Option(help="the file of rows to write: .jsonl or .parquet")],
    options: TaskOptions = None,
    task: Task = None,
    config: RunConfig = None,
    reward: Reward = None,
    n: Annotated[int, typer.Option("-n", min=1, help="completions a problem")] = 8,
    problems: Annotated[int, typer.Option(min=1, help="training problems, in the order that the seed draws")] = 256,
    keep: Annotated[str | None, typer.Option(help="correct, wrong or all; default correct")] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="leave out repeated completions of a problem")] = False,
    max_per_problem: Annotated[int | None, typer.Option(min=1, help="rows of a problem at most")] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="write pairs of a correct and a wrong completion")] = False,
    labels: Annotated[bool, typer.Option("--labels", help="write completions with a label: correct or not")] = False,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="0: greedy; default: the run's, or 1")] = None,
    top_p: TopP = None,
    top_k: TopK = None,
    max_completion_tokens: Budget = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of the choice of problems, and of the samples")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace the file if there is one")] = False,
    as_json: Json = False,
) -> None:
    """Write a model's scored answers to training problems as a file of rows to learn from."""
    from upweight.rollout_data import rollout

    try:
        found = rollout(
            model,
            out,
            task,
            *(options or ()),
            config=config,
            reward=reward,
            n=n,
            problems=problems,
            keep=keep,
            dedupe=dedupe,
            max_per_problem=max_per_problem,
            pairs=pairs,
            labels=labels,
            force=force,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_completion_tokens=max_completion_tokens,
            seed=seed,
        )
    except KeyboardInterrupt:
        print(f"upweight: interrupted; {out} was not written", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        _print_json(found)
        return
    for line in rollout_lines(found):
        print(line)


@app.command()
def explain(config: ConfigFile, overrides: Overrides = None) -> None:
    """Write out the loss that a run or a pipeline will minimise, with its numbers; runs nothing."""
    from upweight import api

    print(api.explain(config, *(overrides or ())))


@app.command()
def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL or Parquet: prompt, completion, answer, ...")],
    overrides: Overrides = None,
    reward: Annotated[list[str] | None, typer.Option(help="what is right, or NAME=FUNCTION; may be repeated")] = None,
    config: Annotated[str | None, typer.Option(help="take the rewards from this run's config")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object a row, in order")] = False,
) -> None:
    """Score completions that a file has, without a model, and say which rewards failed and how."""
    from upweight import scoring

    rows = scoring.score(file, *(overrides or ()), reward=reward or (), config=config)
    if as_json:
        for row in rows:
            print(
                json.dumps(
                    {"reward": row.reward, "parts": dict(row.parts), "outcome": row.outcome, "message": row.message}
                )
            )
        return
    _show(score_table(scoring.summary(rows)))
    for number, row in [(n, row) for n, row in enumerate(rows, start=1) if row.reward is None][:SHOWN_FAILURES]:
        print(f"row {number}: {row.outcome}: {row.message}", file=sys.stderr)


@app.command()
def rewards(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="tell all of this one")] = None,
    as_json: Json = False,
) -> None:
    """List the rewards that a config may name, or tell one: what it reads, its options, what scores what."""
    from upweight.rewards import describe

    if name is not None:
        found = describe.description(name)
        if as_json:
            _print_json(describe.plain(found))
        else:
            print("\n".join(describe.lines(found)))
        return
    if as_json:
        _print_json([describe.plain(one) for one in describe.descriptions()])
        return
    table = Table("name", "what", "computed", "reads", "for example", show_lines=True)
    for one in describe.descriptions():
        example = describe.example_line(one.examples[0]) if one.examples else ""
        table.add_row(*map(escape, (one.name, one.summary, one.where, ", ".join(one.reads), example)))
    _show(table)


@app.command()
def algorithms(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="explain this one; file.py:name works too")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the methods that a config may name, or explain one: formula, options, neighbours, traps, an example."""
    from upweight import catalogue
    from upweight.presets import PRESETS, algorithm

    if name is not None:
        method = algorithm(name)
        if as_json:
            _print_json(catalogue.explained_row(method, name))
        else:
            print("\n".join(catalogue.describe_method(method, name)))
        return
    if as_json:
        _print_json([catalogue.method_row(method) for method in PRESETS.values()])
        return
    rows = [catalogue.summary(method) for method in PRESETS.values()]
    table = Table(*rows[0], show_lines=True)
    for row in rows:
        table.add_row(*map(escape, row.values()))
    for column in table.columns:
        column.no_wrap = column.header in ("name", "reduction")
    _show(table)


@contextmanager
def _resumable(command: str) -> Iterator[None]:
    """An interrupted run is no error: it can go on."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"upweight: interrupted; go on from the last checkpoint with: {command}", file=sys.stderr)
        raise typer.Exit(130) from None


def run_lines(summary: Mapping[str, Any]) -> list[str]:
    """A finished run in a few lines."""
    lines = [f"{summary['name']}: {summary['steps']} steps of {summary['algorithm']} in {summary['seconds']:.0f} s"]
    start, end = summary["eval_start"], summary["eval"]
    kinds = {"greedy": "greedy", "sampled": "sampled", "pair_accuracy": "of pairs", "step_accuracy": "of steps"}
    for kind, words in kinds.items():
        if kind in end:
            lines.append(f"held-out accuracy, {words}: {_accuracy(start, kind)} -> {_accuracy(end, kind)}")
    return [*lines, f"model: {summary['model']}"]


def accuracy_lines(found: Mapping[str, Any]) -> list[str]:
    """What `eval` found, in words."""
    lines = [f"{found['problems']} problems", f"greedy: {_accuracy(found, 'greedy')}"]
    if found["samples"]:
        lines.append(f"mean@{found['samples']}: {_accuracy(found, 'sampled')}")
        lines += [f"{key}: {value:.1%}" for key, value in found.items() if key.startswith("pass@")]
    lines += [f"mean of reward part {key[5:]}: {value:.3f}" for key, value in found.items() if key.startswith("part/")]
    length = f"{found['completion_tokens']:.1f} tokens an answer"
    return [*lines, f"{length}, {found['truncated_share']:.1%} cut off by the token budget"]


def rollout_lines(found: Mapping[str, Any]) -> list[str]:
    """What `rollout` wrote, and why it is not more."""
    lines = [
        f"{found['file']}: {found['rows']} {found['kind']} for {found['problems']} problems",
        f"{found['sampled']} completions, {found['tokens']} tokens, {found['accuracy']:.1%} correct",
    ]
    reasons = {
        "unsolved": "problems without a correct completion",
        "without_pair": "problems without a correct and a wrong completion to pair",
        "cut_off": "completions cut off by the token budget: left out",
        "unusable": "completions that are blank, or refused when their text is read back: left out",
        "duplicates": "repeated completions of a problem: left out",
        "failed_rewards": "completions whose reward failed",
        "retokenised": "of the completions in the file are read back as other tokens than were sampled",
    }
    return lines + [f"{found[key]} {text}" for key, text in reasons.items() if found[key]]


def stage_table(summary: Mapping[str, Any]) -> Table:
    """Accuracy and training time of every stage of a pipeline."""
    kinds = {"greedy": "greedy", "sampled": "sampled", "pair_accuracy": "pairs", "step_accuracy": "steps"}
    shown = [kind for kind in kinds if any(kind in found for found in summary["accuracy"].values())]
    columns = ("model after", *(kinds[kind] for kind in shown), "training")
    table = Table(*columns, title="held-out accuracy (95% interval)")
    for name, found in summary["accuracy"].items():
        seconds = summary["seconds"].get(name)
        spent = f"{seconds:.0f} s" if seconds is not None else ""
        table.add_row(escape(name), *(_accuracy(found, kind) for kind in shown), spent)
    return table


def score_table(found: Mapping[str, Any]) -> Table:
    """Means of the reward and its parts, and how many rows failed in which way."""
    table = Table("", "mean", title=f"{found['rows']} completions")
    if found["reward"] is not None:
        table.add_row("reward", f"{found['reward']:.4f}")
    for name, mean in found["parts"].items():
        table.add_row(escape(f"part {name}"), f"{mean:.4f}")
    for kind, count in found["failed"].items():
        table.add_row(f"failed: {kind}", str(count))
    return table


def speed_table(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Time of a run by phase, beside what of it was unavoidable and how many of its tokens were needed."""
    table = Table("phase", "seconds", "share", "floor / measured", "useful tokens", title="where the time went")
    for name, phase in found.items():
        shares = (f"{phase[key]:.1%}" if key in phase else "" for key in ("share", "floor_share", "useful_share"))
        table.add_row(name.replace("_", " "), f"{phase['seconds']:.2f}", *shares)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _accuracy(found: Mapping[str, Any], kind: str) -> str:
    if kind not in found:
        return "not measured"
    return f"{found[kind]:.1%} ({found[f'{kind}_low']:.1%} to {found[f'{kind}_high']:.1%})"


def _printable(text: str) -> str:
    """A completion is untrusted: control characters that would steer the terminal are shown as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _show(table: Table) -> None:
    """Off a terminal rich assumes 80 columns and would cut what a reader of the file wants whole."""
    for column in table.columns:
        column.overflow = "fold"
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))
