"""Skipping heads: closed forms, the plain computation over all heads, and saved files."""

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
from evaluation.made_up_predictions import make, softened, two_blobs
from scipy.stats import spearmanr
from sklearn.metrics import f1_score, log_loss

from nnunetv2_le.errors import InputError
from nnunetv2_le.evaluation.cases import find_cases
from nnunetv2_le.evaluation.dataset import read_dataset
from nnunetv2_le.evaluation.skip_heads import (
    HeadCase,
    saved_head_cases,
    skip_heads_of_each,
    skip_heads_per_case,
    skip_heads_table,
)
from nnunetv2_le.types import Labels

LABELS = Labels(("front", "back"), (1, 2))
SHAPE = (6, 12, 10)


def made_up(number=0, heads=4):
    rng = np.random.default_rng(number)
    reference = two_blobs(SHAPE, rng).astype(np.int32)
    levels = [softened(reference, rng, noise=0.5 * (heads - h)) for h in range(heads)]
    return HeadCase(f"case_{number}", levels, reference)


def dice(one, other):
    return np.mean([f1_score((one == c).ravel(), (other == c).ravel()) for c in (1, 2)])


def test_figures_equal_the_plain_computation():
    case = made_up()
    table = skip_heads_per_case([case], LABELS).set_index("skipped")
    segmentations = [head.argmax(axis=0) for head in case.heads]
    for skipped in range(4):
        fused = np.mean([h.astype(float) for h in case.heads[skipped:]], axis=0)
        rows = fused.reshape(3, -1).T
        expected = log_loss(case.reference.ravel(), rows / rows.sum(axis=1, keepdims=True))
        assert table.loc[skipped, "nll"] == pytest.approx(expected, abs=1e-6)
        assert table.loc[skipped, "dice"] == pytest.approx(
            dice(fused.argmax(axis=0), case.reference)
        )
        left = segmentations[skipped:]
        curve = [dice(a, b) for a, b in itertools.pairwise(left)]
        height = (
            np.trapezoid(curve) / (len(curve) - 1) if len(curve) > 1 else np.mean(curve or np.nan)
        )
        assert table.loc[skipped, "aula_normalized"] == pytest.approx(height, nan_ok=True)
        area = np.trapezoid(curve) if len(curve) > 1 else np.nan
        assert table.loc[skipped, "aula"] == pytest.approx(area, nan_ok=True)


def test_each_head_is_asked_for_once():
    case = made_up()

    asked = []

    class Counting:
        def __len__(self):
            return len(case.heads)

        def __getitem__(self, head):
            asked.append(head)
            return case.heads[head]

    skip_heads_per_case([HeadCase("case", Counting(), case.reference)], LABELS)
    assert sorted(asked) == [0, 1, 2, 3]


def test_summary_is_over_cases():
    per_case = skip_heads_per_case((made_up(number) for number in range(5)), LABELS)
    table = skip_heads_table(per_case).set_index("skipped")
    group = per_case[per_case["skipped"] == 1]
    assert table.loc[1, "nll_mean"] == pytest.approx(group["nll"].mean())
    assert table.loc[1, "nll_std"] == pytest.approx(np.std(group["nll"], ddof=1))
    assert table.loc[1, "aula_dice_spearman"] == pytest.approx(
        spearmanr(group["aula_normalized"], group["dice"]).statistic
    )
    assert np.isnan(table.loc[3, "aula_dice_spearman"])


def test_saved_heads_give_the_same_as_arrays(tmp_path):
    made = make(tmp_path, num_cases=2, num_heads=3)
    dataset = read_dataset(made.out / "dataset.json")
    files, _ = find_cases(made.out, [made.references], file_ending=".nii.gz")
    cases = list(saved_head_cases(files, dataset))
    arrays = [
        HeadCase(one.case, [np.load(f)["probabilities"] for f in file.heads], one.reference)
        for one, file in zip(cases, files, strict=True)
    ]
    pd.testing.assert_frame_equal(
        skip_heads_per_case(cases, dataset.labels), skip_heads_per_case(arrays, dataset.labels)
    )


def test_heads_that_agree_on_nothing_have_no_aula():
    nothing = np.stack([np.full(SHAPE, share) for share in (0.8, 0.1, 0.1)])
    case = made_up()
    table = skip_heads_per_case(
        [HeadCase("case", [case.heads[-1], *[nothing] * 4], case.reference)], LABELS
    ).set_index("skipped")
    assert np.isfinite(table.loc[0, "aula_normalized"])
    assert table.loc[1:, ["aula", "aula_normalized"]].isna().all(axis=None)


REGIONS = Labels(("whole", "core"), ((1, 2), (2,)), has_regions=True, region_values=(1, 2))


def test_aula_of_regions_is_of_their_masks():
    rng = np.random.default_rng(0)
    heads = list(rng.random((3, 2, *SHAPE)).astype(np.float32))  # a core that leaves the whole
    table = skip_heads_per_case([HeadCase("case", heads, np.zeros(SHAPE, np.int32))], REGIONS)
    masks = [head > 0.5 for head in heads]
    curve = [
        np.mean([f1_score(a[r].ravel(), b[r].ravel()) for r in range(2)])
        for a, b in itertools.pairwise(masks)
    ]
    assert table["aula_normalized"].iloc[0] == pytest.approx(np.mean(curve))
    assert table["aula_normalized"].iloc[1] == pytest.approx(curve[1])


def test_dice_of_regions_is_of_the_label_map_that_they_paint():
    heads = [np.zeros((2, *SHAPE), np.float32)]
    heads[0][1] = 0.9  # the core alone paints both regions
    case = HeadCase("case", heads, np.full(SHAPE, 2, np.int32))
    assert skip_heads_per_case([case], REGIONS)["dice"].tolist() == [1]


@pytest.mark.parametrize("ignore_label", [None, 3])
def test_voxels_of_unknown_or_ignored_labels_are_not_in_the_likelihood(ignore_label):
    even = np.full((2, 2, 2, 2), 0.5)
    reference = np.zeros((2, 2, 2), dtype=np.int32)
    reference[0] = 7 if ignore_label is None else ignore_label
    region = Labels(("a",), ((1, 2),), has_regions=True, region_values=(1,))
    for labels in (Labels(("a",), (1,)), region):
        heads = [even[: labels.num_channels]] * 2
        table = skip_heads_per_case(
            [HeadCase("case", heads, reference)], labels, ignore_label=ignore_label
        )
        assert table["nll"].tolist() == pytest.approx([np.log(2)] * 2, abs=1e-6)


def test_cases_without_readable_heads_are_left_out_and_named(tmp_path):
    made = make(tmp_path, num_cases=4, num_heads=3)
    dataset = read_dataset(made.out / "dataset.json")
    (made.out / "heads" / "head_01" / "case_01.npz").write_bytes(b"nonsense")
    for file in made.out.glob("heads/*/case_02.npz"):
        file.unlink()
    (made.references / "case_03.nii.gz").write_bytes(b"nonsense")
    files, _ = find_cases(made.out, [made.references], file_ending=".nii.gz")
    read = functools.partial(saved_head_cases, dataset=dataset)
    table, problems = skip_heads_of_each(files, read, dataset.labels)
    assert set(table["case"]) == {"case_00"}
    assert table["skipped"].tolist() == [0, 1, 2]
    assert [problem.case for problem in problems] == ["case_01", "case_02", "case_03"]
    with pytest.raises(InputError, match="none of 3 cases has heads that can be skipped; the fi"):
        skip_heads_of_each(files[1:], read, dataset.labels)


def test_case_that_lacks_one_head_is_left_out_and_its_others_are_not_renumbered(tmp_path):
    made = make(tmp_path, num_cases=2, num_heads=4)
    dataset = read_dataset(made.out / "dataset.json")
    (made.out / "heads" / "head_01" / "case_01.npz").unlink()
    files, _ = find_cases(made.out, [made.references], file_ending=".nii.gz")
    read = functools.partial(saved_head_cases, dataset=dataset)
    table, problems = skip_heads_of_each(files, read, dataset.labels)
    assert set(table["case"]) == {"case_00"}
    assert [problem.case for problem in problems] == ["case_01"]
    assert "head_01" in problems[0].problem


def test_case_without_heads_is_named():
    case = made_up()
    with pytest.raises(InputError, match="case_0 has no heads; predict with --save_heads"):
        skip_heads_per_case([HeadCase(case.case, [], case.reference)], LABELS)


def test_head_of_another_shape_is_named():
    case = made_up()
    heads = [*case.heads[:-1], case.heads[-1][:, :-1]]
    with pytest.raises(InputError, match=r"head 3 has shape \(3, 5, 12, 10\), expected"):
        skip_heads_per_case([HeadCase(case.case, heads, case.reference)], LABELS)
