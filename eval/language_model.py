"""A model as lm-eval drives it, and what happened to the requests: how many, how many cut, over which ranks.

lm-eval cuts what is longer than the context from the left, and says so only in its log. Importing this module
imports lm_eval.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from eval.errors import EvaluationError

Answer = TypeVar("Answer")


class Ranks(Protocol):
    """The processes among which requests are shared out."""

    @property
    def rank(self) -> int:
        """Own place."""

    @property
    def world(self) -> int:
        """How many."""

    def exchange(self, text: str) -> list[str]:
        """Every rank's text, in rank order; all ranks call it."""


class Alone:
    """One process."""

    rank, world = 0, 1

    def exchange(self, text: str) -> list[str]:
        """Its own text."""
        return [text]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A request that was longer than the context."""

    task: str
    doc_id: int
    characters: int
    """Of the prompt, dropped from its start; the last one may be dropped in part."""


class Requests:
    """What a model was asked between two calls of `begin`, in order."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.number = 0
        self.cuts: list[Cut] = []
        self._digest = hashlib.sha256()

    def add(self, requests: Sequence[Instance]) -> None:
        """Take note of requests of all ranks."""
        self.number += len(requests)
        for request in requests:
            text = json.dumps(request.args, ensure_ascii=False, sort_keys=True)
            # surrogatepass: a data set may hold half a surrogate pair, which JSON can express.
            self._digest.update(text.encode("utf-8", "surrogatepass") + b"\n")

    @property
    def sha256(self) -> str:
        """Digest of every context and continuation, or settings of generation, in order."""
        return self._digest.hexdigest()


class ScoringModel(HFLM):  # type: ignore[misc]  # lm_eval is not typed
    """A causal Hugging Face model whose requests are counted and shared out over ranks.

    Every rank holds the whole model, is given all requests, computes its share, and gets all answers.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        batch_size: int,
        ranks: Ranks,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Wrap a network on its device.

        Args:
            network: a causal model of transformers; it is put into evaluation mode.
            tokenizer: its tokenizer; gets a padding token if it has none.
            batch_size: requests a forward pass.
            ranks: among whom requests are shared out.
            progress: told, after each forward pass, how many requests this rank has scored, of how many.
        """
        # float32: the best of several close log-likelihoods is not to be decided by rounding.
        super().__init__(
            pretrained=network, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32"
        )
        self._ranks, self._progress = ranks, progress
        self._done = 0
        self._own: list[Instance] = []
        self._own_cuts: list[Cut] = []
        self.requests = Requests()

    @property
    def ranks(self) -> int:
        """Among how many processes requests are shared out."""
        return self._ranks.world

    @property
    def device_name(self) -> str:
        """The GPU's model, or cpu."""
        device: torch.device = self.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def together(self, action: Callable[[], Answer]) -> Answer:
        """What an action returns; where it fails on one rank, it fails on all (there: EvaluationError)."""
        failure: Exception | None = None
        try:
            result = action()
        except Exception as error:  # raised below: first the other ranks, which wait, hear of it
            failure = error
        said = self._ranks.exchange(json.dumps(None if failure is None else _told(failure)))
        if failure is not None:
            raise failure
        for rank, failed in enumerate(map(json.loads, said)):
            if failed is not None:
                raise EvaluationError(f"rank {rank}: {failed[1]}", failed[0])
        return result

    def begin(self) -> None:
        """Forget the requests so far."""
        self.requests = Requests()

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding gives it) of each continuation in its context."""

        def answers(own: list[Instance]) -> list[tuple[float, bool]]:
            found: list[tuple[float, bool]] = super(ScoringModel, self).loglikelihood(own, disable_tqdm=True)
            return found

        shared = self._shared(requests, answers)
        wrong = sum(not math.isfinite(value) for value, _ in shared)
        if wrong:
            raise EvaluationError(
                f"{requests[0].task_name}: {wrong} of {len(shared)} log-likelihoods are not finite; the "
                "model's weights, or its precision, are broken: look at its training loss",
                6,
            )
        return [(value, bool(greedy)) for value, greedy in shared]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The continuation of each context by greedy decoding, up to a stop sequence."""

        def answers(own: list[Instance]) -> list[str]:
            for request in own:
                self._count_generation(request)
            found: list[str] = super(ScoringModel, self).generate_until(own, disable_tqdm=True)
            return found

        return self._shared(requests, answers)

    def _shared(
        self, requests: list[Instance], answers: Callable[[list[Instance]], list[Answer]]
    ) -> list[Answer]:
        self.requests.add(requests)
        shares = share(requests, self._ranks.world)
        own = shares[self._ranks.rank]
        self._own, self._own_cuts, self._done = [requests[index] for index in own], [], 0
        found: list[Answer] = []
        failure: Exception | None = None
        try:
            found = answers(self._own) if own else []
        except Exception as error:  # raised below: first the other ranks, which wait, hear of it
            failure = error
        cuts = [[cut.task, cut.doc_id, cut.characters] for cut in self._own_cuts]
        said = self._ranks.exchange(json.dumps([found, cuts, None if failure is None else _told(failure)]))
        if failure is not None:
            raise failure
        merged: list[Answer | None] = [None] * len(requests)
        for rank, (indices, text) in enumerate(zip(shares, said, strict=True)):
            theirs, their_cuts, failed = json.loads(text)
            if failed is not None:
                raise EvaluationError(f"rank {rank}: {failed[1]}", failed[0])
            for index, answer in zip(indices, theirs, strict=True):
                merged[index] = answer
            self.requests.cuts += [Cut(task=t, doc_id=d, characters=c) for t, d, c in their_cuts]
        return merged  # type: ignore[return-value]  # every index is in one share

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = True,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        for instance, (_, context, continuation) in zip(self._own, requests, strict=True):
            if len(continuation) > self.max_length:
                raise EvaluationError(
                    f"{instance.task_name}: item {instance.doc_id} has an answer of {len(continuation)} "
                    f"tokens and the model's context is {self.max_length}; it cannot be scored",
                    3,
                )
            # The last token is predicted, not read.
            self._count_cut(instance, context, len(context) + len(continuation) - 1 - self.max_length)
        scored: list[tuple[float, bool]] = super()._loglikelihood_tokens(
            requests, disable_tqdm=True, override_bs=override_bs
        )
        return scored

    def _count_generation(self, request: Instance) -> None:
        context, settings = request.args
        most = normalize_gen_kwargs(settings, self.max_gen_toks)["max_gen_toks"]
        room = self.max_length - most
        if room <= 0:
            raise EvaluationError(
                f"{request.task_name}: generates up to {most} tokens and the model's context is "
                f"{self.max_length}; it cannot be scored, leave the task out with --task",
                2,
            )
        tokens = self.tok_encode(context)
        self._count_cut(request, tokens, len(tokens) - room)

    def _count_cut(self, instance: Instance, context: Sequence[int], dropped: int) -> None:
        if dropped <= 0:
            return
        text = self.tokenizer.decode(
            list(context[:dropped]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert instance.task_name is not None
        assert instance.doc_id is not None
        self._own_cuts.append(Cut(task=instance.task_name, doc_id=instance.doc_id, characters=len(text)))

    def _model_call(
        self, inps: torch.Tensor, attn_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        logits: torch.Tensor = super()._model_call(inps, attn_mask=attn_mask, labels=labels)
        self._advance(len(inps))
        return logits

    def _model_generate(self, context: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens: torch.Tensor = super()._model_generate(context, *args, **kwargs)
        self._advance(len(context))
        return tokens

    def _advance(self, requests: int) -> None:
        # A pass may answer several requests: those about answers of one token in one context.
        self._done += requests
        if self._progress is not None:
            self._progress(self._done, len(self._own))


def _told(failure: Exception) -> tuple[int, str]:
    code = getattr(failure, "exit_code", 7 if isinstance(failure, (OSError, MemoryError)) else 1)
    return int(code), " ".join(f"{type(failure).__name__}: {failure}".split())[:300]


def share(requests: Sequence[Instance], world: int) -> list[list[int]]:
    """Indices of the requests of each rank, rising; those about one item stay together.

    Together, because the model is asked only once about answers of one token in the same context. Long items
    are dealt out first, so that ranks end at about the same time.
    """
    items: dict[tuple[str | None, int | None], list[int]] = {}
    for index, request in enumerate(requests):
        items.setdefault((request.task_name, request.doc_id), []).append(index)
    length = {key: sum(len(requests[i].args[0]) for i in indices) for key, indices in items.items()}
    dealt: list[list[int]] = [[] for _ in range(world)]
    for place, (_, indices) in enumerate(sorted(items.items(), key=lambda item: -length[item[0]])):
        dealt[place % world] += indices
    return [sorted(indices) for indices in dealt]
