"""The logs of several processes as one: by time, readable or as the JSON lines they are."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLLOW_POLL_S = 0.2
TAIL_BYTES_MAX = 8_000_000


def print_logs(paths: Mapping[str, Path], lines: int, *, as_json: bool) -> dict[str, int]:
    """Print the newest lines of all logs in the order of their time.

    Returns:
        Where each log ended, to follow it from there.
    """
    ends: dict[str, int] = {}
    found: list[tuple[str, str]] = []
    for name, path in paths.items():
        text, ends[name] = _read(path, 0)
        found += [(name, line) for line in text.splitlines()]
    _print(sorted(found, key=_time_of)[-lines:] if lines else [], as_json)
    return ends


async def follow_logs(paths: Mapping[str, Path], ends: dict[str, int], *, as_json: bool) -> None:
    """Print what is added, until cancelled. A log that was begun anew is read from its start."""
    while True:
        await asyncio.sleep(FOLLOW_POLL_S)
        found: list[tuple[str, str]] = []
        for name, path in paths.items():
            text, ends[name] = _read(path, ends[name])
            found += [(name, line) for line in text.splitlines()]
        _print(sorted(found, key=_time_of), as_json)


def _read(path: Path, start: int) -> tuple[str, int]:
    """Whole lines from a place on, and the place after them."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if start > size:
                start = 0
            cut = max(start, size - TAIL_BYTES_MAX)
            file.seek(cut)
            data = file.read()
    except OSError:
        return "", start
    if cut > start:
        data = data[data.find(b"\n") + 1 :]
    end = data.rfind(b"\n") + 1
    return data[:end].decode(errors="replace"), size - (len(data) - end)


def _time_of(entry: tuple[str, str]) -> str:
    event = _parse(entry[1])
    return str(event.get("time", "")) if event else entry[1][:20]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _print(entries: Iterable[tuple[str, str]], as_json: bool) -> None:
    for name, line in entries:
        event = _parse(line)
        if as_json:
            shown = line if event else json.dumps({"process": name, "text": line})
        elif event is None:
            shown = f"{name:<8} {line}"
        else:
            shown = _readable(name, event)
        print(shown, flush=True)


def _readable(name: str, event: dict[str, Any]) -> str:
    known = ("time", "level", "event", "process")
    facts = " ".join(f"{key}={_short(value)}" for key, value in event.items() if key not in known)
    time = str(event.get("time", ""))[11:23]
    level = str(event.get("level", ""))
    marked = "" if level in ("info", "debug") else f"{level.upper()} "
    return (
        f"{time} {event.get('process', name):<7} {marked}{event.get('event', '')} {facts}".rstrip()
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else text[:200] + "…"
