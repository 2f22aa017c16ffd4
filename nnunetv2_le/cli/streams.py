"""Standard streams of a command: a message that cannot be written is lost, the work goes on.

The reader of a pipe may be gone, the disk of a log full, a stream closed from the start. What
nnU-Net prints and progress bars write goes the same way as the commands' own messages.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any


@contextmanager
def messages_may_be_lost() -> Iterator[None]:
    """No message raises while this is entered, and none makes the process fail when it ends."""
    # where a process is started with a closed stream, Python has None
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out: Any = _LossyStream(sys.stdout or nowhere)
        err: Any = _LossyStream(sys.stderr or nowhere)
        with redirect_stdout(out), redirect_stderr(err):
            try:
                yield
            finally:
                out.end()
                err.end()


class _LossyStream:
    """A text stream that loses what it cannot write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text as far as that is possible."""
        with suppress(OSError, ValueError):  # ValueError: the stream was closed
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                known = self._stream.encoding or "ascii"
                self._stream.write(text.encode(known, "backslashreplace").decode(known))
        return len(text)

    def flush(self) -> None:
        """Write what waits as far as that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def end(self) -> None:
        """Send to nowhere what cannot be written: Python would try again, and fail, at its end."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Everything else is that of the stream."""
        return getattr(self._stream, name)
