"""Tables of the original work: bold, stars and escapes in Markdown and LaTeX."""

import numpy as np
import pandas as pd

from nnunetv2_le.report.method_tables import correlation_text, quality_text

QUALITY = pd.DataFrame(
    [
        ("LE_1", "dice", 9, 0.91234, 0.05, True, np.nan),
        ("DE", "dice", 9, 0.9, np.nan, False, 0.01),
    ],
    columns=["method", "metric", "num_cases", "mean", "std", "is_best", "p_value"],
)
CORRELATION = pd.DataFrame(
    [
        ("LE", "aula", "higher_is_better", 9, 0.8, -0.7),
        ("LE", "entropy", "higher_is_worse", 9, -0.9, np.nan),
    ],
    columns=["method", "score", "direction", "num_cases", "spearman_dice", "spearman_mhd"],
)


def test_quality_in_markdown():
    assert quality_text(QUALITY, "markdown").splitlines() == [
        "| method | DSC \u2191 |",
        "| --- | --- |",
        "| LE_1 | **0.912** (0.050) |",
        "| DE | 0.900 (-)\\* |",
        "",
        "Mean (standard deviation) of 9 cases. Bold: the best. \\*: differs from the best "
        "(Wilcoxon's signed-rank test, Holm's correction, p < 0.05).",
    ]


def test_a_test_of_patients_is_said():
    text = quality_text(QUALITY, "markdown", by_patient=True)
    assert "(Wilcoxon's signed-rank test of the means of patients, Holm's correction" in text


def test_a_table_without_a_star_explains_none():
    text = quality_text(QUALITY.assign(p_value=0.5), "latex")
    assert text.endswith("% Mean (standard deviation) of 9 cases. Bold: the best.\n")


def test_quality_in_latex_escapes_names():
    text = quality_text(QUALITY, "latex")
    assert r"LE\_1 & \textbf{0.912} (0.050) \\" in text
    assert r"DE & 0.900 (-)$^*$ \\" in text
    assert text.startswith(r"\begin{tabular}{ll}")


def test_latex_escapes_every_special_character_of_names_and_nothing_else():
    names = {"LE_1": r"5% a&b #1 $x$ {y} ~^\ ", "DE": "a|b"}
    table = QUALITY.replace({"method": names})
    text = quality_text(table, "latex")
    name = (
        r"5\% a\&b \#1 \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{} "
        r" & \textbf{0.912} (0.050) \\"
    )
    assert name in text.splitlines()
    assert r"a|b & 0.900 (-)$^*$ \\" in text.splitlines()
    assert r"| a\|b | 0.900 (-)\* |" in quality_text(table, "markdown").splitlines()
    scores = CORRELATION.replace({"score": {"aula": "aula_normalized"}})
    assert r"LE & aula\_normalized & 0.800 & \textbf{-0.700} \\" in correlation_text(
        scores, "latex"
    )


def test_the_strongest_correlation_is_bold_with_the_sign_that_its_score_promises():
    text = correlation_text(CORRELATION, "markdown")
    assert "| LE | entropy | **-0.900** | - |" in text
    assert "| LE | aula | 0.800 | **-0.700** |" in text
    against = CORRELATION.assign(spearman_dice=[0.8, 0.9], spearman_mhd=[0.7, -0.9])
    text = correlation_text(against, "markdown")
    assert "| LE | entropy | 0.900 | -0.900 |" in text
    assert "| LE | aula | **0.800** | 0.700 |" in text


def test_metrics_have_their_units_and_directions_and_cases_their_range():
    metrics = (("dice", 9), ("modified_hausdorff_mm", 7), ("nll", 0))
    table = pd.concat([QUALITY.assign(metric=name, num_cases=count) for name, count in metrics])
    lines = quality_text(table, "markdown").splitlines()
    assert lines[0] == "| method | DSC \u2191 | MHD (mm) \u2193 | NLL \u2193 |"
    assert lines[-1].startswith("Mean (standard deviation) of 7 to 9 cases. Bold")
    latex = quality_text(table, "latex").splitlines()
    assert latex[0] == r"\begin{tabular}{llll}"
    assert latex[2] == r"method & DSC $\uparrow$ & MHD (mm) $\downarrow$ & NLL $\downarrow$ \\"


def test_columns_of_correlations_are_named():
    lines = correlation_text(CORRELATION, "markdown").splitlines()
    assert lines[0] == "| method | score | DSC | MHD |"
    said = "Spearman's rank correlation, 9 cases. Bold: the strongest of the right sign."
    assert lines[-1] == said
