"""The cases of one run on their way through preprocessing, prediction and writing.

Preprocessing and writing run in threads beside the prediction, not in processes: nnU-Net's own
preprocessing, SciPy's interpolation and SimpleITK let go of Python's lock while they work, nothing
is copied between processes, and there is no worker that the system could kill unnoticed
(``documentation/decisions/004-threads-instead-of-processes.md``).
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm import tqdm

from nnunetv2_le.errors import CaseError, LayerEnsembleError
from nnunetv2_le.inference.cases import Case, PreparedCase, image_bytes
from nnunetv2_le.inference.prediction import CasePrediction
from nnunetv2_le.inference.tables import note_failure
from nnunetv2_le.inference.writing import CaseWriter

logger = logging.getLogger(__name__)

# Cases wait in memory before and after their prediction as long as they are small. Preprocessing
# takes about six times the image (nnU-Net resamples in double precision).
_WAITING_IMAGE_BYTES = 2**28
_WAITING_PREDICTION_BYTES = 2**30
_BESIDE_A_GPU = 4  # times as much: two large CTs, because the GPU has nothing to do meanwhile


@dataclass(frozen=True)
class RunSummary:
    """What became of the cases of a run.

    Attributes:
        done: names of the cases that were predicted and written.
        failed: name of a case to the reason why it has no result.
        skipped: names of the cases that an earlier run had finished.
    """

    done: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


class CaseQueue:
    """Takes cases through a run; a case that fails does not stop the others.

    Args:
        prepare: reads and preprocesses a case; called in threads.
        predict: predicts a preprocessed case; called in the thread of ``process``.
        writer: writes a prediction; called in threads.
        num_preprocessing: cases that are preprocessed at the same time; 0 to preprocess each only
            when it is its turn.
        num_writing: cases that are written at the same time; 0 to write each before the next.
        on_gpu: whether ``predict`` leaves the CPU to the other steps: more may wait in memory.
        show_progress: show a progress bar.
    """

    def __init__(
        self,
        *,
        prepare: Callable[[Case], PreparedCase],
        predict: Callable[[PreparedCase], CasePrediction],
        writer: CaseWriter,
        num_preprocessing: int,
        num_writing: int,
        on_gpu: bool = False,
        show_progress: bool = True,
    ) -> None:
        self.prepare = prepare
        self.predict = predict
        self.writer = writer
        self.ahead = max(0, num_preprocessing)
        self.behind = max(0, num_writing)
        times = _BESIDE_A_GPU if on_gpu else 1
        self.most_image_bytes = times * _WAITING_IMAGE_BYTES
        self.most_prediction_bytes = times * _WAITING_PREDICTION_BYTES
        self.show_progress = show_progress
        self.done: list[str] = []
        self.failed: dict[str, str] = {}
        self._writing: deque[tuple[str, int, Future[None]]] = deque()

    def process(self, cases: Sequence[Case]) -> None:
        """Process all cases; what fails is noted, what was interrupted is not."""
        for case in cases:
            self.writer.forget(case.name)
        readers = ThreadPoolExecutor(max(1, self.ahead), thread_name_prefix="preprocessing")
        writers = ThreadPoolExecutor(max(1, self.behind), thread_name_prefix="writing")
        bar = tqdm(total=len(cases), desc="cases", disable=not self.show_progress)
        try:
            for case, prepared in self._prepared(readers, cases):
                self._predict(case, prepared, writers)
                del prepared  # the image
                self._collect(leave=self.behind)
                bar.update()
            self._collect(leave=0)
        finally:
            bar.close()
            readers.shutdown(wait=True, cancel_futures=True)
            writers.shutdown(wait=True, cancel_futures=True)

    def _prepared(
        self, readers: ThreadPoolExecutor, cases: Sequence[Case]
    ) -> Iterator[tuple[Case, "Future[PreparedCase]"]]:
        """Cases in order, each with its preprocessing; a bounded number is under way."""
        waiting: deque[tuple[Case, int, Future[PreparedCase]]] = deque()
        left = deque(cases)
        while left or waiting:
            while left and len(waiting) <= self.ahead:
                size = image_bytes(left[0])
                if (
                    waiting
                    and size + sum(bytes_ for _, bytes_, _ in waiting) > self.most_image_bytes
                ):
                    break
                case = left.popleft()
                waiting.append((case, size, readers.submit(self.prepare, case)))
            case, _, future = waiting.popleft()
            yield case, future
            del future

    def _predict(
        self, case: Case, future: "Future[PreparedCase]", writers: ThreadPoolExecutor
    ) -> None:
        try:
            prediction = self.predict(future.result())
        except Exception as error:
            self._fail(case.name, error)
            return
        writing = writers.submit(self.writer.write, prediction)
        self._writing.append((case.name, prediction.nbytes, writing))

    def _collect(self, *, leave: int) -> None:
        """Wait for writing until at most ``leave`` cases, and not too many bytes, are under way."""
        while len(self._writing) > leave or self._writing_bytes() > self.most_prediction_bytes:
            name, _, future = self._writing.popleft()
            try:
                future.result()
            except Exception as error:
                self._fail(name, error)
                continue
            self.done.append(name)

    def _writing_bytes(self) -> int:
        return sum(size for _, size, _ in self._writing)

    def _fail(self, case: str, error: Exception) -> None:
        known = error if isinstance(error, LayerEnsembleError) else _case_error(case, error)
        reason = " ".join(str(known).split())
        self.failed[case] = reason
        is_noted = self._is_noted(case, reason)
        logger.error("%s: %s", case, reason)
        logger.debug("Traceback of %s:", case, exc_info=error)
        try:
            self.writer.discard(case)
        except OSError:
            is_noted = False
        if not is_noted:
            logger.warning("The failure of %s cannot be noted in %s.", case, self.writer.folder)

    def _is_noted(self, case: str, reason: str) -> bool:
        """Note a failure before anything is said of it; False where that cannot be written."""
        try:
            note_failure(self.writer.folder, case, reason)
        except OSError:
            return False
        return True


def _case_error(case: str, error: Exception) -> CaseError:
    return CaseError(
        f"{case} could not be predicted ({type(error).__name__}: {error}). Run again with "
        "--continue_prediction --verbose for the traceback."
    )
