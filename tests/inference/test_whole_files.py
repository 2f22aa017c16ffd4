"""Files appear whole or not at all, with what their writers put beside them."""

from pathlib import Path

import pytest

from nnunetv2_le.inference.whole_files import remove_leftovers, replace_whole, write_json


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "cases").mkdir()
    return tmp_path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def with_sidecar(path: Path) -> None:
    """As nnU-Net's writer of 3D TIFF does."""
    path.write_text("voxels")
    path.with_suffix(".json").write_text("spacing")


def test_a_file_gets_its_name_when_it_is_whole(out: Path):
    def write(path: Path) -> None:
        path.write_text("first half, ")
        assert path.name == "a.txt"
        assert not (out / "a.txt").exists()
        path.write_text("second half")

    replace_whole(out / "a.txt", write, output=out)
    assert (out / "a.txt").read_text() == "second half"
    assert files(out) == {"a.txt"}
    assert not list((out / "cases").iterdir())


def test_what_is_written_beside_a_file_goes_with_it(out: Path):
    (out / "sub").mkdir()
    replace_whole(out / "sub" / "cell.tif", with_sidecar, output=out)
    assert files(out) == {"sub/cell.tif", "sub/cell.json"}


def test_what_fails_leaves_the_old_files_and_no_half_ones(out: Path):
    replace_whole(out / "cell.tif", with_sidecar, output=out)

    def fail(path: Path) -> None:
        path.with_suffix(".json").write_text("other")
        raise RuntimeError("header\nno space left")

    with pytest.raises(OSError, match=r"^no space left$"):
        replace_whole(out / "cell.tif", fail, output=out)
    assert (out / "cell.json").read_text() == "spacing"
    assert files(out) == {"cell.tif", "cell.json"}
    assert not list((out / "cases").iterdir())


def test_a_file_that_nobody_wrote_is_an_error(out: Path):
    with pytest.raises(OSError, match="nothing was written"):
        replace_whole(out / "a.txt", lambda path: None, output=out)


def test_a_cut_off_file_beside_another_is_an_error(out: Path):
    def write(path: Path) -> None:
        path.write_text("whole")
        path.with_name("a.nii").write_bytes(bytes(100))

    with pytest.raises(OSError, match="no space left"):
        replace_whole(out / "a.txt", write, output=out)
    assert not files(out)


def test_leftovers_are_removed_and_cases_stay(out: Path):
    (out / "cases" / ".part.abc").mkdir()
    (out / "cases" / ".part.abc" / "a.json").touch()
    (out / "cases" / ".part.1_1.b.json").touch()  # of version 0.1.0
    (out / "cases" / ".hidden.json").touch()
    remove_leftovers(out)
    assert [path.name for path in (out / "cases").iterdir()] == [".hidden.json"]


def test_what_json_has_no_word_for_is_not_written(out: Path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(out / "a.json", {"dice": float("nan")}, output=out)
    assert files(out) == set()
