"""Scores from the layers of a network against SciPy, NumPy and the accumulator's own reference."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncertainty.uncertainty_reference import naive_dice, naive_masks

from nnunetv2_le.errors import InputError
from nnunetv2_le.uncertainty.layer_scores import (
    score_classification,
    score_regression,
    score_segmentation,
)


def _predictions(seed, shape, layers=4, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(shape, generator=generator)
    names = [*(f"layer{number}" for number in range(1, layers)), "output"]
    return {name: scale * (common + torch.randn(shape, generator=generator)) for name in names}


def _array(predictions):
    return torch.stack(list(predictions.values())).numpy().astype(np.float64)


@given(seed=st.integers(0, 10**6), layers=st.integers(2, 6), classes=st.integers(2, 5))
def test_classification_equals_scipy_and_counted_votes(seed, layers, classes):
    predictions = _predictions(seed, (7, classes), layers)
    scores = score_classification(predictions)
    p = _softmax(_array(predictions))
    mean = p.mean(axis=0)
    np.testing.assert_allclose(scores.probability, mean, atol=1e-6)
    entropy = scipy.stats.entropy(mean, axis=1)
    information = entropy - scipy.stats.entropy(p, axis=2).mean(axis=0)
    np.testing.assert_allclose(scores.entropy_nats, entropy, atol=1e-5)
    np.testing.assert_allclose(scores.mutual_information_nats, information, atol=1e-5)
    votes = p.argmax(axis=2)
    np.testing.assert_array_equal(scores.decision, votes[-1])
    np.testing.assert_allclose(scores.agreement, (votes == votes[-1]).mean(axis=0), rtol=1e-6)


def _softmax(logits):
    powers = np.exp(logits - logits.max(axis=2, keepdims=True))
    return powers / powers.sum(axis=2, keepdims=True)


def test_multi_label_classification_averages_over_labels():
    predictions = _predictions(0, (5, 3))
    scores = score_classification(predictions, multi_label=True)
    p = 1 / (1 + np.exp(-_array(predictions)))
    mean = p.mean(axis=0)
    expected = scipy.stats.entropy(np.stack((mean, 1 - mean)), axis=0).mean(axis=1)
    np.testing.assert_allclose(scores.entropy_nats, expected, rtol=1e-5)
    votes = p > 0.5
    np.testing.assert_array_equal(scores.decision, votes[-1])
    np.testing.assert_allclose(scores.agreement, (votes == votes[-1]).mean(axis=(0, 2)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(5,), (5, 3), (2, 1, 4, 6)])
def test_regression_is_mean_and_standard_deviation_over_layers(shape):
    predictions = _predictions(1, shape)
    scores = score_regression(predictions)
    np.testing.assert_allclose(scores.mean, _array(predictions).mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(scores.std, _array(predictions).std(axis=0), atol=1e-6)


@pytest.mark.parametrize("space", [(6, 7), (4, 6, 5)])
@pytest.mark.parametrize("has_regions", [False, True])
def test_segmentation_scores_are_those_of_the_layers_masks(space, has_regions):
    predictions = _predictions(2, (3, 3, *space))
    scored = score_segmentation(predictions, has_regions=has_regions)
    masks = naive_masks(_array(predictions).reshape(-1, 3, *space), has_regions)
    masks = masks.reshape(4, 3, *masks.shape[1:])
    for number, image in enumerate(scored):
        own = masks[:, number]
        curve = [
            np.mean([naive_dice(a, b) for a, b in zip(own[k], own[k + 1], strict=True)])
            for k in range(3)
        ]
        assert image.scores.layer_agreement == pytest.approx(curve)
        aula = sum((a + b) / 2 for a, b in itertools.pairwise(curve))
        assert image.scores.scores["aula"] == pytest.approx(aula)
        consensus = [
            naive_dice(head[label], own[-1][label]) for head in own for label in range(len(own[0]))
        ]
        assert image.scores.scores["consensus_dice"] == pytest.approx(np.mean(consensus))
        np.testing.assert_array_equal(_as_masks(image.segmentation, has_regions), own[-1])


def _as_masks(segmentation, has_regions):
    return segmentation if has_regions else np.stack([segmentation == 1, segmentation == 2])


def test_volumes_need_a_spacing():
    predictions = _predictions(3, (1, 2, 4, 5))
    (without,) = score_segmentation(predictions)
    assert math.isnan(without.scores.scores["volume_ml"])
    (image,) = score_segmentation(predictions, spacing_mm=(2.0, 5.0))
    assert image.scores.scores["volume_ml"] == pytest.approx(image.segmentation.sum() / 100)


def test_labels_have_the_names_that_they_are_given():
    predictions = _predictions(4, (1, 3, 4, 5))
    (image,) = score_segmentation(predictions, label_names=["liver", "lesion"], skip_heads=1)
    assert list(image.scores.per_label) == ["liver", "lesion"]
    assert len(image.scores.layer_agreement) == 2
    with pytest.raises(InputError, match=r"Expected 2 names .* for 3 channels; got \['liver'\]"):
        score_segmentation(predictions, label_names=["liver"])


def test_maps_on_demand_are_made():
    (image,) = score_segmentation(_predictions(5, (1, 3, 4, 5)), maps=["heads_ttest"])
    assert image.accumulated.maps["heads_ttest"].shape == (1, 4, 5)


def test_one_layer_or_unlike_shapes_are_refused():
    one = {"output": torch.zeros(2, 3)}
    with pytest.raises(InputError, match=r"at least two layers.*got \{'output': \(2, 3\)\}"):
        score_classification(one)
    with pytest.raises(InputError, match="all of one shape"):
        score_regression({**one, "layer1": torch.zeros(2, 4)})


def test_maps_and_vectors_are_not_mistaken_for_each_other(shapes_unchecked):
    with pytest.raises(InputError, match=r"Expected logits \(batch, classes\).*got \(1, 3, 4, 5\)"):
        score_classification(_predictions(6, (1, 3, 4, 5)))
    with pytest.raises(InputError, match=r"of each layer; got \(5, 3\). Score vectors with"):
        score_segmentation(_predictions(6, (5, 3)))
