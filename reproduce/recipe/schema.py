"""The sections of a recipe: frozen dataclasses, a docstring with the unit under each field.

`data` is declared by its owner, data_prep.spec.DataSpec. Bounds stand in the annotations; combinations of
fields are checked in checks.py. Derived numbers are properties.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from data_prep.spec import DataSpec


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of a number, ends included unless `open_low`."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False

    def admits(self, value: float) -> bool:
        """Whether the value lies within the bounds (NaN never does)."""
        if self.low is not None and not (value > self.low or (value == self.low and not self.open_low)):
            return False
        return self.high is None or value <= self.high

    def __str__(self) -> str:
        if self.high is None:
            return f"{'>' if self.open_low else '>='} {self.low:g}"
        if self.high == MOST:
            return f">= {self.low or 0:g}, at most {self.high:g}"
        return f"between {self.low or 0:g} and {self.high:g}"


MOST = 10**12
"""Above any count that can be meant; products of a few such numbers still fit a float."""

Count = Annotated[int, Range(low=1, high=MOST)]
CountOrZero = Annotated[int, Range(low=0, high=MOST)]
Positive = Annotated[float, Range(low=0, open_low=True)]
Scale = Annotated[float, Range(low=1e-6, high=1e6)]
NotNegative = Annotated[float, Range(low=0)]
Share = Annotated[float, Range(low=0, high=1)]
SeedNumber = Annotated[int, Range(low=0, high=2**32 - 1)]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The architecture; built by Hugging Face's GPT2LMHeadModel or LlamaForCausalLM."""

    family: Literal["gpt2", "llama"]
    """Which of the paper's two architectures."""
    layers: Count
    """Transformer blocks."""
    heads: Count
    """Attention heads; divides width."""
    width: Count
    """Embedding dimension."""
    feed_forward: Count | None = None
    """Inner dimension of the feed-forward blocks. gpt2: null is 4 x width. llama: required."""
    context: Count
    """Longest sequence in tokens."""
    vocab: Count
    """Vocabulary size; must equal the token store's."""
    dropout: Share = 0.0
    """Dropout probability on embeddings, attention and residuals (gpt2 only; Hugging Face's default 0.1)."""
    tie_embeddings: bool = True
    """Share the token embedding with the output matrix."""

    @property
    def inner(self) -> int:
        """Inner dimension of the feed-forward blocks."""
        return self.feed_forward or 4 * self.width


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """The loop: how long, how many samples a step, in what precision."""

    steps: Count
    """Optimizer steps."""
    global_batch: Count
    """M: samples of one optimizer step, the batch that weights are computed over."""
    micro_batch: Count | None = None
    """Samples of one forward pass on one rank; null is the rank's whole share of the global batch."""
    sequence: Annotated[int, Range(low=2, high=MOST)]
    """Tokens of a sample."""
    clip_norm: Positive = 1.0
    """Global gradient norm above which gradients are scaled down."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """fp32; bf16: forward and backward in bfloat16, float32 weights, losses and updates; auto: bf16 on a
    GPU that has it, else fp32."""
    log_every_steps: Count = 10
    """A line of metrics.jsonl this often; the first and the last step always."""
    checkpoint_every_steps: Count = 1000
    """A checkpoint this often, and at the end."""
    keep_checkpoints: Count = 2
    """Newest checkpoints kept; older ones are deleted after a newer one is complete."""
    checkpoint_async: bool = False
    """Write checkpoints beside the following steps, from a copy in host memory."""
    nonfinite: Literal["halt", "drop_sample"] = "halt"
    """A loss that is not finite: halt; or drop_sample: weight 0 and the sample on record, halt after three
    such steps in a row."""

    @property
    def tokens_a_step(self) -> int:
        """Tokens of one global batch."""
        return self.global_batch * self.sequence

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.steps * self.tokens_a_step


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """AdamW and its learning rate: linear warm-up, then cosine to the end rate at the last step."""

    lr: Positive
    """Peak learning rate."""
    end_lr: NotNegative
    """Learning rate of the last step."""
    warmup_steps: CountOrZero
    """Steps of linear warm-up to the peak."""
    warmup_start_lr: NotNegative = 1e-7
    """Learning rate the warm-up starts from."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay, on matrices only: not on biases and normalisation gains."""
    beta1: Share = 0.9
    """Decay of the gradient's running mean."""
    beta2: Share = 0.999
    """Decay of the squared gradient's running mean."""
    eps: Positive = 1e-8
    """Added to the denominator of the update."""


@dataclass(frozen=True, kw_only=True)
class ReweightingSpec:
    """The paper's method (Section 4 and Algorithm 1)."""

    strategy: str = "uniform"
    """uniform, linupper, quadratic, extremes, linear, dro_kl or capped_softmax; readme_uniform is the
    released README's "uniform", which is not (docs/paper-and-code.md)."""
    r: Scale = 0.4
    """Temperature after the warm-up; dro_kl's lambda. No effect with uniform."""
    delta: Scale = 1.0
    """Half-width of the normalised losses."""
    warmup_steps: CountOrZero = 0
    """Steps before r takes effect."""
    warmup: Literal["uniform", "large_r"] = "large_r"
    """Weights during the warm-up: exactly uniform (released GPT-2 code) or r = 100 (paper; released Llama
    code)."""
    scope: Literal["global", "micro", "lagged"] = "global"
    """What a sample is weighed against. global: the whole optimizer step, all ranks and micro-batches, exact;
    every micro-batch but the last is run forward twice. micro: one micro-batch of all ranks, one pass
    (released code). lagged: one pass, losses normalised by the range of the step before; an approximation
    of global, whose error is logged."""


@dataclass(frozen=True, kw_only=True)
class CompatibilitySpec:
    """Defects of the released code, each off unless named: to measure what they did to published numbers."""

    first_node_weights: Count | None = None
    """Samples of one node, e.g. 16 for 8 GPUs x 2; every node's samples then get the weights of node 0's (the
    released Llama code indexes the gathered weights by the local rank). Works on any number of ranks."""
    bf16_losses: bool = False
    """Form token losses and their means in bfloat16 from bfloat16 logits (released Llama code)."""


@dataclass(frozen=True, kw_only=True)
class ParallelSpec:
    """How ranks share the work: decides speed and memory, not what is computed. A resume may change it."""

    sharding: Literal["none", "full", "hybrid"] = "none"
    """none: every rank holds the model (DDP). full: parameters, gradients and moments are split over all
    ranks (FSDP2). hybrid: split within groups of `shard_ranks`, copied between them."""
    shard_ranks: Count | None = None
    """hybrid: ranks that share one copy of the model; null is the ranks of a node."""
    recompute: Literal["none", "blocks"] = "none"
    """blocks: keep only each block's input for the backward pass (activation checkpointing)."""
    kept_graphs: Count = 1
    """Micro-batches of a step whose graph is kept until the weights are known, with scope global: each spares
    a second forward pass and costs its activations once more."""
    compile: bool = False
    """Compile each block with torch.compile: a minute at the start, then 10% or more faster on a GPU."""
    head: Literal["late", "chunked", "linear_cross_entropy", "liger"] = "late"
    """How per-sample losses come from hidden states. late: three matrix products and one buffer of rows x
    vocabulary. The others recompute logits in the backward pass, for memory: chunked is plain torch."""
    start_timeout_s: Count = 300
    """Seconds to wait for all ranks at the start."""
    step_timeout_s: Count = 120
    """Seconds to wait for another rank within a step before it counts as lost."""
    check_replicas_every_steps: Count = 1000
    """Compare the parameters of ranks that hold the same ones this often."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """Log-perplexity per domain on a fixed set of held-out windows."""

    every_steps: Count = 1000
    """An evaluation this often, and at the end."""
    samples: Count = 20000
    """At most this many windows, spread evenly over the domains; the same ones for every run on a store."""
    batch: Count = 32
    """Samples of one forward pass."""


@dataclass(frozen=True, kw_only=True)
class PaperSpec:
    """Which published number a run stands beside."""

    table: str | None = None
    """Table id of reproduce/paper/numbers, e.g. table1."""
    model: str | None = None
    """Row of that table, e.g. GPT2-mini."""
    scale: Literal["paper", "reduced"] = "reduced"
    """paper: the paper's model, data and length. reduced: only the sign of a difference is compared."""


@dataclass(frozen=True, kw_only=True)
class DomainsSpec:
    """How domain weights are learned while the model, then called the proxy, trains.

    DoReMi (Xie et al. 2023) or DoGE (Fan et al. 2024); the algorithm decides what `data.domain_weights` is.
    """

    algorithm: Literal["doremi", "doge"]
    """doremi: raises the weight of domains on which the proxy is worse than a reference model; the proxy
    draws all domains alike, data.domain_weights is what the reference model is trained with. doge: raises the
    weight of domains whose gradient points along the target's; data.domain_weights is what the proxy draws
    by."""
    eta: Scale = 1.0
    """doremi: step size of the exponentiated update, per nat a token of excess loss (Xie et al. 2023: 1)."""
    smoothing: Share = 1e-3
    """c: share of uniform weights mixed in after every update, so that no weight falls below c / domains
    (DoReMi: 1e-3; DoGE's released code: 0)."""
    mu: Scale = 0.01
    """doge: coefficient of the Bregman divergence from the weights before; larger moves them less (Fan et al.
    2024; 0.01 in the runs whose weights were published)."""
    target: str | None = None
    """doge: domain whose loss is to fall; it is never trained on and ends with weight 0. null: the mean of
    all domains (the universal target)."""
    scores: Literal["paper", "released"] = "released"
    """doge: what is divided by mu. paper: learning rate x <g_j, G>. released: that over the mean norm of the
    domains' gradients, clamped to [0, 5 x learning rate], as in the code behind the published weights."""
    clip_norm: Positive = 5.0
    """doge: norm to which each domain's gradient is clipped, before scores and step (released code)."""
    gradients_on: Literal["device", "host"] = "device"
    """doge: where the domains' gradients are kept between their backward passes. host: spares domains x 4
    bytes a parameter of GPU memory, at the price of copies."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run, complete."""

    name: str
    """Name of the recipe: its file's stem."""
    seed: SeedNumber = 42
    """Fixes initial weights, data order, domain draws and dropout."""
    model: ModelSpec
    data: DataSpec = field(default_factory=DataSpec)
    train: TrainSpec
    optimizer: OptimizerSpec
    reweighting: ReweightingSpec = field(default_factory=ReweightingSpec)
    compatibility: CompatibilitySpec = field(default_factory=CompatibilitySpec)
    parallel: ParallelSpec = field(default_factory=ParallelSpec)
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    paper: PaperSpec = field(default_factory=PaperSpec)
    domains: DomainsSpec | None = None
    """How domain weights are learned while this recipe's model, the proxy, trains; null: they are given."""

    @property
    def weighs_twice(self) -> bool:
        """Whether micro-batches are scored before they are trained on."""
        return self.reweighting.scope == "global" and self.reweighting.strategy != "uniform"

    def micro_batches(self, world: int = 1) -> int:
        """Forward passes of one optimizer step on one of `world` ranks; the same on each."""
        share = -(-self.train.global_batch // world)
        return -(-share // (self.train.micro_batch or share))
