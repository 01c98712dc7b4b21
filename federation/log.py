"""Structured logs: one JSON object a line in a file, a readable line on a terminal, no secrets.

Nothing global is configured: `open_log` makes a logger, and whoever logs is given it.

Source: house rules 14 and 21.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, TextIO

import structlog
from structlog.typing import FilteringBoundLogger

FILE_MAX_BYTES: Final = 50 * 1024 * 1024
VALUE_MAX_CHARACTERS: Final = 4_000
HIDDEN: Final = "…"
_SECRET_WORDS: Final = frozenset(
    {
        "secret",
        "private",
        "passphrase",
        "password",
        "seed",
        "mnemonic",
        "entropy",
        "cookie",
        "authorization",
        "blinder",
        "blinding",
        "token",
    }
)


class LogFile:
    """A file of lines, opened for appending, closed to others.

    A full or broken disk costs log lines, never the process. Above 50 MB the file becomes
    `<name>.1`, replacing the one before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lost = 0
        self._file = self._open()

    def write_line(self, line: str) -> None:
        """Append one line."""
        try:
            if self._file.tell() > FILE_MAX_BYTES:
                self._file.close()
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
                self._file = self._open()
            self._file.write(line + "\n")
            self._file.flush()
        except (OSError, ValueError):
            self._lost += 1

    @property
    def lost_lines(self) -> int:
        """Lines the disk did not take."""
        return self._lost

    def close(self) -> None:
        """Close the file; later lines are lost."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _open(self) -> TextIO:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        file = os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")
        file.seek(0, os.SEEK_END)
        return file


class Log:
    """A logger with the file behind it."""

    def __init__(self, logger: FilteringBoundLogger, file: LogFile | None) -> None:
        self.logger = logger
        self._file = file

    @property
    def lost_lines(self) -> int:
        """Lines the disk did not take."""
        return 0 if self._file is None else self._file.lost_lines

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def open_log(
    process: str,
    *,
    path: Path | None = None,
    terminal: TextIO | None = None,
    level: int = logging.INFO,
) -> Log:
    """A logger that writes to a file, a terminal, both or neither.

    Args:
        process: who speaks, such as "m0"; a field of every line.
        path: file of JSON lines.
        terminal: stream for people; colours only when it is a terminal.
        level: least level that is written, a `logging` number.
    Raises:
        OSError: the file cannot be opened.
    """
    file = LogFile(path) if path is not None else None
    sink = _Sink(file, terminal)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        sink,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.processors.add_log_level,
            _stamp,
            structlog.processors.format_exc_info,
            hide_secrets,
            _as_event,
        ],
        cache_logger_on_first_use=False,
        context_class=dict,
        process=process,
    )
    return Log(logger, file)


def follow_stdlib(log: Log, level: int = logging.WARNING) -> logging.Handler:
    """A handler that passes records of the standard library's logging on, for the root logger."""
    return _Forwarder(log.logger, level)


def hide_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make every value plain text or number, bytes as hex, and hide what is named like a secret."""
    for name, value in list(event.items()):
        event[name] = HIDDEN if _names_secret(name) else _plain(value)
    return event


class _Sink:
    """What structlog calls at the end: one method for every level."""

    def __init__(self, file: LogFile | None, terminal: TextIO | None) -> None:
        self._file = file
        self._terminal = terminal
        colours = terminal is not None and terminal.isatty()
        self._render = structlog.dev.ConsoleRenderer(colors=colours)

    def write(self, event: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write_line(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
        if self._terminal is not None:
            shown = {k: v for k, v in event.items() if k != "time"}
            shown["timestamp"] = event["time"][11:23]
            with contextlib.suppress(OSError, ValueError):
                self._terminal.write(str(self._render(None, "", shown)) + "\n")
                self._terminal.flush()

    debug = info = warning = warn = error = exception = critical = fatal = msg = write


class _Forwarder(logging.Handler):
    def __init__(self, logger: FilteringBoundLogger, level: int) -> None:
        super().__init__(level)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"source": record.name}
        if record.exc_info:
            facts["exc_info"] = record.exc_info
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        self._logger.log(record.levelno, message, **facts)


def _stamp(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    now_ms = time.time_ns() // 1_000_000
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ms // 1000))
    ordered = {"time": f"{text}.{now_ms % 1000:03d}Z", "level": event.pop("level")}
    ordered["event"] = event.pop("event")
    return {**ordered, **event}


def _as_event(
    _: Any, __: str, event: MutableMapping[str, Any]
) -> tuple[tuple[Any], dict[str, Any]]:
    return (dict(event),), {}


def _names_secret(name: str) -> bool:
    return not _SECRET_WORDS.isdisjoint(name.lower().split("_"))


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case bytes() | bytearray():
            return _short(bytes(value[: VALUE_MAX_CHARACTERS // 2]).hex())
        case str():
            return _short(value)
        case Mapping():
            return {
                str(k): HIDDEN if _names_secret(str(k)) else _plain(v) for k, v in value.items()
            }
        case list() | tuple():
            return [_plain(item) for item in value]
        case set() | frozenset():
            return sorted((_plain(item) for item in value), key=str)
        case _:
            return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= VALUE_MAX_CHARACTERS else text[:VALUE_MAX_CHARACTERS] + HIDDEN


def terminal_of_process() -> TextIO | None:
    """Standard error when a person is looking at it, else None."""
    return sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None
