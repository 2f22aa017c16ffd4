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

from nnunetv2_le.errors import InputError, SettingError
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


def test_one_layer_or_unlike_shapes_are_refused(shapes_unchecked):
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


def test_one_channel_is_refused_unless_it_is_a_sigmoid():
    vectors, maps = _predictions(7, (3, 1)), _predictions(7, (1, 1, 4, 5))
    with pytest.raises(InputError, match=r"got one channel: pass multi_label=True"):
        score_classification(vectors)
    with pytest.raises(InputError, match=r"got one channel: pass has_regions=True"):
        score_segmentation(maps)
    assert score_classification(vectors, multi_label=True).entropy_nats.min() > 0
    (image,) = score_segmentation(maps, has_regions=True)
    assert math.isfinite(image.scores.scores["aula"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("score", "shape"),
    [
        (score_segmentation, (1, 3, 4, 5)),
        (score_classification, (2, 3)),
        (score_regression, (2,)),
    ],
)
def test_numbers_that_are_not_finite_are_refused(score, shape, value):
    predictions = _predictions(8, shape)
    predictions["layer2"].view(-1)[0] = value
    with pytest.raises(InputError, match="finite numbers; got NaN or infinity from 'layer2'"):
        score(predictions)


@pytest.mark.parametrize("maps", [["nope"], ["heads_ttest", "folds_ttest"], "heads_ttest"])
def test_maps_that_there_are_not_are_refused(maps):
    with pytest.raises(SettingError, match=r"maps takes a collection of entropy, .*heads_ttest"):
        score_segmentation(_predictions(9, (1, 3, 4, 5)), maps=maps)


@pytest.mark.parametrize("spacing", [(), (1.0,), (1.0, 1.0, 1.0), (1.0, 0.0)])
def test_a_spacing_of_other_axes_is_refused(spacing):
    with pytest.raises(SettingError, match=r"spacing_mm is 2 positive numbers, .*; got \("):
        score_segmentation(_predictions(9, (1, 3, 4, 5)), spacing_mm=spacing)


def test_two_labels_of_one_name_are_refused():
    with pytest.raises(InputError, match=r"another name for each label; got \['a', 'a'\]"):
        score_segmentation(_predictions(9, (1, 3, 4, 5)), label_names=["a", "a"])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_regression_of_half_precision_does_not_overflow(kind):
    values = torch.tensor([60000.0, 30000.0]).to(kind)
    scores = score_regression({"layer1": values[:1], "output": values[1:]})
    assert scores.mean.dtype == torch.float32
    np.testing.assert_allclose(scores.mean, values.double().mean(), rtol=1e-6)
    np.testing.assert_allclose(scores.std, values.double().std(correction=0), rtol=1e-6)


def test_layers_of_several_precisions_are_scored_together():
    predictions = _predictions(10, (2, 3))
    expected = score_classification(predictions)
    predictions["output"] = predictions["output"].double()
    mixed = score_classification(predictions)
    torch.testing.assert_close(mixed.entropy_nats, expected.entropy_nats)
