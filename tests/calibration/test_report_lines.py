from nnunetv2_le.calibration.flag import WorkloadPoint
from nnunetv2_le.calibration.report_lines import workload_lines


def test_the_curve_is_shown_from_end_to_end() -> None:
    for number in (1, 2, 8, 9, 57):
        curve = [WorkloadPoint((n + 1) / 100, 0.5, 1 - n / 100) for n in range(number)]
        lines = workload_lines(curve)
        assert len(lines) <= 9
        assert "-alpha 0.010: 100%" in lines[0]
        assert f"-alpha {number / 100:.3f}" in lines[-1]
        assert len(set(lines)) == len(lines)
