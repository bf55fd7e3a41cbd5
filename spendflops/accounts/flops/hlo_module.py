"""Reads HLO text into instructions, and finds loop trip counts in it."""

from __future__ import annotations

import dataclasses
import functools
import re

Shape = tuple[str, tuple[int, ...]]

_HEADER = re.compile(r"(ENTRY\s+)?%?([\w.\-]+)\s*(\(.*)?\{\s*$")
_INSTRUCTION = re.compile(r"\s+(ROOT\s+)?%?([\w.\-]+)\s+=\s+(.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")
_CALLEE = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_CALLEES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\s*\{\s*"n":\s*"(\d+)"')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of a computation.

    Attributes:
        name: Its name, without the percent sign.
        computation: Name of the computation that holds it.
        result: (dtype, shape) of each array of the result, tuples flattened.
        opcode: Such as `dot`.
        operands: Names of the operands; for constants and parameters, what stands between the parentheses.
        attributes: What follows the operands, up to metadata and backend_config.
        op_name: The scope path, "" if there is none.
        config: backend_config, "" if there is none.
        root: Whether it is the result of its computation.
    """

    name: str
    computation: str
    result: tuple[Shape, ...]
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    op_name: str
    config: str
    root: bool

    @functools.cached_property
    def called(self) -> tuple[str, ...]:
        """Computations this instruction calls, except the two of a while loop."""
        listed = [name.strip().lstrip("%") for names in _CALLEES.findall(self.attributes) for name in names.split(",")]
        return (*_CALLEE.findall(self.attributes), *listed)

    @functools.cached_property
    def target(self) -> str:
        """Target of a custom call, "" for other instructions."""
        found = re.search(r'\bcustom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def attribute(self, name: str) -> str:
        """The word after `name=`, without the percent sign, or ""."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Module:
    """An HLO module: instructions by name, by computation.

    Attributes:
        entry: Name of the entry computation.
        computations: Instructions of each computation, in order.
        devices: Partitions times replicas the module was compiled for, as its header says.
    """

    entry: str
    computations: dict[str, dict[str, Instruction]]
    devices: int

    def root(self, computation: str) -> Instruction:
        """The instruction whose value the computation returns."""
        return next(i for i in self.computations[computation].values() if i.root)


def parse(text: str) -> Module:
    """Reads one HLO module.

    Raises:
        ValueError: If the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry = current = ""
    devices = 1
    for line in text.splitlines():
        if line.startswith("HloModule"):
            for count in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", line):
                devices *= int(count)
        elif header := _HEADER.match(line):
            current = header[2]
            computations[current] = {}
            entry = current if header[1] else entry
        elif current and (found := _INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line))):
            computations[current][found[2]] = _instruction(current, found[2], found[3], bool(found[1]))
    if not entry:
        raise ValueError("the text holds no HLO module: no ENTRY computation found")
    return Module(entry=entry, computations=computations, devices=devices)


def _instruction(computation: str, name: str, rest: str, root: bool) -> Instruction:
    # A tuple type holds spaces and parentheses; an array type has no space, whatever its layout.
    type_end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", type_end)
    closing = _closing(rest, opening)
    attributes = rest[closing + 1 :]
    ends = [attributes.find(key) for key in ("metadata={", "backend_config=")]
    op_name = re.search(r'\bop_name="((?:[^"\\]|\\.)*)"', attributes)
    config = attributes[ends[1] :] if ends[1] >= 0 else ""
    return Instruction(
        name=name,
        computation=computation,
        result=_shapes(rest[:type_end]),
        opcode=rest[type_end:opening].strip(),
        operands=_operands(rest[opening + 1 : closing]),
        attributes=attributes[: min((end for end in ends if end >= 0), default=None)],
        op_name=op_name[1] if op_name else "",
        config=config,
        root=root,
    )


def _closing(text: str, opening: int) -> int:
    """Index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise ValueError(f"unbalanced parentheses in HLO: {text[:200]}")


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        (dtype, tuple(int(size) for size in re.findall(r"\d+", sizes))) for dtype, sizes in _SHAPE.findall(text)
    )


def _operands(text: str) -> tuple[str, ...]:
    """Operand names; some printers put the operand's type before its name."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return tuple(part.split()[-1].lstrip("%") for part in parts if part.strip())


def trip_count(module: Module, loop: Instruction) -> int | None:
    """Trips of a while loop: what the compiler noted, else those of `while i < bound: i += step` from constants."""
    if noted := _TRIPS.search(loop.config):
        return int(noted[1])
    loops = _Symbols(module)
    condition = loops.value(module.root(loop.attribute("condition")), {})
    body = loops.value(module.root(loop.attribute("body")), {})
    init = loops.value(module.computations[loop.computation][loop.operands[0]], {})
    if condition[0] != "less" or body[0] != "tuple" or init[0] != "tuple":
        return None
    counter, bound = condition[1:]
    if counter[0] != "carried":
        return None
    start, after = loops.element(init, counter[1]), loops.element(body, counter[1])
    if bound[0] == "carried" and loops.element(body, bound[1]) == bound:
        bound = loops.element(init, bound[1])
    steps = [term[1] for term in after[1:] if term[0] == "constant"] if after[0] == "add" and counter in after else []
    if start[0] != "constant" or bound[0] != "constant" or len(steps) != 1 or steps[0] <= 0:
        return None
    return max(0, -(-(bound[1] - start[1]) // steps[0]))


class _Symbols:
    """Values of the few scalar instructions that loop counters are made of.

    A value is a tuple that begins with its kind: ("constant", n), ("carried", index) for an element of the loop's
    state, ("add", a, b), ("less", a, b), ("tuple", instruction, bindings), ("state",) or ("other",).
    """

    def __init__(self, module: Module) -> None:
        self.module = module

    def value(self, instr: Instruction, bindings: dict[int, tuple]) -> tuple:
        """Evaluates an instruction; `bindings` are the operands (with bindings) of the enclosing fused computation."""
        instructions = self.module.computations[instr.computation]
        if instr.opcode == "parameter":
            operand = bindings.get(int(instr.operands[0]))
            return self.value(*operand) if operand else ("state",)
        if instr.opcode == "constant":
            number = re.fullmatch(r"-?\d+", instr.operands[0]) if instr.operands else None
            return ("constant", int(number[0])) if number else ("other",)
        if instr.opcode == "tuple":
            return ("tuple", instr, bindings)
        if instr.opcode in ("copy", "bitcast", "convert", "reshape", "copy-done", "copy-start", "optimization-barrier"):
            return self.value(instructions[instr.operands[0]], bindings)
        if instr.opcode == "get-tuple-element":
            return self.element(self.value(instructions[instr.operands[0]], bindings), int(instr.attribute("index")))
        if instr.opcode in ("fusion", "call") and len(instr.called) == 1:
            # Bound, not evaluated: a loop body is large, its counter depends on little of it.
            operands = {index: (instructions[name], bindings) for index, name in enumerate(instr.operands)}
            return self.value(self.module.root(instr.called[0]), operands)
        direction = instr.attribute("direction")
        if instr.opcode == "add" or direction in ("LT", "GT"):
            left, right = (self.value(instructions[name], bindings) for name in instr.operands)
            if instr.opcode == "add":
                return ("add", left, right)
            return ("less", left, right) if direction == "LT" else ("less", right, left)
        return ("other",)

    def element(self, value: tuple, index: int) -> tuple:
        """Element of a tuple value."""
        if value == ("state",):
            return ("carried", index)
        if value[0] != "tuple":
            return ("other",)
        _, instr, bindings = value
        return self.value(self.module.computations[instr.computation][instr.operands[index]], bindings)
