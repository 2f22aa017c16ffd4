"""What every command shares: parse, run, and turn errors into one line and an exit code.

A command is a module with ``build_parser()``, a frozen request dataclass, ``run(request)`` and

    def main(argv: Sequence[str] | None = None) -> int:
        return run_main(build_parser(), build_request, run=run, argv=argv)

Exit codes: 0 done, 1 an error, 2 a usage error, 130 interrupted.
"""

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from nnunetv2_le.cli.streams import messages_may_be_lost
from nnunetv2_le.errors import LayerEnsembleError, OutputError

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it

Request = TypeVar("Request")

logger = logging.getLogger("nnunetv2_le.cli.common")


def run_main(
    parser: argparse.ArgumentParser,
    build_request: Callable[[argparse.Namespace], Request],
    *,
    run: Callable[[Request], object],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a command from its arguments to its exit code.

    Args:
        parser: the command's parser; gets ``--verbose`` here if it has none.
        build_request: arguments to request; may raise ``LayerEnsembleError`` (a ``SettingError``
            for options that do not go together).
        run: does the work; what it returns is not used.
        argv: arguments without the program's name; None takes the process's own.

    Returns:
        0 when done, 1 after an error (one line on stderr; the traceback too with ``--verbose``),
        130 when interrupted. A usage error leaves through argparse's ``SystemExit`` with code 2.
        Messages that cannot be written change none of this.
    """
    with messages_may_be_lost():
        return _run(parser, build_request, run, argv)


def require_writable(folder: Path) -> None:
    """Refuse a folder for results that cannot be written to; nothing is created.

    Raises:
        OutputError: if it, or the nearest folder above it that exists, cannot be written to.
    """
    place = folder.absolute()
    try:
        there = next((above for above in (place, *place.parents) if above.exists()), place)
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OutputError(
            f"-o has to be a folder that can be written; {str(folder)!r} cannot "
            f"({error.strerror}). Name another one."
        ) from error


def _run(
    parser: argparse.ArgumentParser,
    build_request: Callable[[argparse.Namespace], Request],
    run: Callable[[Request], object],
    argv: Sequence[str] | None,
) -> int:
    let_threads_sleep()
    add_verbose_argument(parser)
    arguments = parser.parse_args(argv)
    set_up_logging(verbose=arguments.verbose)
    try:
        run(build_request(arguments))
    except KeyboardInterrupt:
        _say(parser, "interrupted.")
        return EXIT_INTERRUPTED
    except LayerEnsembleError as error:
        return _report(parser, str(error), verbose=arguments.verbose)
    except PermissionError as error:
        message = f"{error}. Give this user the right to it, or name another file or folder."
        return _report(parser, message, verbose=arguments.verbose)
    except Exception as error:
        hint = "" if arguments.verbose else " (run again with --verbose for the traceback)"
        message = f"unexpected {type(error).__name__}: {error}{hint}"
        return _report(parser, message, verbose=arguments.verbose)
    return EXIT_DONE


def let_threads_sleep() -> None:
    """Torch's threads on the CPU sleep instead of spinning while they wait, unless the user chose.

    On a busy machine spinning costs more than the work (``documentation/benchmarks.md``). Read when
    torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def add_verbose_argument(parser: argparse.ArgumentParser) -> None:
    """Give a parser nnU-Net's ``--verbose``, unless it has it already."""
    with suppress(argparse.ArgumentError):
        parser.add_argument(
            "--verbose", action="store_true", help="Say more, and show the traceback of an error."
        )


def set_up_logging(*, verbose: bool) -> None:
    """Send the package's messages to standard output, its warnings to standard error.

    Called once a command; calling it again replaces the handler, so commands can run one after
    another in a process.
    """
    package = logging.getLogger("nnunetv2_le")
    for handler in list(package.handlers):
        if isinstance(handler, _CommandHandler):
            package.removeHandler(handler)
    package.setLevel(logging.DEBUG if verbose else logging.INFO)
    package.addHandler(_CommandHandler())


class _CommandHandler(logging.Handler):
    """Writes to the process's current streams: messages to stdout, warnings and worse to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        stream.write(f"{self.format(record)}\n")
        stream.flush()


def _report(parser: argparse.ArgumentParser, message: str, *, verbose: bool) -> int:
    if verbose:
        logger.error("Traceback of the error:", exc_info=True)
    _say(parser, message)
    return EXIT_ERROR


def _say(parser: argparse.ArgumentParser, message: str) -> None:
    """One line on stderr, as argparse words its own errors."""
    sys.stderr.write(f"{parser.prog}: {' '.join(message.split())}\n")
