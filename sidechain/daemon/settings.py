"""What the user set: the command line and `elements.conf`, read as elementsd reads them.

Forms: `-name=value`, `-name`, `-noname`, `--name=value`. The command line beats the file, a
section `[chain]` of the file beats its top. Of one option given several times the last counts on
the command line and the first in a file; those that are lists take them all.

Source: clients.md 2, elements/interfaces.md 6.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sidechain.daemon.options import OPTIONS, Role
from sidechain.errors import InvalidEncoding

CONF_NAME = "elements.conf"
MAX_CONF_BYTES = 1_000_000
RESERVED_CHAINS = frozenset(
    ["main", "test", "testnet4", "signet", "regtest", "liquidv1", "liquidv1test", "liquidtestnet"]
)
_CHAIN_FLAGS = ("regtest", "signet", "testnet", "testnet4")
_LEADING_NUMBER = re.compile(r"\s*([+-]?\d{1,18})")
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_NUMBER = re.compile(r"[+-]?\d{1,18}")
_AMOUNT = re.compile(r"(\d{0,8})(?:\.(\d{0,8}))?")

Value = str | bool
"""What one occurrence says: text, False when negated, True when negated twice."""


class OptionError(InvalidEncoding):
    """An option, or the file of them, that the node does not start with."""


@dataclass(slots=True)
class Settings:
    """All values, by where they came from. Filled at start, read afterwards."""

    command_line: dict[str, list[Value]] = field(default_factory=dict)
    file: dict[str, dict[str, list[Value]]] = field(default_factory=dict)
    section: str = ""
    """Name of the chain, once it is known: the section of the file that counts."""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Warnings for the log alone: elementsd says nothing of the kind on its standard error."""

    @classmethod
    def from_command_line(cls, words: Sequence[str]) -> "Settings":
        """Read the words behind the program's name.

        Raises:
            OptionError: with elementsd's text.
        """
        settings = cls()
        for word in words:
            if not word.startswith("-"):
                raise OptionError(
                    f"Command line contains unexpected token '{word}',"
                    " see sidechaind -h for a list of options."
                )
            shown = word[1:] if word.startswith("--") else word
            key, equals, text = shown[1:].partition("=")
            name, negated = _name_of(key)
            if name not in OPTIONS:
                raise OptionError(f"Error parsing command line arguments: Invalid parameter {word}")
            try:
                value = _value_of(name, negated, text if equals else None)
            except OptionError as error:
                raise OptionError(
                    f"Error parsing command line arguments: {error.reason}"
                ) from error
            settings.command_line.setdefault(name, []).append(value)
        includes = settings.command_line.get("includeconf", [])
        for value in includes:
            if value is not False:
                raise OptionError(
                    "Error parsing command line arguments: -includeconf cannot be used from"
                    f' commandline; -includeconf="{value}"'
                )
        return settings

    def read_files(self, folder: Path) -> None:
        """Read the configuration file of a data folder, and what it includes.

        Raises:
            OptionError: unreadable, or a line with a fault.
        """
        named = self.text("conf")
        if named == "0" and self.is_negated("conf"):
            return
        path = folder / (named or CONF_NAME)
        if path.is_dir():
            raise _file_error(f'Config file "{path}" is a directory.')
        if not path.is_file():
            if named:
                raise _file_error(f'specified config file "{path}" could not be opened.')
            return
        self._read_file(path)
        self._check_hidden(folder / CONF_NAME, path)
        if self.is_negated("includeconf"):
            return
        for include in self._includes():
            self._read_include(folder / include)
        # What included files include is not read.

    def _check_hidden(self, usual: Path, read: Path) -> None:
        """Refuse to leave out the folder's own file unseen."""
        if not usual.exists() or usual.samefile(read):
            return
        text = (
            f'Data directory "{usual.parent}" contains a "{CONF_NAME}" file which is ignored,'
            f' because a different configuration file "{read}" from command line argument'
            f' "-conf={self.text("conf")}" is being used instead.'
        )
        if not self.flag("allowignoredconf", False):
            raise OptionError(
                f"{text} Delete or rename one of them, use includeconf= in one of them, or set"
                " allowignoredconf=1 to be warned only."
            )
        self.warnings.append(text)

    def select_chain(self) -> str:
        """Decide the chain, and with it the section of the file that counts.

        Raises:
            OptionError: none named, several named, or one this program does not run.
        """
        chosen = self.text("chain")
        flags = [name for name in _CHAIN_FLAGS if self.flag(name, False)]
        if len(flags) + (chosen is not None) > 1:
            raise OptionError(
                "Invalid combination of -regtest, -signet, -testnet, -testnet4 and -chain."
                " Can use at most one."
            )
        if flags or chosen is None or chosen in RESERVED_CHAINS:
            raise OptionError(
                f"chain {(flags or [chosen or 'liquidv1'])[0]} is not supported: only custom"
                " chains are, name one with -chain"
            )
        if not chosen or "/" in chosen or chosen in (".", ".."):
            raise OptionError(f"-chain={chosen} cannot be the name of a folder")
        self.section = chosen
        return chosen

    def check(self) -> None:
        """Refuse what must not be ignored; remember a warning for what means nothing here.

        Raises:
            OptionError: a refused option, or one that counts only in the section of its chain.
        """
        for name, option in OPTIONS.items():
            if option.own_section and self._is_only_in_default_section(name):
                raise OptionError(
                    f"Config setting for -{name} only applied on {self.section} network when in"
                    f" [{self.section}] section."
                )
            if not self.is_set(name):
                continue
            if option.role is Role.REFUSED and not self.is_negated(name) and self.text(name) != "0":
                raise OptionError(f"-{name} is not supported: {option.help}")
            if option.role is Role.NOTHING:
                self.notes.append(f"option -{name} has no effect: {option.help}")

    def is_set(self, name: str) -> bool:
        """Whether the option has a value, negated or not."""
        return self._last(name) is not None

    def is_negated(self, name: str) -> bool:
        """Whether `-noname` has the last word."""
        return self._last(name) is False

    def text(self, name: str) -> str | None:
        """The value as text, None when it is not set; "0" when it is negated."""
        return _as_text(self._last(name))

    def flag(self, name: str, default: bool) -> bool:
        """The value as elementsd reads booleans: empty is true, else its leading number."""
        value = self._last(name)
        if value is None or isinstance(value, bool):
            return default if value is None else value
        if value == "":
            return True
        found = _LEADING_NUMBER.match(value)
        return found is not None and int(found[1]) != 0

    def integer(self, name: str, default: int) -> int:
        """The value as a whole number.

        Raises:
            OptionError: it is none. (elementsd takes the digits at its start, or 0.)
        """
        text = self.text(name)
        if text is None:
            return default
        if not _NUMBER.fullmatch(text):
            raise OptionError(f"-{name}={text} is not a whole number")
        return int(text)

    def amount_sats(self, name: str, default: int) -> int:
        """The value in coins with up to eight decimals, as satoshis.

        Raises:
            OptionError: malformed.
        """
        text = self.text(name)
        if text is None:
            return default
        found = _AMOUNT.fullmatch(text.strip())
        if found is None or not (found[1] or found[2]):
            raise OptionError(f"Invalid amount for -{name}=<amount>: '{text}'")
        return int(found[1] or "0") * 100_000_000 + int((found[2] or "").ljust(8, "0"))

    def hex_bytes(self, name: str, default: bytes) -> bytes:
        """The value in hex.

        Raises:
            OptionError: malformed.
        """
        text = self.text(name)
        if text is None:
            return default
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise OptionError(f"-{name}={text} is not hex") from error

    def hash(self, name: str, default: bytes) -> bytes:
        """The value as 32 bytes in display order, returned in internal order.

        Raises:
            OptionError: malformed. (Zeros at the start may be left out only behind `0x`.)
        """
        text = self.text(name)
        if text is None:
            return default
        digits = text[2:].rjust(64, "0") if text.startswith("0x") else text
        if not _HASH.fullmatch(digits):
            raise OptionError(f"-{name}={text} is not a hash")
        return bytes.fromhex(digits)[::-1]

    def all(self, name: str) -> list[str]:
        """Every value of an option that is a list: command line first."""
        found: list[str] = []
        done = emptied = False
        for values, is_file, is_default in self._spans(name):
            if is_default and OPTIONS[name].own_section:
                continue
            after = _after_negation(values)
            if not done or (is_file and not emptied):
                found += [_as_text(value) or "" for value in values[after:]]
            done = done or after > 0
            emptied = emptied or (bool(values) and values[-1] is False and not found)
        return found

    def _last(self, name: str) -> Value | None:
        """The one value that counts.

        A negation in the top of a file counts also for an option that belongs into a section.
        """
        for values, is_file, is_default in self._spans(name):
            if not values:
                continue
            if values[-1] is False:
                return False
            if is_default and OPTIONS[name].own_section:
                continue
            return values[_after_negation(values)] if is_file else values[-1]
        return None

    def _spans(self, name: str) -> Iterator[tuple[list[Value], bool, bool]]:
        """Values by source, most important first: values, from a file, from its top."""
        yield self.command_line.get(name, []), False, False
        if self.section:
            yield self.file.get(self.section, {}).get(name, []), True, False
        yield self.file.get("", {}).get(name, []), True, True

    def _is_only_in_default_section(self, name: str) -> bool:
        top = other = False
        for values, _, is_default in self._spans(name):
            if values and values[-1] is not False:
                top, other = top or is_default, other or not is_default
        return top and not other

    def _includes(self) -> list[str]:
        """Files to include: of the chain's section first, then those named at the top."""
        chain = self.text("chain") or ""
        names = [*self.file.get(chain, {}).get("includeconf", [])] if chain else []
        names += self.file.get("", {}).get("includeconf", [])
        return [value for value in names if isinstance(value, str)]

    def _read_include(self, path: Path) -> None:
        if path.is_dir():
            raise _file_error(f'Included config file "{path}" is a directory.')
        if not path.is_file():
            raise _file_error(f"Failed to include configuration file {path.name}")
        before = {section: len(names.get("includeconf", [])) for section, names in self._sections()}
        self._read_file(path)
        for section, names in self._sections():
            for value in names.get("includeconf", [])[before.get(section, 0) :]:
                self.warnings.append(
                    "-includeconf cannot be used from included files; ignoring"
                    f" -includeconf={value}"
                )

    def _sections(self) -> list[tuple[str, Mapping[str, list[Value]]]]:
        return list(self.file.items())

    def _read_file(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_CONF_BYTES + 1)
            text = raw.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise _file_error(f'config file "{path}" could not be read: {error}') from error
        if len(raw) > MAX_CONF_BYTES:
            raise _file_error(f'config file "{path}" is larger than {MAX_CONF_BYTES} bytes')
        for section, name, negated, value in _lines(text):
            if name == "conf":
                raise _file_error(
                    "conf cannot be set in the configuration file; use includeconf= if you want"
                    " to include additional config files"
                )
            if name not in OPTIONS:
                shown = f"{section}.{name}" if section else name
                self.notes.append(f"Ignoring unknown configuration value {shown}")
                continue
            try:
                known = _value_of(name, negated, value)
            except OptionError as error:
                raise _file_error(error.reason) from error
            self.file.setdefault(section, {}).setdefault(name, []).append(known)


def _lines(text: str) -> Iterator[tuple[str, str, bool, str]]:
    """Section, name, whether negated, and value of every setting of a file."""
    prefix = ""
    for number, raw in enumerate(text.split("\n"), 1):
        line, hash_sign, _ = raw.partition("#")
        line = line.strip(" \t\r\n")
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            prefix = line[1:-1] + "."
            continue
        if line.startswith("-"):
            raise _file_error(
                f"parse error on line {number}: {line}, options in configuration file must be"
                " specified without leading -"
            )
        key, equals, value = line.partition("=")
        if not equals:
            hint = f", if you intended to specify a negated option, use {line}=1 instead"
            raise _file_error(
                f"parse error on line {number}: {line}" + (hint if line[:2] == "no" else "")
            )
        key, value = prefix + key.strip(" \t\r\n"), value.strip(" \t\r\n")
        if hash_sign and "rpcpassword" in key:
            raise _file_error(
                f"parse error on line {number}, using # in rpcpassword can be ambiguous and"
                " should be avoided"
            )
        section, dot, rest = key.partition(".")
        name, negated = _name_of(rest if dot else key)
        yield section if dot else "", name, negated, value


def _name_of(key: str) -> tuple[str, bool]:
    """The option a key names, and whether it is negated by a leading "no"."""
    return (key[2:], True) if key.startswith("no") else (key, False)


def _value_of(name: str, negated: bool, text: str | None) -> Value:
    option = OPTIONS[name]
    if negated:
        if option.no_negation:
            raise OptionError(f"Negating of -{name} is meaningless and therefore forbidden")
        found = _LEADING_NUMBER.match(text or "")
        is_zero = bool(text) and (found is None or int(found[1]) == 0)
        return is_zero
    if text is None and option.needs_value:
        raise OptionError(
            f"Can not set -{name} with no value. Please specify value with -{name}=value."
        )
    return text or ""


def _after_negation(values: Sequence[Value]) -> int:
    """Position behind the last negation."""
    return max((at + 1 for at, value in enumerate(values) if value is False), default=0)


def _as_text(value: Value | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return "1" if value else "0"


def _file_error(text: str) -> OptionError:
    return OptionError(f"Error reading configuration file: {text}")
