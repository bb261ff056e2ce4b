"""Gates: expressions over metrics that a model must satisfy, as `perplexity <= 40`.

Below: nothing. Above: `training` refuses what is no gate, the trainer judges by `judge_gate`, the
operator and the report say what came of it by `describe_result`.

    gate        comparisons joined by && and ||; && binds tighter; parentheses group
    comparison  sum (< | <= | > | >= | ==) sum
    sum         numbers and metrics joined by + - * /

Python's own parser reads the expression once its words are known to be metrics, numbers and
operators, with a placeholder for each metric, and only the nodes that these make are evaluated.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llmtrain_api.records import GateResult

MAX_GATES = 16
MAX_GATE_CHARACTERS = 200

_NAME = r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*"
_NUMBER = r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"

_SIDE = r"[\s(]*-?[\s(]*[a-z0-9][a-zA-Z0-9_.]*[\s)]*"
_SUM = rf"{_SIDE}(?:[-+*/]{_SIDE})*"
_COMPARISON = rf"{_SUM}(?:<=|<|>=|>|==){_SUM}"
GATE_PATTERN = rf"^{_COMPARISON}(?:(?:&&|\|\|){_COMPARISON})*$"
"""What a regular expression can say of a gate, for the server: not whether parentheses match."""

GATE_RULE = (
    "a gate compares metrics with numbers or metrics by <, <=, >, >= or ==, joined by && or ||, as "
    "perplexity <= 40 && bits_per_byte < unigram.bits_per_byte"
)

_TOKEN = re.compile(rf"\s*(?:({_NUMBER})|({_NAME})|(<=|>=|==|&&|\|\||[<>()+*/-]))")

_PYTHON = {"&&": "and", "||": "or"}

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}


@dataclass(frozen=True, slots=True)
class Gate:
    """An expression that has been read."""

    tree: ast.expr
    """Its nodes; the metric names[3] is the name _3."""

    names: tuple[str, ...]
    """The metrics in it, in their order."""

    comparisons: tuple[ast.Compare, ...]
    """Its comparisons, in their order."""


def parse_gate(text: str) -> Gate:
    """Read a gate.

    Raises:
        ValueError: it is none; the message says where and what is allowed.
    """
    names: list[str] = []
    words: list[str] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError(f"{text[position:].strip()!r} cannot be read: {GATE_RULE}")
        number, name, sign = token.groups()
        if name is not None:
            words.append(f"_{len(names)}")
            names.append(name)
        else:
            words.append(number or _PYTHON.get(sign, sign))
        position = token.end()
    try:
        tree = ast.parse(" ".join(words), mode="eval").body
        comparisons = tuple(_list_comparisons(tree))
    except (SyntaxError, TypeError):
        raise ValueError(f"cannot be read: {GATE_RULE}") from None
    return Gate(tree, tuple(names), comparisons)


def check_names(gate: Gate, known: Collection[str]) -> None:
    """Refuse a gate with a metric that there is not.

    Raises:
        ValueError: names it, what exists, and what was probably meant.
    """
    for name in gate.names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"unknown metric {name}; known here: {', '.join(known)}{hint}")


def judge_gate(text: str, metrics: Mapping[str, float | None]) -> GateResult:
    """Evaluate a gate.

    Args:
        text: a gate that `parse_gate` takes.
        metrics: what was measured, by name. A gate fails where it names another metric, or one
            that is None, infinite or not a number, even if another part of it holds.
    """
    gate = parse_gate(text)
    values = []
    for name in gate.names:
        value = metrics.get(name)
        if value is None or not math.isfinite(value):
            return GateResult(passed=False, missing=name)
        values.append(float(value))
    passed, decisive = _decide(gate.tree, values)
    value, limit = (
        side if math.isfinite(side) else None
        for side in (_compute(decisive.left, values), _compute(decisive.comparators[0], values))
    )
    index = gate.comparisons.index(decisive)
    return GateResult(passed=passed, comparison=index, value=value, limit=limit)


def describe_result(text: str, result: GateResult) -> str:
    """Say what the comparison that decided came to, and by how much."""
    if result.missing is not None:
        return f"{result.missing} was not measured, or is no number"
    gate = parse_gate(text)
    comparison = gate.comparisons[result.comparison]
    left, right = (
        _write(side, gate.names) for side in (comparison.left, comparison.comparators[0])
    )
    if result.value is None or result.limit is None:
        return f"{left if result.value is None else right} is no number"
    limit = f"{result.limit:.5g}"
    if "_" in ast.unparse(comparison.comparators[0]):
        limit += f", which {right} is"
    gap = result.value - result.limit
    if gap == 0.0:
        return f"{left} is {result.value:.5g}, exactly {limit}"
    return f"{left} is {result.value:.5g}, {abs(gap):.3g} {'above' if gap > 0 else 'below'} {limit}"


def _list_comparisons(node: ast.expr) -> Iterator[ast.Compare]:
    """Yield the comparisons of a condition.

    Raises:
        TypeError: the node is of a kind that no gate has.
    """
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            yield from _list_comparisons(part)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        _check_sum(node.left)
        _check_sum(node.comparators[0])
        yield node
    else:
        raise TypeError


def _check_sum(node: ast.expr) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        _check_sum(node.left)
        _check_sum(node.right)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _check_sum(node.operand)
    elif not isinstance(node, ast.Constant | ast.Name):
        raise TypeError


def _decide(node: ast.expr, values: Sequence[float]) -> tuple[bool, ast.Compare]:
    """Return whether a condition holds, and the comparison that says so."""
    if isinstance(node, ast.BoolOp):
        verdicts = [_decide(part, values) for part in node.values]
        decides = isinstance(node.op, ast.Or)  # one that holds decides an or, one that fails an and
        return next((verdict for verdict in verdicts if verdict[0] is decides), verdicts[0])
    assert isinstance(node, ast.Compare)
    compare = _COMPARE[type(node.ops[0])]
    return compare(_compute(node.left, values), _compute(node.comparators[0], values)), node


def _compute(node: ast.expr, values: Sequence[float]) -> float:
    """Return the value of a sum; nothing can be divided by zero, so that is not a number."""
    if isinstance(node, ast.BinOp):
        left, right = _compute(node.left, values), _compute(node.right, values)
        if isinstance(node.op, ast.Div) and right == 0.0:
            return math.nan
        return _ARITHMETIC[type(node.op)](left, right)
    if isinstance(node, ast.UnaryOp):
        return -_compute(node.operand, values)
    if isinstance(node, ast.Name):
        return values[int(node.id[1:])]
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, int | float)
    return float(node.value)


def _write(node: ast.expr, names: Sequence[str]) -> str:
    return re.sub(r"_(\d+)", lambda match: names[int(match[1])], ast.unparse(node))
