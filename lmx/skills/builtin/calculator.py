"""``calculator``: arithmetic as people and models write it, evaluated without Python's `eval`.

Only numbers, operators and the functions named here have a meaning. What could grow without bounds
(powers, products of products, factorials) is measured before it is computed.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping

Number = int | float

MAX_CHARACTERS = 1000
# About 1200 digits; every result and every step stays below it.
MAX_BITS = 4096
MAX_FACTORIAL = 400
MAX_CONTAINED = 100
# How people write operators.
SPELLINGS = {ord("^"): "**", ord("×"): "*", ord("÷"): "/", 0x2212: "-", ord("·"): "*"}
# Larger integers lose digits in most readers of JSON.
MAX_EXACT = 2**53


def calculator(expression: str) -> Number | str:
    """The value of an expression.

    Returns:
        A number; the digits as text if it is an integer beyond 2^53.

    Raises:
        ValueError: It has no value, or one that is too large.
    """
    try:
        value = evaluate(expression)
    except ZeroDivisionError:
        raise ValueError("division by zero") from None
    except OverflowError:
        raise ValueError("the result is too large") from None
    return str(value) if isinstance(value, int) and abs(value) > MAX_EXACT else value


def evaluate(expression: str) -> Number:
    """The value of an expression, as Python has it.

    Raises:
        ValueError: It is no such expression, has no value or is too large.
        ZeroDivisionError: It divides by zero.
        OverflowError: It is too large for a floating-point number.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"an expression has at most {MAX_CHARACTERS} characters")
    text = expression.strip().translate(SPELLINGS)
    try:
        tree = ast.parse(text, mode="eval")
        return _value(tree.body)
    except SyntaxError as error:
        raise ValueError(f"not an expression: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("the expression is nested too deeply") from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=value) if type(value) in {int, float}:
            return _bounded(value)  # type: ignore[arg-type]  # as just checked
        case ast.Name(id=name) if name.lower() in CONSTANTS:
            return CONSTANTS[name.lower()]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in OPERATORS:
            return _bounded(OPERATORS[type(sign)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _call(name.lower(), [_value(one) for one in args])
        case _:
            pass
    raise ValueError(f"'{ast.unparse(node)[:60]}' is no number, operator or known function")


def _call(name: str, arguments: list[Number]) -> Number:
    if name not in FUNCTIONS:
        raise ValueError(f"there is no function '{name[:60]}'; there are {', '.join(FUNCTIONS)}")
    if len(arguments) > MAX_CONTAINED:
        raise ValueError(f"{name} takes at most {MAX_CONTAINED} numbers")
    try:
        return _bounded(FUNCTIONS[name](*arguments))
    except TypeError:
        raise ValueError(f"{name} does not take these arguments") from None


def _bounded(value: Number) -> Number:
    if isinstance(value, complex):
        raise ValueError("the result is no real number")  # noqa: TRY004  # a value, to who asks
    if isinstance(value, float) and not math.isfinite(value):
        raise OverflowError
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverflowError
    return value


def _power(base: Number, exponent: Number) -> Number:
    are_whole = isinstance(base, int) and isinstance(exponent, int)
    if are_whole and abs(exponent) * (int(base).bit_length() - 1) > MAX_BITS:
        raise OverflowError
    result: Number = base**exponent
    return result


def _factorial(number: Number) -> int:
    if number != int(number) or not 0 <= number <= MAX_FACTORIAL:
        raise ValueError(f"factorial takes whole numbers up to {MAX_FACTORIAL}")
    return math.factorial(int(number))


def _round(number: Number, digits: Number = 0) -> Number:
    places = int(digits)
    if abs(places) > MAX_FACTORIAL:
        raise ValueError("round takes at most 400 digits")
    return round(number, places) if places else round(number)


def _whole(function: Callable[..., int]) -> Callable[..., int]:
    """A function of whole numbers, which may be written ``4.0``."""

    def call(*arguments: Number) -> int:
        if any(one != int(one) for one in arguments):
            raise ValueError("whole numbers are needed")
        return function(*(int(one) for one in arguments))

    return call


OPERATORS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    "abs": abs,
    "round": _round,
    "floor": math.floor,
    "ceil": math.ceil,
    "min": min,
    "max": max,
    "sqrt": math.sqrt,
    "cbrt": math.cbrt,
    "exp": math.exp,
    "log": math.log,
    "ln": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "atan2": math.atan2,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
    "degrees": math.degrees,
    "radians": math.radians,
    "hypot": math.hypot,
    "pow": _power,
    "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm),
    "factorial": _factorial,
}
