"""From measurements to tables: medians over repeats, ratios, and a series that goes on where it was interrupted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bench import growth
from bench.__main__ import summary
from bench.jobs import Job, Measured, record_of
from bench.protocol import BenchError, Series
from bench.results import best, faster_micro, lines_of, ratio, read_records
from bench.table import markdown
from bench.workloads import WORKLOADS

MACHINE = {"cpu": "a CPU", "cores": 2, "packages": {"torch": "2.13.0"}}
TOKENS = 64 * 64


def record(arm: str, dtype: str, seconds: list[float], **fields: Any) -> dict[str, Any]:
    """A's record with one step a number of seconds."""
    workload = fields.get("workload", "A")
    shape = WORKLOADS[workload]
    settings = {"size": "small", "workload": workload, "shape": shape, "dtype": dtype, "warmup": 0, **fields}
    job = Job("step", arm, measured=len(seconds), **settings)
    halves = [one / 2 for one in seconds]
    measured = Measured(seconds, [TOKENS] * len(seconds), {"rollout": halves, "update": halves})
    return record_of(job, measured, 2**20 * len(seconds), MACHINE)


SOME = [
    record("ours", "auto", [1.0, 1.0, 4.0]),
    record("ours", "auto", [1.0], repeat=1),
    record("ours", "float32", [2.0]),
    record("trl", "float32", [6.0, 8.0, 7.0]),
    record("trl", "bfloat16", [5.0]),
    record("trl", "bfloat16", [4.0], variant="defaults"),
]


def test_repeats_are_taken_together() -> None:
    ours = lines_of(SOME)[0]
    assert (ours.seconds.median, ours.seconds.most, ours.seconds.count) == (1.0, 4.0, 4)
    assert ours.speed.median == TOKENS
    assert ours.parts["update"].median == 0.5
    assert ours.peak_memory_bytes == 3 * 2**20


def test_ratios_are_of_medians_against_the_opponents_better_type_and_not_its_defaults() -> None:
    lines = lines_of(SOME)
    assert ratio(lines, "trl", "auto") == pytest.approx(5.0)
    assert ratio(lines, "trl", "float32", "float32") == pytest.approx(3.5)
    assert ratio(lines, "vllm", "auto") is None
    fastest = best(lines, "trl")
    assert fastest is not None
    assert (fastest.job.dtype, fastest.job.variant) == ("bfloat16", "")


def test_the_faster_micro_batch_is_chosen_for_each_type() -> None:
    tried = [
        record("trl", dtype, [seconds], variant=f"micro {micro}", options={"micro": micro})
        for dtype, micro, seconds in [("float32", 64, 3.0), ("float32", 16, 2.0), ("bfloat16", 64, 1.0)]
    ]
    tried.append(record("trl", "bfloat16", [1.5], variant="micro 16", options={"micro": 16}))
    assert faster_micro(lines_of(tried)) == {("small", "float32"): 16, ("small", "bfloat16"): 64}


def test_the_quick_summary_is_one_json_object() -> None:
    both = [*SOME, *(record(arm, dtype, [s], workload="B", shape=WORKLOADS["B"]) for arm, dtype, s in
                     [("ours", "auto", 1.0), ("trl", "float32", 8.0), ("trl", "bfloat16", 9.0)])]  # fmt: skip
    found = json.loads(json.dumps(summary(lines_of(both))))
    assert found["ratio_a"] == pytest.approx(5.0)
    assert found["ratio_b"] == pytest.approx(8.0)
    assert (found["trl_a"], found["trl_b"]) == ("bfloat16", "float32")
    assert found["medians"]["A ours auto"] == {"seconds": 1.0, "tokens_per_second": TOKENS}


def test_the_table_has_every_arm_and_the_ratios() -> None:
    text = markdown(SOME, {"completions": 64, "loss": 0.1, "loss_apart": 1e-8, "gradient_apart": 2e-7, "passed": True})
    assert "| step A | small | auto | trl, bfloat16 | 5.00 |" in text
    assert "| step A | small | float32 | trl, float32 | 3.50 |" in text
    assert "| trl, bfloat16, defaults | 4 |" in text
    assert "apart by 2.0e-07" in text
    assert "a CPU, 2 cores" in text


def learned(arm: str, seconds: float, seed: int, reached: bool = True) -> dict[str, Any]:
    job = Job("learn", arm, "demo", "demo", WORKLOADS["B"], "auto", repeat=seed, warmup=0, measured=1)
    return record_of(job, Measured([seconds], [1], {}, {"reached": reached, "samples": 100 * seconds}), 0, MACHINE)


def test_the_time_to_the_goal_counts_only_who_got_there() -> None:
    records = [learned("ours", 10.0, 0), learned("ours", 20.0, 1), learned("ours", 999.0, 2, reached=False)]
    text = markdown([*records, learned("trl", 60.0, 0)])
    assert "| ours, auto | 2 of 3 | 15 | 10 to 20 | 1,500 | 1,000 to 2,000 | 1.00 |" in text
    assert "| trl, auto | 1 of 1 | 60 | 60 to 60 | 6,000 | 6,000 to 6,000 | 0.25 |" in text


def test_growth_reads_off_the_exponents() -> None:
    records = []
    for job in growth.jobs("group_size"):
        seconds = 0.5 * job.shape.group_size
        tokens = job.shape.rows * job.shape.completion_tokens
        parts = {"rollout": [0.1 * job.shape.group_size**0.5] * 4, "update": [seconds] * 4}
        records.append(record_of(job, Measured([seconds] * 4, [tokens] * 4, parts), 0, MACHINE))
    found = growth.curves("group_size", lines_of(records))
    whole, upper = growth.fits(found["step"])
    assert whole.exponent == pytest.approx(1.0)
    assert growth.fits(found["rollout"])[0].exponent == pytest.approx(0.5)
    assert upper.points == len(records) - growth.SKIP
    assert "| completions of a prompt | 2 to 64 | update | 1 to 32 | 1.00 ± 0.00 | 1.00 ± 0.00 |" in growth.table(
        {"group_size": found}
    )


# --- a series -------------------------------------------------------------------------------------------------------

# Stands in for an opponent's Python: it writes a record where it is told to, counts its calls, and fails once a file
# says so.
STAND_IN = """#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
if (here / "broken").exists():
    sys.exit("no luck today")
job, result = json.loads(pathlib.Path(sys.argv[-4]).read_text()), pathlib.Path(sys.argv[-1])
with (here / "calls").open("a") as calls:
    calls.write(result.stem + "\\n")
count = job["measured"]
result.write_text(json.dumps({{"job": job, "seconds": [1.0] * count, "tokens": [4096] * count, "parts": {{}},
                              "peak_memory_bytes": 1, "notes": {{}}}}))
"""


@pytest.fixture
def opponent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setenv("UPWEIGHT_BENCH_TRL", str(python))
    (tmp_path / "series" / "models" / "tiny").mkdir(parents=True)
    return tmp_path


def trl_jobs(count: int) -> list[Job]:
    return [
        Job("step", "trl", "tiny", "A", WORKLOADS["A"], "float32", repeat=i, warmup=1, measured=2) for i in range(count)
    ]


def test_a_series_goes_on_where_it_was_interrupted(opponent: Path, capfd: pytest.CaptureFixture[str]) -> None:
    series, jobs = Series(opponent / "series"), trl_jobs(3)
    series.run(jobs[:2])
    records = series.run(jobs)
    assert (opponent / "calls").read_text().split() == [job.name for job in jobs]
    assert [record["job"]["repeat"] for record in records] == [0, 1, 2]
    assert read_records(series.results) == records
    assert "1/1 step_A_tiny_trl_float32_2" in capfd.readouterr().err


def test_a_failure_is_told_with_the_end_of_its_log_and_leaves_no_result(opponent: Path) -> None:
    (opponent / "broken").touch()
    series = Series(opponent / "series")
    with pytest.raises(BenchError, match=r"(?s)step_A_tiny_trl_float32_0 failed with status 1.*no luck today"):
        series.run(trl_jobs(1))
    assert read_records(series.results) == []


def test_a_missing_environment_is_one_line_before_anything_runs(
    opponent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWEIGHT_BENCH_VLLM", str(opponent / "nowhere"))
    jobs = [*trl_jobs(1), Job("generate", "vllm", "tiny", "forced", WORKLOADS["A"], "float32")]
    with pytest.raises(BenchError) as raised:
        Series(opponent / "series").run(jobs)
    assert raised.value.status == 2
    assert "python bench/environments.py vllm" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (opponent / "calls").exists()
