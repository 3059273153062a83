"""Which measurements make up `make bench`, `make bench-quick` and `make bench-full`. Pure: lists of jobs in order.

Arms stand next to each other and rounds follow one another, so that a machine that grows slower does so for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from bench.jobs import Job, Task
from bench.workloads import GENERATION, WORKLOADS, Workload

SIZES = ("tiny", "small", "medium")
FIXED = ("float32", "bfloat16")
DTYPES = ("auto", *FIXED)
MICRO = (64, 16)  # rows of a forward pass that TRL is tried with
Micro = Mapping[tuple[str, str], int]  # by size and number type: the faster one

SEEDS = 5
LEARNING = Workload(prompts=64, group_size=8, prompt_tokens=6, completion_tokens=40, forced=False)
LEARNING_CAP = 400  # the demo's schedule stretched to this many batches passes 90% at about 240 of them
GOAL = 0.9

# Seconds of TRL's step and of start-up where nothing was measured yet: only for the guess of what is left.
STEP_SECONDS = {"tiny": 1.0, "3M": 1.4, "small": 2.0, "13M": 3.5, "medium": 6.0, "50M": 12.0, "demo": 700.0}
STARTUP_SECONDS = 12.0
OURS_SHARE = 0.25
LONG_SHARE = 4.0  # of a natural end, where the longest completion decides


def quick() -> list[Job]:
    """A and B at small against TRL, one round of 1 + 3 steps."""
    return [
        job
        for workload in WORKLOADS
        for job in step_jobs(workload, "small", 0, ("auto", "float32"), warmup=1, measured=3, micro={})
    ]


def tuning(sizes: tuple[str, ...] = SIZES) -> list[Job]:
    """How many rows TRL's forward pass is best given, at each size and number type: workload B, 1 + 2 steps."""
    return [
        Job("step", "trl", size, "tune", WORKLOADS["B"], dtype, f"micro {micro}", 0, 1, 2, {"micro": micro})
        for size, dtype, micro in product(sizes, FIXED, MICRO)
    ]


def standard(micro: Micro) -> list[Job]:
    """A, B and generation at every size: two rounds of 3 + 6 steps, and TRL's defaults once beside."""
    jobs = []
    for repeat in range(2):
        for workload, size in product(WORKLOADS, SIZES):
            jobs += step_jobs(workload, size, repeat, DTYPES, 3, 6, micro)
            if repeat == 0:
                jobs.append(Job("step", "trl", size, workload, WORKLOADS[workload], "bfloat16", "defaults", 0, 1, 3))
        for workload, size in product(GENERATION, SIZES):
            jobs += generation_jobs(workload, size, repeat)
    return jobs


def full(micro: Micro) -> list[Job]:
    """All of `standard`, log-probs alone, and the time to 90% on the demo task."""
    jobs = standard(micro)
    for repeat, workload, size in product(range(2), WORKLOADS, SIZES):
        jobs += score_jobs(workload, size, repeat, micro)
    return jobs


def step_jobs(
    workload: str, size: str, repeat: int, dtypes: tuple[str, ...], warmup: int, measured: int, micro: Micro
) -> list[Job]:
    """The GRPO step of ours in some number types and of TRL, tuned, in both of its own."""
    shape = WORKLOADS[workload]
    ours = [Job("step", "ours", size, workload, shape, dtype, "", repeat, warmup, measured) for dtype in dtypes]
    theirs = []
    for dtype in FIXED:
        options = {"micro": micro.get((size, dtype), shape.rows)}
        theirs.append(Job("step", "trl", size, workload, shape, dtype, "", repeat, warmup, measured, options))
    return alternate(ours, theirs)


def generation_jobs(workload: str, size: str, repeat: int) -> list[Job]:
    """Generation alone, each arm in both number types; vLLM with two OpenMP runtimes."""
    shape = GENERATION[workload]
    arms = [("ours", ""), ("transformers", ""), ("vllm", "libgomp"), ("vllm", "libiomp5")]
    return [
        Job("generate", arm, size, workload, shape, dtype, variant, repeat, 1, 5)
        for dtype, (arm, variant) in product(FIXED, arms)
    ]


def score_jobs(workload: str, size: str, repeat: int, micro: Micro) -> list[Job]:
    """Log-probs alone."""
    task: Task = "score"
    shape = WORKLOADS[workload]
    ours = [Job(task, "ours", size, workload, shape, dtype, "", repeat, 1, 5) for dtype in DTYPES]
    theirs = [
        Job(task, "trl", size, workload, shape, dtype, "", repeat, 1, 5, {"micro": micro.get((size, dtype), 64)})
        for dtype in FIXED
    ]
    return alternate(ours, theirs)


def learn_tuning() -> list[Job]:
    """TRL's number type and micro-batch on the demo task: a few batches each."""
    return [
        learn_job("trl", 0, dtype, {"cap": 6, "micro": micro}, f"micro {micro}", "tune-demo")
        for dtype, micro in product(FIXED, (256, 64))
    ]


def learn(trl_dtype: str, trl_micro: int) -> list[Job]:
    """The demo task to 90%, seed after seed, ours beside TRL's."""
    jobs = []
    for seed in range(SEEDS):
        jobs.append(learn_job("ours", seed, "auto", {"cap": LEARNING_CAP}))
        jobs.append(learn_job("trl", seed, trl_dtype, {"cap": LEARNING_CAP, "micro": trl_micro}))
    return jobs


def learn_job(
    arm: str, seed: int, dtype: str, options: Mapping[str, int], variant: str = "", workload: str = "demo"
) -> Job:
    """One training run; it is one measurement, with nothing to warm up."""
    return Job("learn", arm, "demo", workload, LEARNING, dtype, variant, seed, 0, 1, {"goal": GOAL, **options})


def alternate(left: list[Job], right: list[Job]) -> list[Job]:
    """One of each in turn, then what is left of the longer list."""
    pairs = [job for pair in zip(left, right, strict=False) for job in pair]
    shorter = min(len(left), len(right))
    return [*pairs, *left[shorter:], *right[shorter:]]


def guess(job: Job) -> float:
    """Seconds that a job may take, to begin with."""
    step = STEP_SECONDS[job.size]
    step *= 1.0 if job.shape.forced or job.task == "learn" else LONG_SHARE
    step *= OURS_SHARE if job.arm == "ours" else 1.0
    if job.task == "learn":
        step *= job.options["cap"] / LEARNING_CAP
    if job.task in ("generate", "score"):
        step *= 0.3
    return STARTUP_SECONDS + job.steps * step
