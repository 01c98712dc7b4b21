"""The command `sidechaind`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sidechain import runtime
from sidechain.api.rpc_node import SUBVERSION
from sidechain.daemon.background import into_background
from sidechain.daemon.chain_options import params_from_settings
from sidechain.daemon.datadir import LOGGER, close_log, locked, open_log, process_id_file
from sidechain.daemon.node_options import (
    NodeOptions,
    data_folder,
    is_background,
    node_options,
)
from sidechain.daemon.options import help_text
from sidechain.daemon.process import Node, StartFailed
from sidechain.daemon.settings import OptionError, Settings
from sidechain.errors import InvalidEncoding
from sidechain.params import ChainParams

_HELP_NAMES = ("?", "h", "help", "help-debug")


def main(words: Sequence[str] | None = None) -> int:
    """Run `sidechaind` with the words of the command line; the exit code."""
    given = sys.argv[1:] if words is None else words
    try:
        settings = Settings.from_command_line(given)
        if any(settings.is_set(name) for name in _HELP_NAMES):
            print(f"{_version_line()}\n\n{help_text()}")
            return 0
        if settings.flag("version", False):
            print(_version_line())
            return 0
        folder = _read(settings)
        params = params_from_settings(settings)
        options = node_options(settings, folder, params)
        settings.check()
    except (OptionError, InvalidEncoding) as error:
        return _failed(error)
    for warning in settings.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    logged = (*settings.warnings, *settings.notes)
    if not is_background(settings):
        return _run(params, options, logged)
    return into_background(
        lambda ready: _run(params, options, logged, ready),
        wait=settings.flag("daemonwait", False),
    )


def _read(settings: Settings) -> Path:
    """Read the files and select the chain; the data folder."""
    folder = data_folder(settings)
    settings.read_files(folder)
    settings.select_chain()
    if settings.text("datadir") and not settings.command_line.get("datadir"):
        # The file may name another folder, but not another file.
        folder = data_folder(settings)
    return folder


def _run(
    params: ChainParams,
    options: NodeOptions,
    warnings: Sequence[str],
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    try:
        with locked(options.folder), process_id_file(options.pid_path):
            open_log(options.log_path, console=options.log_to_console, shrink=options.shrink_log)
            try:
                LOGGER.info("%s", _version_line())
                for warning in warnings:
                    LOGGER.warning("Warning: %s", warning)
                runtime.run(_started(params, options, on_ready))
            finally:
                close_log()
    except (OptionError, StartFailed) as error:
        return _failed(error)
    return 0


async def _started(params: ChainParams, options: NodeOptions, on_ready: Callable[[], None]) -> None:
    await Node(params, options, on_ready=on_ready).run()


def _failed(error: Exception) -> int:
    text = error.reason if isinstance(error, InvalidEncoding) else str(error)
    print(f"Error: {text}", file=sys.stderr, flush=True)
    return 1


def _version_line() -> str:
    return f"sidechaind of {SUBVERSION.strip('/')}"
