"""What the bench measures: the same data for every arm, the sizes that it names, fair rounds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from bench import growth, profiles
from bench.jobs import Job, Measured, job_from, record_of
from bench.model_folder import character_tokenizer, make_model
from bench.profiles import alternate, full, guess, learn, learn_tuning, quick, standard, tuning
from bench.workloads import (
    CHARACTERS,
    GENERATION,
    SIZES,
    WORKLOADS,
    Workload,
    completion_lengths,
    letter_share,
    prompt_texts,
    write_prompts,
)

from upweight.config import ModelConfig
from upweight.models.load import load_model


def test_prompts_are_distinct_have_a_token_a_character_and_stay_the_same() -> None:
    texts = prompt_texts(200, 64)
    assert len(set(texts)) == 200
    assert texts == prompt_texts(200, 64)
    assert texts != prompt_texts(200, 64, seed=1)
    assert {len(ids) for ids in character_tokenizer()(texts)["input_ids"]} == {64}
    assert set("".join(texts)) == set(CHARACTERS)


def test_vocabulary_has_77_tokens() -> None:
    assert len(character_tokenizer()) == 77


def test_prompts_as_a_file_of_problems(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "new" / "prompts.jsonl", ["ab", "cd"])
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == ["ab", "cd"]


def test_reward_is_a_share() -> None:
    assert letter_share("aB1c") == 0.5
    assert letter_share("") == 0.0


def test_lengths_without_sampling() -> None:
    assert completion_lengths(WORKLOADS["A"]) == [64] * 64
    many = completion_lengths(Workload(prompts=5000, group_size=8, completion_tokens=256, forced=False))
    assert min(many) == 1
    assert max(many) == 256
    expected = sum((76 / 77) ** t for t in range(256))  # mean of a geometric length with mean 77, cut off at 256
    assert sum(many) / len(many) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("size", "millions"), [("tiny", 1.0), ("small", 5.9), ("medium", 25.2)])
def test_sizes_are_those_of_the_protocol(size: str, millions: float) -> None:
    assert SIZES[size].parameters / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_model_folder_is_made_once_and_has_the_parameters_of_its_size(tmp_path: Path) -> None:
    folder = make_model("tiny", tmp_path / "tiny")
    model, tokenizer = load_model(ModelConfig(path=str(folder)))
    assert sum(parameter.numel() for parameter in model.parameters()) == SIZES["tiny"].parameters
    text = prompt_texts(1, 64)[0]
    assert tokenizer(text)["input_ids"] == character_tokenizer()(text)["input_ids"]
    written = (folder / "model.safetensors").stat().st_mtime_ns
    make_model("tiny", folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def every_profile() -> dict[str, list[Job]]:
    micro = {(size, dtype): 16 for size in profiles.SIZES for dtype in profiles.FIXED}
    return {
        "quick": quick(),
        "standard": [*tuning(), *standard(micro)],
        "full": [*tuning(), *full(micro), *learn_tuning(), *learn("float32", 64)],
        "growth": [job for factor in growth.FACTORS for job in growth.jobs(factor)],
    }


@pytest.mark.parametrize("name", ["quick", "standard", "full", "growth"])
def test_a_profiles_jobs_have_names_of_their_own_and_survive_a_file(name: str) -> None:
    jobs = every_profile()[name]
    assert max(Counter(job.name for job in jobs).values()) == 1
    assert all(job_from(json.loads(job.to_json())) == job for job in jobs)
    assert all(" " not in job.name and guess(job) > 0 for job in jobs)


def test_every_arm_of_a_profile_exists() -> None:
    arms = Path(profiles.__file__).parent / "arms"
    modules = {job.module for jobs in every_profile().values() for job in jobs}
    assert all((arms / f"{module.rpartition('.')[2]}.py").exists() for module in modules)


def test_both_sides_of_a_step_have_the_same_workload_and_as_many_steps() -> None:
    for jobs in (quick(), standard({})):
        steps = [job for job in jobs if job.task == "step" and job.variant != "defaults"]
        assert {job.shape for job in steps if job.workload == "B"} == {WORKLOADS["B"]}
        for workload in WORKLOADS:
            mine, theirs = ([j for j in steps if j.workload == workload and j.arm == arm] for arm in ("ours", "trl"))
            assert {(job.size, job.warmup, job.measured) for job in mine} == {
                (job.size, job.warmup, job.measured) for job in theirs
            }


def test_standard_measures_at_least_ten_steps_after_three_of_warm_up() -> None:
    counted: Counter[tuple[str, str, str, str]] = Counter()
    for job in standard({}):
        if job.task == "step" and job.variant != "defaults":
            assert job.warmup == 3
            counted[job.arm, job.size, job.workload, job.dtype] += job.measured
    assert min(counted.values()) >= 10
    assert {(size, workload) for _, size, workload, _ in counted} == {(s, w) for s in profiles.SIZES for w in WORKLOADS}


def test_arms_take_turns() -> None:
    steps = [job for job in standard({}) if job.task == "step" and job.workload == "A" and job.size == "tiny"]
    assert [job.arm for job in steps if job.repeat == 1] == ["ours", "trl", "ours", "trl", "ours"]
    a, b = quick()[0], quick()[1]
    assert alternate([a, a, a], [b]) == [a, b, a, a]


def test_generation_covers_every_opponent_at_equal_type() -> None:
    jobs = [job for job in standard({}) if job.task == "generate" and job.repeat == 0 and job.size == "small"]
    assert {job.workload for job in jobs} == set(GENERATION)
    for dtype in profiles.FIXED:
        assert {job.arm for job in jobs if job.dtype == dtype} == {"ours", "transformers", "vllm"}


def job(forced: bool = True) -> Job:
    return Job("step", "ours", "tiny", "A", Workload(forced=forced), "float32", warmup=1, measured=2)


def test_a_record_leaves_out_the_warm_up() -> None:
    measured = Measured([9.0, 1.0, 2.0], [4096] * 3, {"update": [8.0, 0.5, 0.6]})
    record = record_of(job(), measured, 7, {"cores": 2})
    assert (record["seconds"], record["tokens"]) == ([1.0, 2.0], [4096, 4096])
    assert record["parts"] == {"update": [0.5, 0.6]}
    assert record["warmup_seconds"] == [9.0]


def test_a_record_insists_on_equal_tokens_where_they_are_forced() -> None:
    short = Measured([1.0] * 3, [4096, 4096, 4095])
    with pytest.raises(ValueError, match=r"\[4095, 4096\] tokens, not 4096"):
        record_of(job(), short, 0, {})
    assert record_of(job(forced=False), short, 0, {})["tokens"] == [4096, 4095]


def test_a_record_insists_on_every_step() -> None:
    with pytest.raises(ValueError, match="2 steps were measured, not 3"):
        record_of(job(), Measured([1.0] * 2, [4096] * 3), 0, {})


def test_growth_varies_one_factor_at_a_time() -> None:
    for factor in growth.FACTORS:
        jobs = growth.jobs(factor)
        varied = {
            name
            for name in ("size", *Workload.__dataclass_fields__)
            if len({getattr(one, name) if name == "size" else getattr(one.shape, name) for one in jobs}) > 1
        }
        assert varied == {"size" if factor == "parameters" else factor}
        positions = [growth.position(factor, one) for one in jobs]
        assert positions == sorted(set(positions))
