"""Puts a mutant into modules that are imported already, in a process that ends with it."""

import ast
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.mutation.mutants import Mutant, mutated


def implant(module: ModuleType, source: str, mutant: Mutant) -> None:
    """Change the module for the rest of this process.

    In the body of a function only its code is replaced, so that whoever imported the function has
    the change too. Elsewhere the statement runs again, and its names are bound anew in every module
    that imported them; what was computed from them at import keeps the old value.
    """
    tree = mutated(source, mutant.number)
    if mutant.in_code:
        # the outermost function, which holds those inside it
        function = _function(module, mutant.place)
        codes = _codes(compile(tree, module.__file__ or "", "exec"))
        function.__code__ = codes[function.__qualname__]
        return
    statement = ast.Module([tree.body[mutant.top]], [])
    before = dict(vars(module))
    exec(compile(statement, module.__file__ or "", "exec"), vars(module))
    for name, new in list(vars(module).items()):
        old = before.get(name)
        if name in before and old is not new:
            _rebind(name, old, new)


def _function(module: ModuleType, place: str) -> FunctionType:
    found: Any = module
    for name in place.split("."):
        found = vars(found)[name]
        found = getattr(found, "fget", None) or getattr(found, "__func__", None) or found
        found = getattr(found, "__wrapped__", found)
        if isinstance(found, FunctionType):
            return found
    raise LookupError(place)


def _codes(code: CodeType) -> dict[str, CodeType]:
    found = {code.co_qualname: code}
    for item in code.co_consts:
        if isinstance(item, CodeType):
            found |= _codes(item)
    return found


def _rebind(name: str, old: object, new: object) -> None:
    for module in list(sys.modules.values()):
        values = getattr(module, "__dict__", {})
        if isinstance(values, dict) and values.get(name) is old:
            values[name] = new
