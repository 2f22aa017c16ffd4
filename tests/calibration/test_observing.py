"""What was observed of a case stays on disk until a fit asks for it."""

import numpy as np

from nnunetv2_le.calibration.observing import StoredArrays


def test_stored_arrays_are_those_of_the_file(tmp_path):
    written = {"logits": np.ones((2, 3, 4), dtype=np.float16), "members": np.array(["a", "fused"])}
    np.savez(tmp_path / "case.npz", **written)
    stored = StoredArrays(tmp_path / "case.npz")
    assert (list(stored), len(stored)) == (["logits", "members"], 2)
    for name, array in written.items():
        np.testing.assert_array_equal(stored[name], array, strict=True)


def test_stored_arrays_are_not_kept(tmp_path):
    file = tmp_path / "case.npz"
    np.savez(file, logits=np.zeros(3))
    stored = StoredArrays(file)
    assert not stored["logits"].any()
    np.savez(file, logits=np.ones(3))
    assert stored["logits"].all()
