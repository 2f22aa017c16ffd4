"""The queue of cases with made-up steps: order, what waits in memory, failures in each step."""

from pathlib import Path
from typing import Any

import pytest

from nnunetv2_le.errors import CaseError, LayerEnsembleError
from nnunetv2_le.inference import queue as queue_module
from nnunetv2_le.inference.cases import Case
from nnunetv2_le.inference.queue import CaseQueue

pytestmark = pytest.mark.usefixtures("shapes_unchecked")  # the steps are made up

CASES = tuple(Case(name, ()) for name in "abcdef")
NAMES = [case.name for case in CASES]


class Prediction:
    """A case's name that takes so many bytes."""

    def __init__(self, case: str, nbytes: int = 0) -> None:
        self.case, self.nbytes = case, nbytes


class Steps:
    """All three steps; each notes its cases and fails those that it is told."""

    def __init__(self, folder: Path, *, fails: dict[str, Exception] | None = None) -> None:
        self.folder, self.fails = folder, fails or {}
        self.events: list[str] = []
        (folder / "cases").mkdir(parents=True)

    def note(self, step: str, case: str) -> None:
        self.events.append(f"{step} {case}")
        if f"{step} {case}" in self.fails:
            raise self.fails[f"{step} {case}"]

    def prepare(self, case: Case) -> Any:
        self.note("prepare", case.name)
        return case.name

    def predict(self, case: Any) -> Any:
        self.note("predict", case)
        return Prediction(case)

    def write(self, prediction: Any) -> None:
        self.note("write", prediction.case)

    def discard(self, case: str) -> None:
        self.note("discard", case)

    def forget(self, case: str) -> None:
        self.note("forget", case)


def queue_of(steps: Any, ahead: int = 0, behind: int = 0, *, on_gpu: bool = False) -> CaseQueue:
    return CaseQueue(
        prepare=steps.prepare,
        predict=steps.predict,
        writer=steps,
        num_preprocessing=ahead,
        num_writing=behind,
        on_gpu=on_gpu,
        show_progress=False,
    )


def of_step(steps: Steps, step: str) -> list[str]:
    return [event.split()[1] for event in steps.events if event.split()[0] == step]


@pytest.mark.parametrize(("ahead", "behind"), [(0, 0), (1, 1), (3, 2), (-1, -1)])
def test_cases_are_predicted_in_order_and_all_are_written(
    tmp_path: Path, ahead: int, behind: int
) -> None:
    steps = Steps(tmp_path)
    queue = queue_of(steps, ahead, behind)
    queue.process(CASES)
    assert steps.events[: len(CASES)] == [f"forget {name}" for name in NAMES]
    assert of_step(steps, "predict") == NAMES
    assert queue.done == NAMES
    assert sorted(of_step(steps, "write")) == NAMES
    assert queue.failed == {}


def test_without_workers_a_case_is_written_before_the_next_is_predicted(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    queue_of(steps).process(CASES[:3])
    written = [steps.events.index(f"write {name}") for name in "ab"]
    assert written[0] < steps.events.index("predict b") < written[1]
    assert written[1] < steps.events.index("predict c")


@pytest.mark.parametrize("step", ["prepare", "predict", "write"])
def test_a_case_that_fails_is_noted_discarded_and_stops_no_other(tmp_path: Path, step: str) -> None:
    steps = Steps(tmp_path, fails={f"{step} b": LayerEnsembleError("is of\n another kind")})
    queue = queue_of(steps, 2, 2)
    queue.process(CASES)
    assert queue.failed == {"b": "is of another kind"}
    assert queue.done == [name for name in NAMES if name != "b"]
    assert of_step(steps, "discard") == ["b"]
    assert [path.name[0] for path in (tmp_path / "cases").iterdir()] == ["b"]


def test_an_unknown_error_is_said_with_its_type_and_the_case(tmp_path: Path) -> None:
    steps = Steps(tmp_path, fails={"predict c": ZeroDivisionError("of a mean")})
    queue = queue_of(steps)
    queue.process(CASES)
    assert queue.failed["c"].startswith("c could not be predicted (ZeroDivisionError: of a mean)")
    assert isinstance(queue_module._case_error("c", ValueError()), CaseError)


def test_a_failure_that_cannot_be_cleared_away_is_said(tmp_path: Path, caplog: Any) -> None:
    fails = {"write b": OSError("full"), "discard b": OSError("full")}
    queue = queue_of(Steps(tmp_path, fails=fails))
    queue.process(CASES[:2])
    assert "The failure of b cannot be noted" in caplog.text
    assert queue.done == ["a"]


@pytest.mark.parametrize(
    ("image_bytes", "on_gpu", "most"),
    [(0, False, 4), (10, False, 3), (25, False, 1), (10, True, 4), (60, True, 2)],
)
def test_only_so_many_images_wait_as_their_number_and_size_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image_bytes: int, on_gpu: bool, most: int
) -> None:
    monkeypatch.setattr(queue_module, "_WAITING_IMAGE_BYTES", 30)
    monkeypatch.setattr(queue_module, "image_bytes", lambda case: image_bytes)
    asked: list[str] = []

    class Readers:
        """Notes what is handed in."""

        def submit(self, _: Any, case: Case) -> None:
            asked.append(case.name)

    queue = queue_of(Steps(tmp_path), 3, on_gpu=on_gpu)
    ahead = [len(asked) - n for n, _ in enumerate(queue._prepared(Readers(), CASES))]  # type: ignore[arg-type]
    assert max(ahead) == most
    assert asked == NAMES


def test_predictions_wait_for_writing_until_they_are_too_many_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "_WAITING_PREDICTION_BYTES", 25)
    left = []
    for nbytes, on_gpu in (
        (10, False),
        (13, False),
        (0, False),
        (25, False),
        (26, False),
        (26, True),
    ):
        steps = Steps(tmp_path / f"{nbytes}_{on_gpu}")
        queue = queue_of(steps, 0, 2, on_gpu=on_gpu)
        collect, waiting = queue._collect, list[int]()

        def counted(*, leave: int, do: Any = collect, of: Any = queue, to: Any = waiting) -> None:
            do(leave=leave)
            to.append(len(of._writing))

        monkeypatch.setattr(queue, "_collect", counted)
        queue.predict = lambda case, nbytes=nbytes: Prediction(case, nbytes)  # type: ignore[assignment,misc,return-value]
        queue.process(CASES)
        assert queue.done == NAMES
        left.append(max(waiting))
    assert left == [2, 1, 2, 1, 0, 2]
