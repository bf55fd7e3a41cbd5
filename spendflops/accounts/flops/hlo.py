"""Counter C: hardware FLOPs from the optimised HLO text of a compiled program.

Counts dots, convolutions and known library calls, multiplied by loop trip counts and devices. A convolution is charged
for its valid (kernel tap, output position) pairs only: TPU compilers write every matrix product as a convolution, and
batched ones as dilated convolutions whose holes are free.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import numpy as np

from spendflops.accounts.flops.cost import SCOPES, Cost, Op
from spendflops.accounts.flops.hlo_module import Instruction, Module, parse, trip_count

COUNTER = "hlo/1"

# Phase scopes may be wrapped by transformations, as in jvp(forward); jit(forward) is a function's name, not a scope.
_SCOPE = re.compile(r"(?:^|/|(?<!jit)\()(" + "|".join(SCOPES) + r")(?=[/)]|$)")
_TRANSPOSED = re.compile(r"(?:^|[/(])transpose\(")

_COUNTED = ("dot", "scaled-dot", "convolution", "custom-call")
_LAYOUT = frozenset({"bitcast", "copy", "get-tuple-element", "parameter", "reshape", "transpose"})

# Operations whose work this reader cannot see.
_UNREADABLE = frozenset({"ragged-dot", "custom-call-start", "convolution-start", "dot-start"})

# Library calls without a matrix product or convolution.
_BENIGN = frozenset(
    {
        "AllocateBuffer",
        "AssumeGatherIndicesInBound",
        "ConcatBitcast",
        "GatherScatterIndicesBitpacked",
        "GlobalToLocal",
        "LayoutConstraint",
        "LocalToGlobal",
        "MoveToDevice",
        "MoveToHost",
        "PadToStatic",
        "ResizeNearest",
        "SPMDFullToShardShape",
        "SPMDShardToFullShape",
        "Sharding",
        "SliceToDynamic",
        "TopK",
        "annotate_device_placement",
        "cu_threefry2x32",
        "cu_threefry2x32_ffi",
        "topk",
    }
)
_BENIGN_PREFIXES = (
    "__cub$",
    "X64",
    "__gpu$TopK",
    "blas_",
    "cub_",
    "cublas_",
    "cusolver_",
    "lapack_",
    "xla.gpu.ext.topk",
    "xla.sdy.",
    "xla_ffi_",
    "xla_python_",
)
_ESTIMATE = re.compile(r'"cost_estimate":\s*\{[^}]*"flops":\s*"?(\d+)')
_PALLAS = frozenset({"tpu_custom_call", "__gpu$xla.gpu.triton", "triton_kernel_call", "mosaic_gpu", "mosaic_gpu_v2"})


def count_hlo(text: str, *, devices: int = 1) -> Cost:
    """Counts the matrix products and convolutions of an optimised HLO module.

    Args:
        text: What `hlo_text(compiled)` or `compiled.as_text()` returns.
        devices: Devices that run the module. A partitioned module is one device's program.

    Returns:
        The cost of one call over all devices. Its `total` is None if the module holds a custom call without a rule,
        or a loop with work but without a trip count; `unknown` names them.

    Raises:
        ValueError: If the text is not HLO, or the module was partitioned for another number of devices.
    """
    module = parse(text)
    if module.devices not in (1, devices):
        raise ValueError(f"the module was compiled for {module.devices} devices, the caller says {devices}")
    reader = _Reader(module)
    ops = [dataclasses.replace(op, times=op.times * devices) for op in reader.computation(module.entry, "", False)]
    return Cost.from_ops(ops, counter=COUNTER, unknown=reader.unknown)


def hlo_text(compiled: Any) -> str:
    """The optimised HLO of a `jax.stages.Compiled`, without layouts where this version of jaxlib can leave them out."""
    try:
        from jaxlib import _hlo  # type: ignore[attr-defined]

        options = _hlo.HloPrintOptions()
        modules = compiled.runtime_executable().hlo_modules()
    except (AttributeError, ImportError, NotImplementedError, RuntimeError):
        return compiled.as_text()
    options.print_metadata = True
    options.print_backend_config = True
    options.include_layout_in_shapes = False
    options.print_large_constants = False
    return "\n\n".join(module.to_string(options) for module in modules)


class _Reader:
    """Walks the call graph from the entry; collects the names of what it cannot count."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.unknown: set[str] = set()
        self._done: dict[tuple[str, str, bool], list[Op]] = {}
        paths = (i.op_name for i in module.computations[module.entry].values())
        self._root = next((path.split("/")[0] + "/" for path in paths if path.startswith("jit(")), "")

    def computation(self, name: str, path: str, rematted: bool) -> list[Op]:
        """The op table of one execution of a computation, called by an instruction with op_name `path`."""
        key = (name, path, rematted)
        if key not in self._done:
            instructions = self.module.computations[name].values()
            self._done[key] = [op for i in instructions for op in self.instruction(i, path, rematted)]
        return self._done[key]

    def instruction(self, instr: Instruction, path: str, rematted: bool) -> list[Op]:
        own = instr.op_name or (self._layout_op_name(instr) if instr.opcode in (*_COUNTED, "fusion") else "")
        path = self._path(own, path)
        # The compiler's own rematerialisation clones instructions under such names.
        rematted = rematted or bool(re.search(r"\.remat\d*(\.|$)", instr.name))
        if instr.opcode in _COUNTED or instr.opcode in _UNREADABLE:
            flops = self._flops(instr)
            if flops is None:
                self.unknown.add(f"{instr.opcode} {instr.target or instr.name}")
            return [self._op(instr, path, rematted, flops)] if flops else []
        if instr.opcode == "while":
            return self._while(instr, path, rematted)
        if instr.opcode == "conditional":
            branches = [self.computation(name, path, rematted) for name in instr.called]
            return max(branches, key=lambda ops: sum(op.total for op in ops))
        if instr.opcode in ("async-update", "async-done"):
            # Older printers repeat on these the computation that async-start called.
            return []
        return [op for name in instr.called for op in self.computation(name, path, rematted)]

    def _layout_op_name(self, instr: Instruction) -> str:
        """The op_name of the instruction that only moves the result of this one, "" if there is none.

        Rewriting a convolution drops its op_name and leaves it on the transposition that restores the layout.
        """
        for user in self.module.computations[instr.computation].values():
            if user.operands[:1] != (instr.name,):
                continue
            parts = self.module.computations[user.called[0]].values() if user.opcode == "fusion" else (user,)
            if all(part.opcode in _LAYOUT for part in parts):
                return user.op_name or self._layout_op_name(user)
        return ""

    def _path(self, own: str, caller: str) -> str:
        """The scope path: op_names inside functions that were not inlined are relative to their caller's."""
        if own and (not caller or (self._root and f"{own}/".startswith(self._root))):
            return own
        return f"{caller}/{own}" if own else caller

    def _while(self, instr: Instruction, path: str, rematted: bool) -> list[Op]:
        condition = self.computation(instr.attribute("condition"), path, rematted)
        body = self.computation(instr.attribute("body"), path, rematted)
        if not condition and not body:
            return []
        trips = trip_count(self.module, instr)
        if trips is None:
            self.unknown.add(f"while {instr.name} without a trip count")
            return []
        repeated = [dataclasses.replace(op, times=op.times * (trips + 1)) for op in condition]
        return repeated + [dataclasses.replace(op, times=op.times * trips) for op in body]

    def _operand(self, instr: Instruction, operand: int) -> tuple[str, tuple[int, ...]]:
        shapes = self.module.computations[instr.computation][instr.operands[operand]].result
        return shapes[0] if shapes else ("", ())

    def _shape(self, instr: Instruction, operand: int) -> tuple[int, ...]:
        return self._operand(instr, operand)[1]

    def _op(self, instr: Instruction, path: str, rematted: bool, flops: int) -> Op:
        operands = [self._operand(instr, i) for i in range(min(2, len(instr.operands)))]
        shapes = " x ".join(str(list(shape)) for _, shape in operands)
        return Op(
            kind=instr.target or instr.opcode,
            shapes=f"{shapes} -> {' '.join(str(list(shape)) for _, shape in instr.result)}",
            dtype=_jax_dtype(operands[0][0]) if operands else "none",
            phase=_phase(path),
            flops=flops,
            rematted=rematted or "rematted_computation" in path,
        )

    def _flops(self, instr: Instruction) -> int | None:
        """FLOPs of one execution of a dot, convolution or library call; None if there is no rule for it."""
        out = instr.result[0][1] if instr.result else ()
        target = instr.target
        if instr.opcode in ("dot", "scaled-dot"):
            return _dot_flops(out, self._shape(instr, 0), _numbers(instr.attributes, "lhs_contracting_dims="))
        if instr.opcode == "convolution":
            return _conv_flops(instr, self._shape(instr, 0), self._shape(instr, 1), out)
        if instr.opcode != "custom-call":
            return None
        if target in _BENIGN or target.startswith(_BENIGN_PREFIXES):
            return 0
        if target in ("__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8"):
            return _dot_flops(out, self._shape(instr, 0), _numbers(instr.config, '"lhs_contracting_dimensions":'))
        if target == "__onednn$matmul":
            lhs = self._shape(instr, 0)
            transposed = re.search(r'"transpose_a":\s*true', instr.config)
            return _dot_flops(out, lhs, [len(lhs) - 2 if transposed else len(lhs) - 1])
        if target.startswith("__cudnn$conv"):
            # Window and labels describe the forward convolution, also on calls that compute its gradients.
            if target == "__cudnn$convBackwardInput":
                return _conv_flops(instr, out, self._shape(instr, 1), self._shape(instr, 0))
            if target == "__cudnn$convBackwardFilter":
                return _conv_flops(instr, self._shape(instr, 0), out, self._shape(instr, 1))
            return _conv_flops(instr, self._shape(instr, 0), self._shape(instr, 1), out)
        if target.startswith("__cudnn$fmha") and not target.endswith("F8"):
            # Logits are [B, H, Nq, Nk]; queries and values end in their head widths. Forward: logits and output.
            # Backward: logits again, and two products for each of the two.
            logits = math.prod(_numbers(instr.config, '"dimensions":'))
            query, value = self._shape(instr, 0)[-1], self._shape(instr, 2)[-1]
            return 2 * logits * (3 * query + 2 * value if target.endswith("Backward") else query + value)
        if target in _PALLAS and (estimate := _ESTIMATE.search(instr.config)):
            return int(estimate[1])
        return None


def _phase(path: str) -> str:
    """The outermost phase scope of an op_name, or "backward" if a transposition encloses it."""
    scope = _SCOPE.search(path)
    if scope is None:
        return "other"
    return "backward" if _TRANSPOSED.search(path, 0, scope.start(1)) else scope[1]


def _numbers(text: str, key: str) -> list[int]:
    """The bracketed list of integers, quoted or not, that follows `key`."""
    found = re.search(re.escape(key) + r"\s*[\[{]([^\]}]*)[\]}]", text)
    return [int(digits) for digits in re.findall(r"\d+", found[1])] if found else []


def _dot_flops(out: tuple[int, ...], lhs: tuple[int, ...], contracting: list[int]) -> int:
    """2 per output element and contracted index; an outer product contracts nothing."""
    return 2 * math.prod(out) * math.prod(lhs[axis] for axis in contracting)


def _conv_flops(instr: Instruction, lhs: tuple[int, ...], rhs: tuple[int, ...], out: tuple[int, ...]) -> int | None:
    """2 x (batch / batch groups) x Cout x (Cin / feature groups) x valid pairs of each spatial dimension.

    Returns:
        None for layouts with dimensions that have no label (vectorised int8 on GPU).
    """
    labels = re.search(r"\bdim_labels=(\w+)_(\w+)->(\w+)", instr.attributes)
    if labels is None or (len(labels[1]), len(labels[2]), len(labels[3])) != (len(lhs), len(rhs), len(out)):
        return None
    window = re.search(r"\bwindow=\{([^}]*)\}", instr.attributes)
    fields = dict(re.findall(r"(\w+)=(\S+)", window[1])) if window else {}
    groups = re.search(r"\bbatch_group_count=(\d+)", instr.attributes)
    flops = 2 * lhs[labels[1].index("b")] // (int(groups[1]) if groups else 1)
    flops *= rhs[labels[2].index("i")] * rhs[labels[2].index("o")]
    for axis in range(len(lhs) - 2):
        spatial = str(axis)
        stride, pad, lhs_dilate, rhs_dilate = (
            fields[name].split("x")[axis] if name in fields else default
            for name, default in (("stride", "1"), ("pad", "0_0"), ("lhs_dilate", "1"), ("rhs_dilate", "1"))
        )
        flops *= _pairs(
            lhs[labels[1].index(spatial)],
            rhs[labels[2].index(spatial)],
            out[labels[3].index(spatial)],
            int(stride),
            int(pad.split("_")[0]),
            int(lhs_dilate),
            int(rhs_dilate),
        )
    return flops


@functools.lru_cache(maxsize=4096)
def _pairs(inputs: int, taps: int, outputs: int, stride: int, pad: int, lhs_dilate: int, rhs_dilate: int) -> int:
    """(Kernel tap, output) pairs that meet an input element. Reversing the taps would permute the sum's terms."""
    starts = np.arange(outputs, dtype=np.int64) * stride - pad
    pairs = 0
    for tap in range(taps):
        positions = starts + tap * rhs_dilate
        inside = (positions >= 0) & (positions <= (inputs - 1) * lhs_dilate)
        pairs += int(np.count_nonzero(inside & (positions % lhs_dilate == 0)))
    return pairs


def _jax_dtype(name: str) -> str:
    """`f32` -> `float32`."""
    if name == "pred":
        return "bool"
    if name == "bf16":
        return "bfloat16"
    size = name.lstrip("abcdefghijklmnopqrstuvwxyz")
    kind = name.removesuffix(size)
    if size.isdigit():
        return {"f": "float", "s": "int", "u": "uint", "c": "complex"}.get(kind, kind) + size
    return f"float{size.replace('e', '_e', 1)}" if kind == "f" else name
