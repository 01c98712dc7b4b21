"""The methods an RPC server offers, and how parameters reach them.

A handler is a plain or async function whose parameter names are the method's named parameters.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CoroutineType
from typing import Any

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
PARSE_ERROR = -32700
MISC_ERROR = -1
TYPE_ERROR = -3
INVALID_ADDRESS_OR_KEY = -5
INVALID_PARAMETER = -8
DATABASE_ERROR = -20
DESERIALIZATION_ERROR = -22
VERIFY_ERROR = -25
VERIFY_REJECTED = -26
VERIFY_ALREADY_IN_CHAIN = -27
IN_WARMUP = -28

type_names: Mapping[type, str] = {
    type(None): "null",
    bool: "bool",
    str: "string",
    dict: "object",
    list: "array",
}


class RpcError(Exception):
    """An error reply. Codes are elementsd's (elements/interfaces.md 1)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} (code {self.code})"


class WrongType(RpcError):
    """A JSON value of another type than is needed; `value` says which."""

    def __init__(self, value: Any, wanted: str) -> None:
        given = type_names.get(type(value), "number")
        text = f"JSON value of type {given} is not of expected type {wanted}"
        super().__init__(TYPE_ERROR, text)
        self.value = value


Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC method: its handler, its help text and its parameters in order."""

    name: str
    handler: Handler
    summary: str
    parameters: tuple[str, ...]
    required: int
    aliases: Mapping[str, str]

    @property
    def usage(self) -> str:
        """First line of the help: the method, its parameters, the optional ones in parentheses."""
        words = [self.name, *self.parameters[: self.required]]
        optional = self.parameters[self.required :]
        return " ".join([*words, "(", *optional, ")"] if optional else words)

    @property
    def help(self) -> str:
        """The whole help text."""
        return f"{self.usage}\n\n{self.summary}"


@dataclass(slots=True)
class Registry:
    """Methods by name; filled at start by the owner, read by the server."""

    methods: dict[str, Method] = field(default_factory=dict)
    warmup: str | None = None
    """While the node starts: what it is doing. Every call is answered with it (IN_WARMUP)."""

    def add(
        self,
        name: str,
        handler: Handler,
        summary: str,
        *,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Offer `handler` as `name`.

        Args:
            handler: called with the parameters by position; returns JSON or an awaitable of it.
            aliases: other names of named parameters, alias to the handler's own name.
        Raises:
            ValueError: the name is taken, or the handler takes variable parameters.
        """
        if name in self.methods:
            raise ValueError(f"RPC method {name} is registered twice")
        parameters = inspect.signature(handler).parameters.values()
        if any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
            raise ValueError(f"RPC method {name} must take plain parameters")
        self.methods[name] = Method(
            name=name,
            handler=handler,
            summary=summary,
            parameters=tuple(p.name for p in parameters),
            required=sum(p.default is p.empty for p in parameters),
            aliases=dict(aliases or {}),
        )

    def method(self, name: str) -> Method:
        """The method of that name.

        Raises:
            RpcError: METHOD_NOT_FOUND.
        """
        found = self.methods.get(name)
        if found is None:
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        return found

    def begin(self, name: str, params: Sequence[Any] | Mapping[str, Any]) -> Any:
        """Run a method with positional or named parameters.

        Returns:
            Its result, or an awaitable of it where the method waits for something.
        Raises:
            RpcError: unknown method, parameters that do not fit, or the handler's own.
        """
        if self.warmup is not None:
            raise RpcError(IN_WARMUP, self.warmup)
        method = self.method(name)
        values = arguments(method, params)
        try:
            result = method.handler(*values)
        except WrongType as error:
            raise _in_place(error, method, values) from error
        if type(result) is CoroutineType:
            return _awaited(result, method, values)
        return result

    async def call(self, name: str, params: Sequence[Any] | Mapping[str, Any]) -> Any:
        """Run a method as `begin` does, to its end."""
        result = self.begin(name, params)
        if isinstance(result, Awaitable):
            result = await result
        return result

    def help(self, command: str | None = None) -> str:
        """Help of one method, or the usage lines of all, sorted."""
        if command:
            return self.method(command).help
        return "\n".join(self.methods[name].usage for name in sorted(self.methods))


def arguments(method: Method, params: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    """Parameters of one call by position; a named call may carry positional ones in `args`.

    Raises:
        RpcError: INVALID_PARAMETER for an unknown or doubled name, MISC_ERROR with the help text
            when there are too few or too many.
    """
    values = _positional(method, params) if isinstance(params, Mapping) else list(params)
    if not method.required <= len(values) <= len(method.parameters):
        raise RpcError(MISC_ERROR, method.help)
    return values


async def _awaited(result: Awaitable[Any], method: Method, values: Sequence[Any]) -> Any:
    try:
        return await result
    except WrongType as error:
        raise _in_place(error, method, values) from error


def _in_place(error: WrongType, method: Method, values: Sequence[Any]) -> RpcError:
    """The error as elementsd shows it where the value is a parameter, not a part of one."""
    for position, value in enumerate(values):
        if value is error.value:
            place = f'"Position {position + 1} ({method.parameters[position]})"'
            text = f'Wrong type passed:\n{{\n    {place}: "{error.message}"\n}}'
            return RpcError(TYPE_ERROR, text)
    return error


_ABSENT = object()


def _positional(method: Method, named: Mapping[str, Any]) -> list[Any]:
    rest = dict(named)
    leading = rest.pop("args", [])
    if not isinstance(leading, list):
        raise RpcError(INVALID_PARAMETER, "Parameter args must be an array")
    if len(leading) > len(method.parameters):
        raise RpcError(MISC_ERROR, method.help)
    slots: list[Any] = [*leading, *([_ABSENT] * (len(method.parameters) - len(leading)))]
    for key, value in rest.items():
        name = method.aliases.get(key, key)
        if name not in method.parameters:
            raise RpcError(INVALID_PARAMETER, f"Unknown named parameter {key}")
        position = method.parameters.index(name)
        if position < len(leading):
            raise RpcError(
                INVALID_PARAMETER,
                f"Parameter {key} specified twice both as positional and named argument",
            )
        if slots[position] is not _ABSENT:
            raise RpcError(INVALID_PARAMETER, f"Parameter {key} specified multiple times")
        slots[position] = value
    while slots and slots[-1] is _ABSENT:
        slots.pop()
    # What was left out before a given one is null; `arguments` counts, handlers look at types.
    return [None if slot is _ABSENT else slot for slot in slots]
