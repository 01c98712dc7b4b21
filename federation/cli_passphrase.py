"""Passphrases of wallets: from a file, the environment or a prompt, never from an argument."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import click

from federation.cli_session import Failed
from sidechain.api.client import RpcClient, RpcError
from sidechain.errors import Unavailable

VARIABLE = "FEDPEG_PASSPHRASE"
UNLOCK_S = 60
UNLOCK_WAITING_S = 24 * 3_600

passphrase_file_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"File whose first line is the wallet's passphrase. [or ${VARIABLE}, or a prompt]",
)


def given_passphrase(file: Path | None) -> str | None:
    """The passphrase that was handed in without asking, None when none was.

    Raises:
        Failed: the file is empty or cannot be read.
    """
    if file is not None:
        try:
            first = file.read_text().partition("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise Failed(f"cannot read {file}: {error}") from error
        if not first:
            raise Failed(f"{file} holds no passphrase in its first line")
        return first
    return os.environ.get(VARIABLE) or None


def new_passphrase(file: Path | None, *, encrypt: bool) -> str:
    """Passphrase for a new wallet, empty for a wallet that is not encrypted.

    Raises:
        Failed: one is wanted, none was given, and there is nobody to ask.
    """
    given = given_passphrase(file)
    if given is not None:
        return given
    if not encrypt:
        return ""
    if not sys.stdin.isatty():
        raise Failed(f"no terminal to ask for a passphrase: set {VARIABLE} or --passphrase-file")
    return _ask("Passphrase", confirm=True)


def mnemonic_words(file: Path | None) -> str:
    """The words of a mnemonic, from a file or the terminal, never from an argument.

    Raises:
        Failed: the file is empty or cannot be read, or there is none and nobody to ask.
    """
    if file is None:
        if not sys.stdin.isatty():
            raise Failed("no terminal to ask for the words: give --mnemonic-file")
        return _ask("Mnemonic", confirm=False)
    try:
        words = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Failed(f"cannot read {file}: {error}") from error
    if not words.strip():
        raise Failed(f"{file} holds no words")
    return words


def _ask(text: str, *, confirm: bool) -> str:
    """Ask on the terminal. The event loop stands still meanwhile, so signals must act directly."""
    at_once: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in at_once.items()}
    try:
        answer: str = click.prompt(text, hide_input=True, confirmation_prompt=confirm, err=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return answer


@asynccontextmanager
async def unlocked(
    wallets: RpcClient, name: str, file: Path | None, *, waiting: bool = False
) -> AsyncIterator[None]:
    """Keep a wallet unlocked inside the block; nothing for one that is not locked.

    Args:
        waiting: the block waits for both chains, so the wallet stays unlocked for up to a day.
    Raises:
        Failed: the passphrase is needed and there is nobody to ask.
        RpcError: it is the wrong one, or there is no such wallet.
    """
    info = await wallets.call("getwalletinfo", name)
    if not info["locked"]:
        yield
        return
    passphrase = given_passphrase(file)
    if passphrase is None:
        if not sys.stdin.isatty():
            raise Failed(f"wallet {name} is locked: set {VARIABLE} or --passphrase-file")
        passphrase = _ask(f"Passphrase of {name}", confirm=False)
    seconds = UNLOCK_WAITING_S if waiting else UNLOCK_S
    await wallets.call("walletpassphrase", name, passphrase, seconds)
    try:
        yield
    finally:
        with suppress(RpcError, Unavailable):
            await wallets.call("walletlock", name)
