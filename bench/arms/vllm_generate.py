"""vLLM's CPU backend alone, in this process; prefix caching off, as each prompt is new.

Eager: its compiled mode was slower on the machines tried, and takes half a minute to start. With GNU's OpenMP, threads
that wait for a busy core can take a hundred times as long, so that both runtimes are measured, as variants.
"""

from __future__ import annotations

import os
import time

from bench.jobs import Job, Measured, Place
from bench.workloads import prompt_texts

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ["VLLM_NO_USAGE_STATS"] = "1"


def run(job: Job, place: Place) -> Measured:
    """Seconds for all rows of the workload, token ids in and out."""
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    shape = job.shape
    tokenizer = AutoTokenizer.from_pretrained(place.model)
    prompts = tokenizer(prompt_texts(shape.prompts, shape.prompt_tokens))["input_ids"]
    rows = [{"prompt_token_ids": ids} for ids in prompts for _ in range(shape.group_size)]
    engine = LLM(
        model=str(place.model),
        dtype=job.dtype,
        max_model_len=shape.prompt_tokens + shape.completion_tokens,
        max_num_seqs=shape.rows,
        enforce_eager=True,
        enable_prefix_caching=False,
        disable_log_stats=True,
        seed=job.repeat,
    )
    least = shape.completion_tokens if shape.forced else 0
    params = SamplingParams(
        temperature=1.0,
        max_tokens=shape.completion_tokens,
        min_tokens=least,
        ignore_eos=shape.forced,
        detokenize=False,
    )
    seconds, tokens = [], []
    for _ in range(job.steps):
        start = time.perf_counter()
        outputs = engine.generate(rows, params, use_tqdm=False)
        seconds.append(time.perf_counter() - start)
        tokens.append(sum(len(output.outputs[0].token_ids) for output in outputs))
    return Measured(seconds, tokens)
