"""What a run may be told: TOML, checked by frozen pydantic models; an unknown key is an error.

Only choices are here. Whatever follows from them (batch arithmetic, memory, time) is computed by `plan.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from upweight.algorithms import Algorithm
from upweight.presets import algorithm

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0, description="share of the draws in a mixture, relative to the others'")]


class Section(BaseModel):
    """A table of the file: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class InitConfig(Section):
    """A model from scratch: random weights and a tokenizer built on the spot."""

    architecture: Literal["llama", "qwen2", "qwen3", "gpt2"] = Field("llama", description="which kind of transformer")
    width: Positive = Field(128, description="size of the hidden state; a multiple of `heads`")
    layers: Positive = Field(4, description="transformer blocks")
    heads: Positive = Field(4, description="attention heads of a layer")
    kv_heads: Positive | None = Field(None, description="heads of keys and values; default: `heads`")
    mlp_width: Positive | None = Field(None, description="hidden size of the MLP; default: 4 * `width`")
    context: Positive = Field(512, description="longest prompt + completion, tokens")
    tokenizer: Literal["char", "bpe"] = Field("char", description="one token a character, or BPE trained on the data")
    vocabulary_size: Positive = Field(1024, description="size of a bpe vocabulary; a char one has its alphabet's")
    tokens: tuple[str, ...] = Field((), description="strings that are one token each, such as '<answer>'")

    @model_validator(mode="after")
    def _divisible(self) -> InitConfig:
        if self.width % self.heads or self.heads % (self.kv_heads or self.heads):
            raise ValueError("width must be a multiple of heads, and heads of kv_heads")
        return self


class ModelConfig(Section):
    """Which model to start from: a Hugging Face folder or Hub id, or one made from scratch."""

    path: str | None = Field(None, description="a Hugging Face folder or Hub id; instead of it a [model.init] table")
    init: InitConfig | None = None
    revision: str | None = Field(None, description="branch, tag or commit of a Hub id")
    trust_remote_code: bool = Field(False, description="run code that comes with the checkpoint")
    dtype: Literal["float32", "float64", "bfloat16"] = Field("float32", description="of weights and arithmetic")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: a CUDA device if there is one")

    @model_validator(mode="after")
    def _one_of(self) -> ModelConfig:
        if (self.path is None) == (self.init is None):
            raise ValueError("give either model.path or a [model.init] table")
        return self


class ArithmeticTask(Section):
    """Generated sums such as `12+34=`; problems of the held-out split never occur in training."""

    task: Literal["arithmetic"] = Field(description="names the task")
    operators: tuple[Literal["+", "-", "*"], ...] = Field(("+",), description="which kinds of sums are asked")
    digits: Annotated[int, Field(ge=1, le=9)] = Field(2, description="operands have at most this many digits")
    steps: bool = Field(False, description="demonstrations show worked steps in <think> tags")
    tags: bool = Field(True, description="the answer is wanted in <answer> tags")
    calculator: Share = Field(0.0, description="of the demonstrations, the share that asks the tool `calculator`")
    demonstrations: Positive = Field(1000, description="demonstrations, pairs or labelled answers of the fixed set")
    problems: Positive = Field(10000, description="distinct training problems at most")
    weight: Weight = 1.0


class CountdownTask(Section):
    """Reach a target from given numbers with + - * /; any correct expression counts."""

    task: Literal["countdown"] = Field(description="names the task")
    numbers: Annotated[int, Field(ge=2, le=6)] = Field(3, description="how many numbers are given")
    largest: Annotated[int, Field(ge=2)] = Field(20, description="largest given number")
    demonstrations: Positive = Field(1000, description="size of the fixed set for supervised fine-tuning")
    problems: Positive = Field(10000, description="distinct training problems at most")
    weight: Weight = 1.0


class Gsm8kTask(Section):
    """Grade-school word problems: a folder with train.jsonl and test.jsonl, or a Hub id."""

    task: Literal["gsm8k"] = Field(description="names the task")
    path: str = Field("openai/gsm8k", description="the folder or Hub id")
    weight: Weight = 1.0


class GymTask(Section):
    """A dataset of reasoning-gym, asked as there; the reward `gym` scores it as there."""

    task: Literal["reasoning_gym"] = Field(description="names the task")
    dataset: str = Field(description="its name in reasoning-gym, such as chain_sum")
    options: dict[str, Any] = Field(default_factory=dict, description="of the dataset, all but seed and size")
    instruction: str = Field("", description="said after each question")
    tag: str = Field("", description="demonstrations have the answer in <tag>..</tag>")
    problems: Positive = Field(1000, description="distinct training problems at most, and demonstrations")
    heldout: Positive = Field(256, description="held-out problems at most")
    weight: Weight = 1.0


class RowsTask(Section):
    """The user's own rows: JSONL, Parquet or a Hub id.

    Problems have `prompt` or `messages`, and `answer`; demonstrations have `messages`, or `prompt` and `completion`;
    pairs have `prompt`, `chosen` and `rejected`, and may have a `margin`; labelled rows have `prompt`, `completion` and
    `label`. A prompt is text or a list of turns; `chosen` and `rejected` may be whole conversations without a `prompt`.
    """

    task: Literal["rows"] = Field("rows", description="may be left out")
    path: str = Field(description="a .jsonl, .json or .parquet file, or a Hub id")
    split: str = Field("train", description="split of a Hub dataset")
    heldout_path: str | None = Field(None, description="rows for evaluation; else `heldout` rows are set apart")
    heldout: Annotated[int, Field(ge=0)] = Field(0, description="rows set apart for evaluation, chosen by hash")
    weight: Weight = 1.0


TaskConfig = Annotated[ArithmeticTask | CountdownTask | Gsm8kTask | GymTask | RowsTask, Field(discriminator="task")]


class DataConfig(Section):
    """Where problems, demonstrations, pairs or labelled completions come from.

    One task may be written straight into `[data]`.
    """

    mixture: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
    on_bad_row: Literal["error", "skip"] = Field("error", description="a bad row ends the run, or is counted")

    @model_validator(mode="before")
    @classmethod
    def _one_task_inline(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        own = {key: item for key, item in value.items() if key in ("on_bad_row", "mixture")}
        task = {key: item for key, item in value.items() if key not in own}
        if "mixture" in own and task:
            raise ValueError(f"write either one task or a mixture, not both: {', '.join(sorted(task))}")
        tasks = own.get("mixture", [task])
        if not isinstance(tasks, Sequence) or not all(isinstance(item, Mapping) for item in tasks):
            raise ValueError("data.mixture must be a list of tables, [[data.mixture]]")
        return own | {"mixture": tuple({"task": "rows"} | dict(item) for item in tasks)}


class RewardPart(Section):
    """One named part of the reward."""

    function: str = Field(description="one that `upweight rewards` lists, or a user's file.py:name / module:name")
    weight: float = Field(1.0, description="factor in the reward; 0 only measures the part")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the function")
    needs: str | None = Field(None, description="a gate: this part counts 0 while the part of that name is below 1")
    isolate: bool | None = Field(
        None, description="compute it in worker processes, under the deadline; not set: functions of your own are"
    )
    deadline: Annotated[float, Field(gt=0)] | None = Field(
        None, description="seconds that a worker has for this part; default: `rewards.deadline`"
    )


class RewardsConfig(Section):
    """The parts whose weighted sum is the reward; `[rewards.parts.NAME]`, or `NAME = "function"` for weight 1."""

    parts: dict[str, RewardPart] = Field(default_factory=dict)
    on_failure: Literal["raise", "drop", "zero"] = Field(
        "drop", description="a reward that fails ends the run, drops its completion, or counts as 0; always counted"
    )
    max_failed_share: float = Field(
        0.2, ge=0, le=1, description="a step of which a larger share fails ends the run, unless failures count as 0"
    )
    deadline: float = Field(10.0, gt=0, description="seconds that a worker has for one part of one completion")
    workers: int = Field(0, ge=0, description="worker processes for rewards; 0: as many as there are cores")
    memory_mb: Positive = Field(2048, description="memory that a worker may use for its data, in MiB")
    shuffled: bool = Field(False, description="control experiment: permute the rewards among all completions of a step")

    @field_validator("parts", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: {"function": part} if isinstance(part, str) else part for name, part in value.items()}


class TurnsConfig(Section):
    """A tool or an environment that answers completions; what it says is read by the policy and never trained."""

    tool: str | None = Field(None, description="calculator, python, or a user's file.py:name / module:name")
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of the function")
    limit: Annotated[int, Field(ge=2)] = Field(4, description="completions of one rollout at most; then it is cut off")
    role: str = Field("tool", description="who answers, where the chat template renders the reply as a message")


class BatchConfig(Section):
    """Size of a step: `rows` of a dataset, or `group_size` completions for each of `prompts`."""

    rows: Positive = Field(64, description="demonstrations, pairs or labelled rows of a batch, where a dataset is used")
    prompts: Positive = Field(32, description="prompts of a batch, where rollouts are learned from")
    group_size: Positive = Field(8, description="completions sampled for each prompt")
    refill_limit: Positive = Field(
        20, description="prompts drawn for a batch whose groups are filtered, at most this times `prompts`"
    )
    pretrain_rows: Positive = Field(
        32, description="rows of `[pretrain]` beside each batch, where a term asks for them"
    )


class SamplingConfig(Section):
    """How completions are drawn in training."""

    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="divides the logits, in sampler and learner")
    max_completion_tokens: Positive = Field(256, description="a completion is cut off after this many tokens")
    stop: tuple[str, ...] = Field((), description="strings that end a completion, beside the end-of-sequence token")
    max_rows: Positive = Field(512, description="completions decoded at once")
    max_mismatch: Annotated[float, Field(gt=0)] = Field(
        0.1, description="largest mean difference of sampler and learner log-probs, nats a token, before the run stops"
    )
    top_p: float = Field(1.0, description="refused in training; see [evaluate]")
    top_k: int = Field(0, description="refused in training; see [evaluate]")

    @model_validator(mode="after")
    def _full_distribution(self) -> SamplingConfig:
        if self.top_p != 1.0 or self.top_k != 0:
            raise ValueError(
                "top_p and top_k cut and renormalise the distribution, so the learner's log-probs would not be those "
                "of the tokens that were drawn; use them in [evaluate], not in training"
            )
        return self


class OptimizerConfig(Section):
    """AdamW and its schedule; the unit of time is one optimizer step."""

    lr: Annotated[float, Field(gt=0)] = Field(1e-5, description="learning rate at its highest")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the moving averages of gradient and square")
    eps: float = Field(1e-8, description="added to the root of the mean square")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="decoupled, of all weights")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="a longer gradient is scaled down to this norm"
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="optimizer steps of linear rise to `lr`")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="course of the rate after warm-up"
    )
    final_lr_share: Share = Field(0.0, description="learning rate at the end, as a share of `lr`")


class CriticConfig(Section):
    """The value function of methods that have one."""

    share_trunk: bool = Field(False, description="a head on the policy instead of a network of its own")
    lr: Annotated[float, Field(gt=0)] | None = Field(None, description="its learning rate; default: `optimizer.lr`")
    schedule: Literal["constant", "linear", "cosine"] | None = Field(
        None, description="course of its rate after warm-up; default: `optimizer.schedule`"
    )


class LearnerConfig(Section):
    """How one optimizer step is computed."""

    tokens_per_microbatch: Positive = Field(16384, description="prompt + completion tokens of one forward pass")
    pad_multiple: Positive = Field(1, description="padded widths are multiples of this; 8 or 64 suits a GPU")
    layout: Literal["auto", "shared", "padded", "packed"] = Field(
        "auto",
        description="shared: a prompt is computed once for all its completions, with little padding (Llama family); "
        "packed: several rows share a padded sequence; auto: shared where the model can, else padded",
    )
    gradient_checkpointing: bool = Field(False, description="layers keep their input only: less memory, more time")
    skip_inert: bool = Field(True, description="rows that cannot move the weights take no part in the training pass")
    ranks: Positive = Field(1, description="processes that share the rows of a step")
    max_skipped_steps: Positive = Field(5, description="non-finite steps in a row before the run stops")


class ComputeConfig(Section):
    """What the machine computes in."""

    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="of matrix products, in learner and sampler; weights and optimizer keep `model.dtype`. auto: "
        "bfloat16 where a probe on the model's own shapes finds it faster",
    )


class EvaluateConfig(Section):
    """Held-out accuracy during training."""

    every: Annotated[int, Field(ge=0)] = Field(0, description="steps between evaluations; 0: never")
    problems: Positive = Field(256, description="held-out problems at most")
    samples: Annotated[int, Field(ge=0)] = Field(0, description="sampled answers a problem, for mean@n")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="of the sampled answers")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="sample from the likeliest tokens of this share"
    )
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="sample from this many likeliest tokens; 0: from all")


class CheckpointConfig(Section):
    """What is kept for resuming."""

    every: Annotated[int, Field(ge=0)] = Field(50, description="steps between checkpoints; 0: only at the end")
    keep: Positive = Field(2, description="latest checkpoints kept; the best by held-out accuracy is kept as well")


class RecordsConfig(Section):
    """What is written while training."""

    ledger_every: Annotated[int, Field(ge=0)] = Field(1, description="steps between token ledgers; 0: none")
    kl_every: Annotated[int, Field(ge=0)] = Field(10, description="steps between measurements of KL to the start")
    tensorboard: bool = Field(True, description="write event files for TensorBoard")
    wandb: bool = Field(False, description="report to Weights & Biases, if it is installed")


class AlgorithmConfig(BaseModel):
    """A preset's name, or `file.py:name` for a method of one's own; every other key overrides one of its options."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    def resolve(self) -> Algorithm:
        """The algorithm that this names, with its options set."""
        return algorithm(self.name, self.model_extra)


class Config(Section):
    """One training run."""

    name: str = Field("run", description="the run lives in runs/NAME")
    runs_dir: str = Field("runs", description="where runs live")
    seed: Annotated[int, Field(ge=0)] = Field(0, description="of initial weights, order of the data, and sampling")
    steps: Positive = Field(description="batches; optimizer steps are this times inner_epochs times minibatches")
    max_seconds: Annotated[float, Field(gt=0)] | None = Field(None, description="stop training after this long")
    threads: Positive | Literal["auto"] | None = Field(
        None, description="CPU threads; default: all cores; auto: 1 where a probe finds that faster"
    )
    algorithm: AlgorithmConfig = Field(
        description="a preset's name or the user's `file.py:name`, or a table of `name` and options"
    )
    model: ModelConfig
    data: DataConfig
    pretrain: DataConfig | None = Field(None, description="demonstrations of the stream `pretrain`, like `[data]`")
    rewards: RewardsConfig = RewardsConfig()
    turns: TurnsConfig = TurnsConfig()
    batch: BatchConfig = BatchConfig()
    sampling: SamplingConfig = SamplingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    critic: CriticConfig = CriticConfig()
    learner: LearnerConfig = LearnerConfig()
    compute: ComputeConfig = ComputeConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    records: RecordsConfig = RecordsConfig()

    @field_validator("algorithm", mode="before")
    @classmethod
    def _algorithm_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        method = self.algorithm.resolve()
        if method.source == "rollouts" and not self.rewards.parts:
            raise ValueError(f'{method.name} learns from rewards: add for example [rewards.parts] correct = "number"')
        if method.needs_groups() and self.batch.group_size < 2:
            raise ValueError(
                f"{method.name} compares the completions of a prompt with each other, so batch.group_size must be at "
                f"least 2, not {self.batch.group_size}"
            )
        if (
            any(term.reduction == "constant_length" for term in method.active_terms())
            and not method.constant_length
            and method.source != "rollouts"
        ):
            raise ValueError("algorithm.constant_length has no default where nothing is sampled: set it, in tokens")
        if self.rewards.shuffled and method.needs("parts"):
            raise ValueError(
                f"rewards.shuffled permutes sums, but {method.name} learns from each part: use another method"
            )
        if method.streams() and self.pretrain is None:
            raise ValueError(
                f"{method.name} has a term on the stream 'pretrain': say where it comes from in [pretrain]"
            )
        if method.reference_every and not method.needs("ref_logprobs"):
            raise ValueError("algorithm.reference_every moves a reference that nothing reads: set a KL coefficient too")
        if self.compute.dtype == "bfloat16" and self.model.dtype == "float64":
            raise ValueError('compute.dtype is "bfloat16" but model.dtype asks for float64: take back one of them')
        rows = self.batch.prompts if method.source == "rollouts" else self.batch.rows
        if method.minibatches > rows:
            raise ValueError(f"algorithm.minibatches is {method.minibatches}, more than the {rows} there are to divide")
        return self

    @property
    def run_dir(self) -> Path:
        """The folder that this run writes into."""
        return Path(self.runs_dir) / self.name
