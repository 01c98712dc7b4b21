"""Small wrong changes of a source file, one at a time: what mutation testing tries.

Changed are numbers, comparisons, connectives, conditions and arithmetic; statements that refuse, or
call something for what it does, are left out. Texts, annotations and docstrings stay as they are.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_UNTOUCHED_FIELDS = ("annotation", "decorator_list", "returns", "type_params")
_CHECKS_OF_THE_CALL = ("strict", "kw_only")
"""Keywords that only make a wrong call fail."""


Change = Callable[[], Callable[[], None]]
"""Changes the tree; what it returns undoes that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change of one module.

    Attributes:
        name: file, place and change; the same as long as the statement is.
        number: its place among all mutants of the module.
        place: qualified name of the function or class it is in; empty at the top.
        line: the line that is changed.
        lines: first and last line of its statement, or of the head of one that holds others.
        top: which statement of the module it is in.
        in_code: whether it is in the body of a function.
    """

    name: str
    number: int
    place: str
    line: int
    lines: tuple[int, int]
    top: int
    in_code: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spot:
    """A node with its surroundings; `put` writes another into its place."""

    node: ast.AST
    put: Callable[[ast.AST], None]
    statement: ast.stmt
    place: str
    top: int
    in_code: bool


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a module."""
    tree = ast.parse(source)
    seen: dict[str, int] = {}
    found = []
    for number, (spot, change) in enumerate(_all_changes(tree)):
        before = ast.unparse(spot.statement)
        undo = change()
        before, after = _difference(before, ast.unparse(spot.statement))
        undo()
        if isinstance(spot.node, ast.Continue):
            after = "break"
        text = f"`{before}` left out" if before == after else f"`{before}` as `{after}`"
        name = f"{file} {spot.place or '(module)'}: {text}"
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name += f" ({seen[name]})"
        found.append(
            Mutant(
                name=name,
                number=number,
                place=spot.place,
                line=getattr(spot.node, "lineno", spot.statement.lineno),
                lines=_lines(spot.statement),
                top=spot.top,
                in_code=spot.in_code,
            )
        )
    return found


def mutated(source: str, number: int) -> ast.Module:
    """The module with one change."""
    tree = ast.parse(source)
    for position, (_, change) in enumerate(_all_changes(tree)):
        if position == number:
            change()
            return ast.fix_missing_locations(tree)
    raise IndexError(number)


def _lines(statement: ast.stmt) -> tuple[int, int]:
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno or statement.lineno
    return statement.lineno, max(last, statement.lineno)


def _difference(before: str, after: str) -> tuple[str, str]:
    """The first line that changed; the first line of all where the text is the same."""
    pairs = list(zip(before.split("\n"), after.split("\n"), strict=False))
    old, new = next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
    return old.strip(), new.strip()


def _all_changes(tree: ast.Module) -> Iterator[tuple[_Spot, Change]]:
    for spot in list(_spots(tree)):
        for change in _changes(spot):
            yield spot, change


def _spots(tree: ast.Module) -> Iterator[_Spot]:
    for top, statement in enumerate(tree.body):
        yield from _below(statement, statement, (), top, in_code=False)


def _below(
    node: ast.AST, statement: ast.stmt, scopes: tuple[str, ...], top: int, *, in_code: bool
) -> Iterator[_Spot]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        scopes = (*scopes, node.name)
    for name, value in ast.iter_fields(node):
        if name in _UNTOUCHED_FIELDS or getattr(node, "arg", None) in _CHECKS_OF_THE_CALL:
            continue
        code = in_code or (isinstance(node, ast.FunctionDef) and name == "body")
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST):
                continue
            around = child if isinstance(child, ast.stmt) else statement
            yield _Spot(
                node=child,
                put=_putter(node, name, index),
                statement=around,
                place=".".join(scopes),
                top=top,
                in_code=code,
            )
            yield from _below(child, around, scopes, top, in_code=code)


def _putter(parent: ast.AST, name: str, index: int) -> Callable[[ast.AST], None]:
    def put(new: ast.AST) -> None:
        value = getattr(parent, name)
        if isinstance(value, list):
            value[index] = new
        else:
            setattr(parent, name, new)

    return put


def _changes(spot: _Spot) -> Iterator[Change]:
    """All changes of one node."""
    node = spot.node
    match node:
        case ast.Compare():
            for index, op in enumerate(node.ops):
                for other in _COMPARISONS[type(op)]:
                    yield _setter(node, "ops", _with(node.ops, index, other()))
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield _setter(node, "op", other)
        case ast.UnaryOp(op=ast.Not()):
            yield _replacer(spot, node.operand)
        case ast.BinOp() | ast.AugAssign() if type(node.op) in _ARITHMETIC:
            yield _setter(node, "op", _ARITHMETIC[type(node.op)]())
        case ast.Constant(value=bool()):
            yield _setter(node, "value", not node.value)
        case ast.Constant(value=int()):
            yield _setter(node, "value", node.value + 1)
            yield _setter(node, "value", node.value - 1)
        case ast.If() | ast.While() | ast.IfExp():
            if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
                yield _setter(node, "test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Continue():
            yield _replacer(spot, ast.Break())
        case ast.Raise() | ast.Expr(value=ast.Call()):
            yield _replacer(spot, ast.Pass())


def _with(items: list[ast.cmpop], index: int, new: ast.cmpop) -> list[ast.cmpop]:
    return [*items[:index], new, *items[index + 1 :]]


def _setter(node: ast.AST, name: str, new: object) -> Change:
    def change() -> Callable[[], None]:
        old = getattr(node, name)
        setattr(node, name, new)
        return lambda: setattr(node, name, old)

    return change


def _replacer(spot: _Spot, new: ast.AST) -> Change:
    def change() -> Callable[[], None]:
        spot.put(ast.copy_location(new, spot.node))
        return lambda: spot.put(spot.node)

    return change
