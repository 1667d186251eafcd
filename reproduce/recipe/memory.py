"""Peak memory of one rank, derived term by term from a recipe and a layout. No torch.

Letters: P parameters, L blocks, D width, F feed-forward width, H heads, V vocabulary, T tokens of a sequence,
n = samples of one pass x T rows. c is the bytes of a matrix product's number, s those of the residual stream:

                                                       c   s
    fp32                                               4   4
    bf16 by autocast (the model whole on every rank)   2   4   float32 weights, a bf16 copy of each matrix
    bf16 by FSDP2's policy (sharded)                   2   2   whole blocks are gathered in bf16

A block keeps for the backward pass, bytes a row (what autograd saves in transformers 5's GPT-2 and Llama; no
score matrix, since sdpa keeps its output and one logsumexp a head):

    GPT-2   2sD      inputs of both LayerNorms, and their outputs as operands of the products (2cD)
            4cD      queries, keys, values; attention's output
            2cF      GELU in one operation (model.py sees to that): its input and its output
            2D       dropout masks, where there is dropout
    Llama   fp32     24D  both RMSNorms: input, normalised input, scaled output
            autocast 26D  float32 input and normalised input of both; a bf16 copy for each of five products
            policy   16D  float32 copy of the input, normalised input and scaled output in bf16, twice
            4cD      rotated queries and keys, values; attention's output
            4cF      gate, silu(gate), up, their product

Dropout on a CPU takes attention out of the fused kernel: scores, mask and masked scores, 3cHT a row, and
masks of 2cD instead of 2D.

What the peak is made of is written at the moments in `peak_memory`, of which the largest counts. With
recompute=blocks a block keeps sD, and one block at a time has the whole of the above. With kept_graphs all of
it, and the head's buffer, is there once a graph.

Measured: allocations of whole training steps on a CPU, real ones in float32, and shapes alone (fake tensors)
for the paper's models in all three rows of the first table; tests hold the estimate to 15% of them. Not
measured: CUDA. Its context, cuBLAS workspace, NCCL buffers and the allocator's fragmentation come on top, and
the buffers of FSDP2 and DDP are from reading their code. With parallel.compile less is kept than said here.
"""

from dataclasses import dataclass
from typing import Literal

from reproduce.recipe.schema import ModelSpec, ParallelSpec, Recipe

Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]

WEIGHT_BYTES, GRADIENT_BYTES, MOMENT_BYTES = 4, 4, 8
"""A parameter in float32; AdamW has two moments."""

ADAM_BYTES_A_PARAMETER = WEIGHT_BYTES + GRADIENT_BYTES + MOMENT_BYTES

CHUNK_ROWS = {"cpu": 512, "cuda": 4096}
"""Rows of logits at a time in the chunked head; 4096 on every device where no gradient is asked for."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How many ranks, and how many of them share a node."""

    ranks: int = 1
    ranks_a_node: int = 1

    @property
    def nodes(self) -> int:
        """Nodes, the last of which may be partly used."""
        return -(-self.ranks // self.ranks_a_node)

    def shards(self, parallel: ParallelSpec) -> int:
        """Ranks that one copy of the parameters is split over."""
        if parallel.sharding == "none":
            return 1
        return self.ranks if parallel.sharding == "full" else (parallel.shard_ranks or self.ranks_a_node)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one rank, at one moment of a step."""

    moment: str
    """forward: its end; head, last norm, blocks (the last one): their backward passes; end: the first block's
    and the embeddings'; evaluation."""
    weights: int
    """Float32 parameters, or the own shard of them."""
    gradients: int
    """Gradients that exist at this moment."""
    moments: int
    """AdamW's running means."""
    copies: int
    """Parameters in bf16 for matrix products, or gathered from the other ranks."""
    activations: int
    """What blocks keep for their backward pass."""
    logits: int
    """The head's buffers over the vocabulary."""
    working: int
    """Temporaries of the operation in progress."""

    @property
    def total(self) -> int:
        """Bytes in all."""
        kept = self.weights + self.gradients + self.moments + self.copies
        return kept + self.activations + self.logits + self.working


def parameter_count(model: ModelSpec) -> int:
    """Trainable parameters, tied matrices once; equals the built network's."""
    head = 0 if model.tie_embeddings else model.vocab * model.width
    embeddings = model.vocab * model.width
    if model.family == "gpt2":
        return (
            embeddings + head + model.context * model.width + model.layers * _block(model) + 2 * model.width
        )
    return embeddings + head + model.layers * _block(model) + model.width


def _block(model: ModelSpec) -> int:
    """Parameters of one block."""
    width, inner = model.width, model.inner
    if model.family == "gpt2":
        return 4 * width * width + 4 * width + 2 * width * inner + inner + width + 4 * width
    return 4 * width * width + 3 * width * inner + 2 * width


def peak_memory(recipe: Recipe, precision: Precision, layout: Layout, device: Device) -> Memory:
    """The moment of a step, or of an evaluation, at which a rank holds most.

    Args:
        recipe: resolved.
        precision: as the device resolves it.
        layout: ranks.
        device: what the rank computes on.
    """
    sizes = _Sizes(recipe, precision, layout, device)
    moments = (
        sizes.forward(),
        sizes.head(),
        sizes.last_norm(),
        sizes.blocks(),
        sizes.end(),
        sizes.evaluation(),
    )
    return max(moments, key=lambda moment: moment.total)


class _Sizes:
    """The terms of one recipe on one rank, in bytes."""

    def __init__(self, recipe: Recipe, precision: Precision, layout: Layout, device: Device) -> None:
        self._recipe, self._model, self._device = recipe, recipe.model, device
        self._shards = layout.shards(recipe.parallel) if layout.ranks > 1 else 1
        self._half = precision == "bf16"
        self._policy = self._half and self._shards > 1
        self._c = 2 if self._half else 4
        self._s = 2 if self._policy else 4
        share = -(-recipe.train.global_batch // layout.ranks)
        self._rows = min(recipe.train.micro_batch or share, share) * recipe.train.sequence
        self._parameters = parameter_count(self._model)
        # DDP's buckets live from the first step on, and gradients are views of them.
        kept = layout.ranks > 1 and self._shards == 1
        self._earlier = self._own(GRADIENT_BYTES) if kept or recipe.micro_batches(layout.ranks) > 1 else 0
        kept_graphs = recipe.parallel.kept_graphs if recipe.weighs_twice else 1
        self._graphs = min(kept_graphs, recipe.micro_batches(layout.ranks))
        self._matrix = self._model.vocab * self._model.width

    def forward(self) -> Memory:
        """Everything kept, the head's buffer with some rows of it in float32, every copy of autocast's."""
        late = self._recipe.parallel.head == "late" and self._half and self._device == "cpu"
        working = self._rows * self._model.width * self._c
        working += late * 4 * min(self._rows, CHUNK_ROWS["cpu"]) * self._model.vocab
        copies = self._copies(self._model.layers)
        return self._moment("forward", self._earlier, self._kept(), self._logits(), working, copies)

    def head(self) -> Memory:
        """Everything kept, the head's buffer, and the operands of its two backward products."""
        # The rows, their gradient, the scaled rows.
        operands = self._rows * self._model.width * (8 if self._half else 12)
        late = self._recipe.parallel.head == "late"
        # In chunks the matrix' gradient adds up in float32, half precision products beside it.
        gradient = (self._c if late or not self._half else 4 + self._c) * self._matrix
        return self._moment(
            "head", self._earlier, self._kept(), self._logits(), operands + gradient, self._copies()
        )

    def last_norm(self) -> Memory:
        """The last normalisation's backward pass, in float32: five numbers an element in Llama's."""
        working = self._rows * self._model.width * (20 if self._model.family == "llama" else 2 * self._s)
        gradients = self._earlier + self._head_gradient()
        return self._moment("last norm", gradients, self._kept(), 0, working, self._copies())

    def blocks(self) -> Memory:
        """The last block's backward pass: two gradients of feed-forward width on top of what is freed."""
        kept = self._kept() - self._rows * self._ends()
        if self._recomputes:
            kept += self._rows * (self._whole_block() - self._s * self._model.width)
        working = self._rows * (2 * self._c * self._model.inner + 2 * self._s * self._model.width)
        gradients = self._earlier + self._head_gradient()
        return self._moment("blocks", gradients, kept, 0, working, self._copies())

    def end(self) -> Memory:
        """The first block's backward pass and the embeddings' dense gradient."""
        kept = self._rows * self._whole_block()
        embedding = 4 * self._matrix * (2 if self._model.tie_embeddings else 1)
        if self._shards > 1:
            # The root's gradients stay whole until its backward pass ends, and are then reduced in float32.
            embedding = (self._c + 4) * self._root()
        return self._moment("end", self._own(GRADIENT_BYTES), kept, 0, embedding, self._copies(1))

    def evaluation(self) -> Memory:
        """A forward pass without gradients, 4096 rows of logits at a time."""
        rows = self._recipe.evaluation.batch * self._recipe.train.sequence
        working = rows * (3 * self._c * self._model.inner + 3 * self._s * self._model.width)
        logits = min(rows, 4096) * self._model.vocab * (8 + self._c)
        return self._moment("evaluation", self._own(GRADIENT_BYTES), 0, logits, working, self._copies())

    def _moment(
        self, name: str, gradients: int, activations: int, logits: int, working: int, copies: int
    ) -> Memory:
        return Memory(
            moment=name,
            weights=self._own(WEIGHT_BYTES),
            gradients=gradients,
            moments=self._own(MOMENT_BYTES),
            copies=copies,
            activations=activations,
            logits=logits,
            working=working,
        )

    def _own(self, bytes_each: int) -> int:
        return bytes_each * -(-self._parameters // self._shards)

    def _copies(self, blocks: int | None = None) -> int:
        """Copies of parameters: gathered, or autocast's of this many blocks and the head.

        Autocast keeps those of a forward pass; recomputed blocks make and drop their own.
        """
        if self._shards > 1:
            # What belongs to no block stays whole; a block in use, one fetched ahead, one buffer.
            return self._c * (self._root() + 3 * _block(self._model))
        if not self._half:
            return 0
        blocks = blocks or (1 if self._recomputes else self._model.layers)
        # On a GPU the head pads a vocabulary that is no multiple of 64 in a copy of its own.
        padded = self._device == "cuda" and self._model.vocab % 64 > 0
        return 2 * (blocks * _block(self._model) + (1 + padded) * self._matrix)

    def _logits(self) -> int:
        """The head's buffers: one, none but a chunk's, or what autograd keeps of a bf16 cross entropy."""
        vocab = self._model.vocab
        if self._recipe.compatibility.bf16_losses:
            return 3 * 2 * self._rows * vocab
        if self._recipe.parallel.head == "late":
            # On a GPU in whole 64 columns, and where these are not there, on a padded copy of the matrix.
            padding = -vocab % 64 if self._device == "cuda" else 0
            copy = self._c * (vocab + padding) * self._model.width if padding else 0
            return self._graphs * (self._c * self._rows * (vocab + padding) + copy)
        # A chunk in float32 while the one before, or the products' half precision numbers, are still there.
        return 8 * min(self._rows, CHUNK_ROWS[self._device]) * vocab

    @property
    def _recomputes(self) -> bool:
        return self._recipe.parallel.recompute == "blocks"

    def _root(self) -> int:
        return self._parameters - self._model.layers * _block(self._model)

    def _kept(self) -> int:
        """Activations of all blocks, embeddings and the last normalisation, of every graph kept."""
        a_block = self._s * self._model.width if self._recomputes else self._whole_block()
        return self._graphs * self._rows * (self._model.layers * a_block + self._ends())

    def _ends(self) -> int:
        """Bytes a row of the last normalisation, and of the embeddings' dropout."""
        model, c = self._model, self._c
        norm = self._s * model.width + (4 + c) * model.width * (model.family == "llama")
        return norm + (1 if self._device == "cuda" else c) * model.width * (model.dropout > 0)

    def _head_gradient(self) -> int:
        """The head's matrix' gradient, where it is not yet part of gradients counted already."""
        if self._shards > 1:
            return self._c * self._matrix  # whole until the root's backward pass ends
        return 0 if self._earlier else 4 * self._matrix

    def _whole_block(self) -> int:
        """Bytes a row that a block keeps; the table in the module's docstring."""
        model, c, s = self._model, self._c, self._s
        width, inner = model.width, model.inner
        statistics = 4 * model.heads + 16
        if model.family == "llama":
            norms = 16 if self._policy else 26 if self._half else 24
            return norms * width + 4 * c * width + 4 * c * inner + statistics
        gelu = 2 * c  # its input and its output
        return 2 * (s + c) * width + 4 * c * width + gelu * inner + statistics + self._dropped()

    def _dropped(self) -> int:
        """Bytes a row that dropout adds to a block."""
        model = self._model
        if not model.dropout:
            return 0
        if self._device == "cuda":
            return 2 * model.width
        return 2 * self._c * model.width + 3 * self._c * model.heads * self._recipe.train.sequence
