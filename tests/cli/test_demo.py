"""The demo command: the whole way on two training phantoms, and what it leaves alone."""

import os
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_le.cli import demo
from nnunetv2_le.demo.phantoms import DATASET_NAME

NNUNET_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_compile")


@pytest.mark.slow
def test_the_demo_goes_all_the_way_and_restores_the_environment(tmp_path):
    request = demo.DemoRequest(
        output=tmp_path / "demo",
        device="cpu",
        num_training=5,
        num_test=1,
        num_epochs=1,
        num_iterations_per_epoch=1,
    )
    before = {name: os.environ.get(name) for name in NNUNET_VARIABLES}
    rows = demo.run(request)
    assert {name: os.environ.get(name) for name in NNUNET_VARIABLES} == before
    assert [row.case for row in rows] == ["clean_000", "shifted_000_noise"]
    assert all(0 <= row.dice <= 1 for row in rows)
    assert (tmp_path / "demo" / "predictions" / "uncertainty.csv").is_file()


def test_an_earlier_demo_is_removed_and_nothing_else(tmp_path):
    mine = tmp_path / "nnUNet_raw" / "Dataset001_Mine" / "dataset.json"
    earlier = tmp_path / "nnUNet_results" / DATASET_NAME / "checkpoint_final.pth"
    prediction = tmp_path / "predictions" / "clean_000.nii.gz"
    for file in (mine, earlier, prediction):
        file.parent.mkdir(parents=True)
        file.write_text("")
    demo._remove_earlier_run(tmp_path)
    assert [file.exists() for file in (mine, earlier, prediction)] == [True, False, False]


def test_predictions_of_others_are_not_removed(tmp_path, capsys):
    mine = tmp_path / "predictions" / "patient.nii.gz"
    mine.parent.mkdir()
    mine.write_text("")
    assert demo.main(["-o", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "not of an earlier demo" in error
    assert [path.name for path in tmp_path.iterdir()] == ["predictions"]
    assert mine.exists()


def test_the_table_shows_every_case_and_both_medians(tmp_path, caplog):
    rows = [
        demo.CaseRow("clean_000", (2.0, 0.9), 0.8),
        demo.CaseRow("clean_001", (4.0, 0.7), 0.6),
        demo.CaseRow("clean_002", (3.0, 0.8), 0.7),
        demo.CaseRow("shifted_000_noise", (float("nan"), 0.5), 0.4),
        demo.CaseRow("shifted_001_blur", (1.0, 0.3), 0.2),
    ]
    with caplog.at_level("INFO", logger="nnunetv2_le"):
        demo._report(rows, tmp_path)
    table = [line.split() for line in caplog.messages[0].strip().splitlines()]
    assert table[0] == ["case", "AULA", "consensus", "Dice", "true", "Dice"]
    assert table[4] == ["shifted_000_noise", "nan", "0.500", "0.400"]
    assert table[-2][-3:] == ["3.000", "0.800", "0.700"]
    assert table[-1][-3:] == ["1.000", "0.400", "0.300"]
    # AULA takes the best case for the third best; consensus Dice orders all as the truth does
    assert any("AULA 0.20, consensus Dice 1.00" in line for line in caplog.messages)
    assert any(
        str(tmp_path / "predictions" / "uncertainty.csv") in line for line in caplog.messages
    )


def test_an_output_that_is_a_file_is_one_line_and_exit_code_one(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert demo.main(["-o", str(file)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"-o has to be a folder that can be written; '{file}' cannot" in error


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder nobody can write to")
def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_one(capsys):
    assert demo.main(["-o", "/proc/demo"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'/proc/demo' cannot" in error


def test_a_training_that_fails_ends_the_demo(tmp_path, monkeypatch):
    from nnunetv2_le.cli import train

    monkeypatch.setattr(train, "main", lambda argv: 1)
    with pytest.raises(demo.LayerEnsembleError, match="training failed; the line above says why"):
        demo._train(demo.DemoRequest(output=tmp_path), "cpu")


def test_undefined_scores_are_left_out_of_the_medians(caplog, tmp_path):
    rows = [demo.CaseRow(f"{kind}_000", (np.nan, np.nan), 0.5) for kind in ("clean", "shifted")]
    with caplog.at_level("INFO", logger="nnunetv2_le"):
        demo._report(rows, tmp_path)
    assert caplog.messages[0].strip().splitlines()[-1].split()[-3:] == ["nan", "nan", "0.500"]


def test_a_prediction_that_fails_ends_the_demo(tmp_path, monkeypatch):
    from nnunetv2_le.cli import predict
    from nnunetv2_le.demo.phantoms import PhantomDataset

    monkeypatch.setattr(predict, "main", lambda argv: 1)
    dataset = PhantomDataset(tmp_path, (), (), ())
    with pytest.raises(demo.LayerEnsembleError, match="prediction failed; the line above says why"):
        demo._predict(dataset, tmp_path, "cpu")


def test_the_training_is_as_long_and_as_random_as_was_asked_for(tmp_path, monkeypatch):
    from nnunetv2_le.cli import train

    asked = []
    monkeypatch.setattr(train, "main", lambda argv: asked.append(argv) or 0)
    request = demo.DemoRequest(
        output=tmp_path, num_epochs=3, num_iterations_per_epoch=4, seed=5, device="mps"
    )
    demo._train(request, "cpu")
    found = train.build_request(train.build_parser().parse_args(asked[0]))
    assert (found.num_epochs, found.num_iterations_per_epoch, found.seed) == (3, 4, 5)
    assert (found.dataset, found.trainer, found.plans) == (
        "999",
        "LayerEnsembleTrainer",
        "phantomPlans",
    )
    assert (found.configuration, found.fold, found.device) == ("3d_fullres", "0", "cpu")


def test_variables_are_set_for_a_while_and_are_then_what_they_were(monkeypatch):
    monkeypatch.setenv("DEMO_BEFORE", "old")
    monkeypatch.delenv("DEMO_NEW", raising=False)
    with demo._variables({"DEMO_BEFORE": "new", "DEMO_NEW": "1"}):
        assert (os.environ["DEMO_BEFORE"], os.environ["DEMO_NEW"]) == ("new", "1")
    assert os.environ["DEMO_BEFORE"] == "old"
    assert "DEMO_NEW" not in os.environ


@pytest.mark.parametrize(("arguments", "device"), [([], None), (["-device", "mps"], "mps")])
def test_the_device_is_the_one_that_was_named(arguments, device):
    found = demo.build_request(demo.build_parser().parse_args(["-o", "out", *arguments]))
    assert found == demo.DemoRequest(output=Path("out"), device=device)
