"""Losses, metrics and calibration against loops, scikit-learn and enumeration."""

from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from senet import calibration, losses, metrics
from senet.data.catalogue import chance_topk


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 7, generator=generator) * 2
    labels = torch.zeros(40, 7, dtype=torch.bool)
    for row in range(40):
        labels[row, torch.randperm(7, generator=generator)[: 1 + row % 3]] = True
    return logits, labels


def test_margin_is_the_loop(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    total = 0.0
    for scores, truth in zip(logits.tolist(), labels.tolist(), strict=True):
        for i, is_true in enumerate(truth):
            for j, other in enumerate(truth):
                if is_true and not other:
                    total += max(0.0, 1 - (scores[i] - scores[j])) / 7
    assert losses.margin(logits, labels).item() == pytest.approx(total / 40, rel=1e-5)


@pytest.mark.parametrize(("classes", "labels"), [(7, 1), (120, 1), (120, 3)])
def test_margin_of_pairs_is_margin_and_its_gradient(classes: int, labels: int) -> None:
    torch.manual_seed(0)
    # Steps of one half: many pairs lie exactly on the margin.
    logits = (torch.randn(40, classes) * 4).round() / 2
    chosen = torch.rand(40, classes).argsort(dim=1)[:, :labels]
    targets = torch.zeros(40, classes, dtype=torch.bool).scatter(1, chosen, True)
    targets[0] = False
    results = []
    for function in (losses.margin, losses.margin_of_pairs):
        leaf = logits.clone().requires_grad_()
        value = function(leaf, targets, labels)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-7)


def test_margin_ignores_a_shift_of_an_image(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    shifted = logits + torch.arange(40.0)[:, None]
    assert losses.margin(shifted, labels).item() == pytest.approx(losses.margin(logits, labels).item(), rel=1e-5)
    assert losses.distillation(shifted, logits).item() == pytest.approx(0, abs=1e-9)
    assert losses.distillation(2 * logits, logits).item() > 1


def test_soft_margin_is_cross_entropy(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    truth = labels.numpy()
    expected = -np.where(truth, np.log(p), np.log(1 - p)).mean()
    assert losses.soft_margin(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_margin_on_sigmoids_is_the_loop_on_sigmoids(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    total = 0.0
    for scores, truth in zip((1 / (1 + np.exp(-logits.double().numpy()))).tolist(), labels.tolist(), strict=True):
        true = [score for score, is_true in zip(scores, truth, strict=True) if is_true]
        other = [score for score, is_true in zip(scores, truth, strict=True) if not is_true]
        total += sum(max(0.0, 1 - (a - b)) for a in true for b in other) / 7
    assert losses.margin_sigmoid(logits, labels).item() == pytest.approx(total / 40, rel=1e-5)


@pytest.mark.parametrize("numbers", [(0.0, 4.0, 0.05), (1.0, 4.0, 0.05), (0.0, 2.0, 0.2), (0.0, 0.0, 0.0)])
def test_asymmetric_is_its_formula(
    batch: tuple[torch.Tensor, torch.Tensor], numbers: tuple[float, float, float]
) -> None:
    logits, labels = batch
    positive, negative, clip = numbers
    p, truth = 1 / (1 + np.exp(-logits.double().numpy())), labels.numpy()
    shifted = np.maximum(p - clip, 0)
    expected = -np.where(truth, (1 - p) ** positive * np.log(p), shifted**negative * np.log(1 - shifted)).mean()
    assert losses.asymmetric(logits, labels, positive, negative, clip).item() == pytest.approx(expected, rel=1e-4)
    if numbers == (0.0, 4.0, 0.05):
        assert losses.asymmetric(logits, labels).item() == pytest.approx(expected, rel=1e-4)
    if not any(numbers):
        assert losses.soft_margin(logits, labels).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_focal_is_torchvisions(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, labels = batch
    expected = sigmoid_focal_loss(logits, labels.float(), reduction="mean")
    assert losses.focal(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


def test_softmax_is_cross_entropy_and_shares_the_probability(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    log_p = logits.double().numpy() - np.log(np.exp(logits.double().numpy()).sum(axis=1, keepdims=True))
    truth = labels.numpy()
    expected = -np.mean([row[mask].mean() for row, mask in zip(log_p, truth, strict=True)])
    assert losses.softmax(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [*losses.LOSSES, "softmax"])
def test_losses_of_extreme_logits_are_finite(name: str) -> None:
    loss = losses.LOSSES.get(name, losses.softmax)
    logits = torch.tensor([[100.0, -100.0, 0.0], [-100.0, 100.0, 0.0]], requires_grad=True)
    value = loss(logits, torch.tensor([[True, False, False], [True, False, True]]))
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_of_equal_scores_the_first_labels_count_as_higher() -> None:
    labels = torch.eye(24, dtype=torch.bool)
    hits = metrics.topk_hits(torch.zeros(24, 24), labels, 3)
    assert hits.tolist() == [True] * 3 + [False] * 21
    assert metrics.top1_hits(torch.zeros(24, 24), labels).tolist() == [True] + [False] * 23


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_topk_wants_all_labels(batch: tuple[torch.Tensor, torch.Tensor], k: int) -> None:
    logits, labels = batch
    expected = []
    for scores, truth in zip(logits.tolist(), labels.tolist(), strict=True):
        best = set(sorted(range(7), key=lambda i: -scores[i])[:k])
        expected.append({i for i, is_true in enumerate(truth) if is_true} <= best)
    assert metrics.topk_hits(logits, labels, k).tolist() == expected
    assert 0 < sum(expected) < 40 or k == 1
    single = [truth[scores.index(max(scores))] for scores, truth in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert metrics.top1_hits(logits, labels).tolist() == single


def test_mean_average_precision_is_sklearns(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, labels = batch
    labels[:, 6] = False
    expected = np.mean([average_precision_score(labels[:, c].numpy(), logits[:, c].numpy()) for c in range(6)])
    assert metrics.mean_average_precision(logits, labels).item() == pytest.approx(expected, rel=1e-9)


def test_exact_match_and_calibration_error() -> None:
    probabilities = torch.tensor([[0.95, 0.05], [0.95, 0.65], [0.15, 0.05]])
    labels = torch.tensor([[True, False], [True, False], [True, False]])
    assert metrics.exact_match(probabilities, labels).item() == pytest.approx(1 / 3)
    # Of the likeliest labels two at 0.95 are true, and the one at 0.15 is.
    assert metrics.top1_calibration_error(probabilities, labels).item() == pytest.approx((0.1 + 0.85) / 3)
    # Bins: 0.95 twice, both true; 0.65 once, false; 0.15 once, true; 0.05 twice, both false.
    assert metrics.calibration_error(probabilities, labels).item() == pytest.approx((0.1 + 0.65 + 0.85 + 0.1) / 6)


@pytest.mark.parametrize(("classes", "labels", "k"), [(7, 1, 3), (7, 2, 3), (6, 2, 2), (5, 3, 2)])
def test_chance_is_the_share_of_choices(classes: int, labels: int, k: int) -> None:
    choices = list(combinations(range(classes), k))
    hits = sum(set(range(labels)) <= set(choice) for choice in choices)
    assert chance_topk(classes, labels, k) == pytest.approx(hits / len(choices))


def test_calibration_is_logistic_regression_on_the_log_odds_of_a_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4000, 5, generator=generator)
    powers = np.exp(logits.double().numpy())
    odds = np.log(powers / (powers.sum(axis=1, keepdims=True) - powers))
    truth = torch.rand(4000, 5, generator=generator) < torch.sigmoid(torch.from_numpy(0.7 * odds - 1.3))
    fitted = calibration.fit(logits, truth)
    model = LogisticRegression(C=np.inf).fit(odds.reshape(-1, 1), truth.flatten().numpy())
    assert fitted.scale.item() == pytest.approx(model.coef_[0, 0], rel=1e-2)
    assert fitted.bias.item() == pytest.approx(model.intercept_[0], rel=1e-2)
    expected = model.predict_proba(odds.reshape(-1, 1))[:, 1]
    np.testing.assert_allclose(fitted.probabilities(logits).flatten().numpy(), expected, atol=2e-3)
    assert metrics.calibration_error(fitted.probabilities(logits), truth).item() < 0.02
    assert metrics.top1_calibration_error(fitted.probabilities(logits), truth).item() < 0.03


def test_calibration_ignores_a_shift_of_an_image_as_the_margin_loss_does(
    batch: tuple[torch.Tensor, torch.Tensor],
) -> None:
    logits, labels = batch
    fitted, shifted = calibration.fit(logits, labels), logits + torch.arange(40.0)[:, None]
    torch.testing.assert_close(fitted.probabilities(shifted), fitted.probabilities(logits), rtol=1e-4, atol=1e-6)


def test_images_of_which_one_label_is_sure_give_finite_probabilities() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]])
    fitted = calibration.fit(logits, torch.tensor([[True, False, False], [False, True, False]]))
    probabilities = fitted.probabilities(logits)
    assert probabilities.isfinite().all()
    assert probabilities[0].tolist() == sorted(probabilities[0].tolist(), reverse=True)


def test_calibration_of_separable_scores_stays_finite() -> None:
    labels = torch.eye(6, dtype=torch.bool).repeat(10, 1)
    fitted = calibration.fit(labels.float() * 8, labels)
    probabilities = fitted.probabilities(labels.float() * 8)
    assert probabilities.isfinite().all()
    assert (probabilities[labels] > 0.9).all()
    assert (probabilities[~labels] < 0.1).all()
