"""DoReMi's step: excess, update and gradient against numbers worked out by hand and against autograd."""

import math

import pytest
import torch
from device_watch import DeviceWatch
from domain_worlds import MESH, Unigram, plan, start, work
from torch import Tensor

from reproduce.domains.doremi import DoReMi, ExcessModel, clipped_excess
from reproduce.recipe.schema import DomainsSpec


def doremi(
    proxy: Unigram, reference: Unigram, domains: tuple[str, ...] = ("a", "b"), **spec: float
) -> DoReMi:
    return DoReMi(start(DomainsSpec(algorithm="doremi", **spec), domains), proxy, reference)  # type: ignore[arg-type]


def take(rule: DoReMi, tokens: Tensor, domains: list[int], micro_batch: int | None = None) -> Tensor:
    """One step; the weights of the samples."""
    todo = work(rule.module(), tokens, micro_batch)
    return rule.passes(1, plan(domains), 0.1)(todo).weights_M


def test_excess_is_clipped_token_by_token_before_the_mean() -> None:
    ours, theirs = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[1.0, 4.0, 2.5]])
    # Differences 2, -3, -0.5: clipped (2 + 0 + 0)/3. Clipping the mean (-0.5) would give 0.
    assert clipped_excess(ours, theirs).tolist() == pytest.approx([2 / 3])


def test_a_step_with_two_domains_by_hand() -> None:
    # Proxy: every token has probability 1/2, loss ln 2. Reference: token 0 has 3/4 (loss ln 4/3), token 1 has
    # 1/4 (loss ln 4). Excess: token 0: ln 2 - ln 4/3 = ln 3/2; token 1: ln 2 - ln 4 < 0, clipped to 0.
    rule = doremi(Unigram([0.0, 0.0]), Unigram([math.log(3), 0.0]), eta=2.0, smoothing=0.1)
    # Domain a: two samples of tokens 0 0 and 0 1 after the first: excess ln(3/2) x (2 + 1)/4 = 3/4 ln(3/2).
    # Domain b: one sample of 1 1: 0.
    tokens = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 1]])
    weights = take(rule, tokens, [0, 1, 0])
    score = 0.75 * math.log(1.5)
    assert rule.scores_K.tolist() == pytest.approx([score, 0.0], abs=1e-7)
    # alpha' ~ (1/2 e^(2 x score), 1/2); e^(1.5 ln 1.5) = 1.5^1.5 = 1.837117.
    first = 1.5**1.5 / (1.5**1.5 + 1)
    alpha = [0.9 * first + 0.05, 0.9 * (1 - first) + 0.05]
    assert rule.alpha_K.tolist() == pytest.approx(alpha, abs=1e-7)
    assert alpha[0] == pytest.approx(0.632777, abs=1e-6)
    assert weights.tolist() == pytest.approx([alpha[0] / 2, alpha[1], alpha[0] / 2], abs=1e-7)


@pytest.mark.parametrize("micro_batch", [None, 1, 2])
def test_theta_steps_on_the_weighted_unclipped_loss(micro_batch: int | None) -> None:
    torch.manual_seed(0)
    proxy, reference = Unigram([0.3, -0.2, 0.1, 0.5]), Unigram([0.0, 1.0, -1.0, 0.2])
    tokens, domains = torch.randint(0, 4, (6, 9)), [0, 2, 1, 0, 0, 1]
    rule = doremi(proxy, reference, ("a", "b", "c"))
    take(rule, tokens, domains, micro_batch)
    plain = Unigram([0.3, -0.2, 0.1, 0.5])
    losses = plain(tokens)
    by_domain = [losses[[i for i, d in enumerate(domains) if d == k]].mean() for k in range(3)]
    sum(float(a) * loss for a, loss in zip(rule.alpha_K, by_domain, strict=True)).backward()  # type: ignore[union-attr]
    assert proxy.logits.grad is not None
    assert proxy.logits.grad.tolist() == pytest.approx(plain.logits.grad.tolist(), abs=1e-7)  # type: ignore[union-attr]
    assert reference.logits.grad is None


def test_a_proxy_equal_to_the_reference_leaves_the_weights_alone() -> None:
    logits = [0.4, -1.0, 0.9]
    rule = doremi(Unigram(logits), Unigram(logits), eta=1e3, smoothing=0.0)
    rule.alpha_K = torch.tensor([0.2, 0.8], dtype=torch.float64)
    torch.manual_seed(1)
    take(rule, torch.randint(0, 3, (8, 16)), [0, 1] * 4)
    assert rule.scores_K.tolist() == [0.0, 0.0]
    assert rule.alpha_K.tolist() == pytest.approx([0.2, 0.8], abs=1e-15)


def test_domains_of_the_same_text_get_the_same_weight() -> None:
    torch.manual_seed(2)
    text = torch.randint(0, 5, (4, 12))
    proxy = Unigram([0.0] * 5)
    rule = doremi(proxy, Unigram([1.0, 0.0, 0.0, 0.5, 0.0]), ("a", "b", "c"))
    other = torch.zeros(2, 12, dtype=torch.int64)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        take(rule, torch.cat([text, other, text]), [0] * 4 + [1] * 2 + [2] * 4)
        optimizer.step()
        assert float(rule.alpha_K[0]) == pytest.approx(float(rule.alpha_K[2]), abs=1e-14)
    assert abs(float(rule.alpha_K[1]) - float(rule.alpha_K[0])) > 0.01  # the third is told apart


def test_a_domain_nobody_can_learn_does_not_run_away_and_would_without_a_reference() -> None:
    """`noise` draws 8 tokens evenly, `text` is one token: a model of frequencies learns only `text`."""

    def final(reference: Unigram) -> float:
        torch.manual_seed(3)
        proxy = Unigram([0.0] * 8)
        rule = doremi(proxy, reference, ("text", "noise"), smoothing=1e-3)
        optimizer = torch.optim.SGD(proxy.parameters(), lr=0.5)
        for _ in range(150):
            noise = torch.randint(0, 8, (16, 17))
            optimizer.zero_grad()
            take(rule, torch.cat([torch.zeros(16, 17, dtype=torch.int64), noise]), [0] * 16 + [1] * 16)
            optimizer.step()
        return float(rule.total_K[1] / 150)

    class Nothing(Unigram):
        """Loses nothing anywhere: the excess is then the raw loss."""

        def token_losses(self, tokens_BT: Tensor) -> Tensor:
            return torch.zeros(len(tokens_BT), tokens_BT.shape[1] - 1)

    # The reference has learned the even mixture of both: 0 with 9/16, each other token 1/16.
    fitted = Unigram([math.log(9 / 16), *[math.log(1 / 16)] * 7])
    assert final(fitted) < 0.6
    assert final(Nothing([0.0] * 8)) > 0.95


def test_a_missing_domain_keeps_its_last_score() -> None:
    rule = doremi(Unigram([0.0, 0.0]), Unigram([math.log(3), 0.0]), smoothing=0.0)
    take(rule, torch.tensor([[0, 0, 0], [0, 1, 0]]), [0, 1])
    first = rule.scores_K.tolist()
    assert first == pytest.approx([math.log(1.5), math.log(1.5) / 2])
    before = rule.alpha_K.tolist()
    weights = take(rule, torch.tensor([[0, 0, 1], [0, 1, 1]]), [0, 0])
    assert rule.scores_K.tolist() == pytest.approx([math.log(1.5) / 4, first[1]])
    # Both scores count: alpha_b / alpha_a grows by e^(ln(1.5)/2 - ln(1.5)/4).
    growth = 1.5**0.25
    assert rule.alpha_K[1] / rule.alpha_K[0] == pytest.approx(before[1] / before[0] * growth)
    assert weights.tolist() == pytest.approx([0.5, 0.5])  # theta trains on what is there
    assert rule.line(2)["missing_domains"] == ["b"]


def test_state_survives_a_checkpoint_and_the_mean_is_over_all_steps() -> None:
    torch.manual_seed(4)
    rules = [doremi(Unigram([0.0] * 3), Unigram([1.0, 0.0, -1.0])) for _ in range(2)]
    batches = [(torch.randint(0, 3, (4, 8)), [0, 1, 1, 0]) for _ in range(6)]
    seen = []
    for tokens, domains in batches:
        take(rules[0], tokens, domains)
        seen.append(rules[0].alpha_K)
    for tokens, domains in batches[:3]:
        take(rules[1], tokens, domains)
    again = doremi(Unigram([0.0] * 3), Unigram([1.0, 0.0, -1.0]))
    again.restore({name: value.clone() for name, value in rules[1].state().items()})
    for tokens, domains in batches[3:]:
        take(again, tokens, domains)
    assert {k: v.tolist() for k, v in again.state().items()} == {
        k: v.tolist() for k, v in rules[0].state().items()
    }
    line = again.line(6)
    mean = torch.stack(seen).mean(dim=0)
    assert list(line["average_alpha"].values()) == pytest.approx(mean.tolist(), abs=1e-15)
    assert line["alpha_entropy"] == pytest.approx(-sum(a * math.log(a) for a in seen[-1].tolist()))
    assert line["alpha_max"] == float(seen[-1].max())


def test_a_collapse_is_said_once_with_the_advice() -> None:
    said: list[str] = []
    spec = DomainsSpec(algorithm="doremi", eta=100.0)
    rule = DoReMi(start(spec, ("a", "b"), said), Unigram([0.0, 0.0]), Unigram([math.log(3), 0.0]))  # type: ignore[arg-type]
    for step in (1, 2):
        take(rule, torch.tensor([[0, 0, 0], [0, 1, 1]]), [0, 1])
        rule.line(step)
    assert len(said) == 1
    assert "domain a has 100% of the weight" in said[0]
    for advice in ("data.domain_weights=natural", "train.global_batch", "domains.eta to 0.1", "shuffle"):
        assert advice in said[0]


def test_a_step_waits_for_no_device() -> None:
    rule = doremi(Unigram([0.1, 0.2, 0.3]), Unigram([0.0, 0.5, 0.0]))
    todo = work(rule.module(), torch.randint(0, 3, (6, 8)), micro_batch=2)
    with DeviceWatch():
        rule.passes(1, plan([0, 1, 1, 0, 1, 0]), 0.1)(todo)


def test_the_reference_is_no_part_of_what_is_trained_or_saved() -> None:
    module = ExcessModel(Unigram([0.0]), Unigram([1.0]))  # type: ignore[arg-type]
    assert [name for name, _ in module.named_parameters()] == ["proxy.logits"]
    assert MESH.world == 1
