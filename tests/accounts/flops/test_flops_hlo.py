"""Counter C on handwritten modules: forms that this machine's compiler does not produce."""

import pytest

from spendflops.accounts.flops import count_hlo
from spendflops.accounts.flops.hlo import _jax_dtype
from spendflops.accounts.flops.hlo_module import parse


def module(body, *, header="HloModule jit_step, is_scheduled=true", before=""):
    lines = "\n".join(f"  {line}" for line in body.strip().splitlines())
    return f"{header}\n\n{before}\nENTRY %main (a: f32[8,8]) -> f32[8,8] {{\n{lines}\n}}\n"


def gemm(shapes, attributes, *, operands="%a, %b"):
    left, right, out = shapes
    return module(f"%a = {left} parameter(0)\n%b = {right} parameter(1)\nROOT %r = {out} {attributes}({operands})")


A = "%a = f32[8,8]{1,0} parameter(0)\n"
DOT = "dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}"


def test_dot():
    cost = count_hlo(module(A + f"ROOT %r = f32[8,8]{{1,0}} {DOT}"))
    assert cost.total == 1024
    assert cost.dtypes == {"float32": 1024}
    assert cost.phases == {"other": 1024}
    assert cost.counter == "hlo/1"


def test_outer_product_has_no_contracting_dims():
    text = module("%a = bf16[3]{0} parameter(0)\n%b = bf16[5]{0} parameter(1)\nROOT %r = f32[3,5]{1,0} dot(%a, %b)")
    assert count_hlo(text).total == 30
    assert count_hlo(text).dtypes == {"bfloat16": 30}


def test_short_and_long_prints():
    """Without percent signs, layouts and signatures; and with types before the operands."""
    short = f"HloModule m\n\nENTRY main {{\n  a = f32[8,8] parameter(0)\n  ROOT r = f32[8,8] {DOT}\n}}".replace("%", "")
    long = module(A + "ROOT %r = f32[8,8]{1,0} " + DOT.replace("%a", "f32[8,8]{1,0} %a"))
    assert count_hlo(short).total == count_hlo(long).total == 1024


def test_tuple_types_and_index_comments():
    types = (
        "(s32[]{:T(256)}, f32[8,8]{1,0:T(8,128)(2,1)}, (f32[2]{0}, pred[]), "
        "/*index=3*/f32[4]{0:S(5)}, f32[1], /*index=5*/f32[2])"
    )
    instruction = parse(module(f"ROOT %p = {types} parameter(0)")).root("main")
    shapes = [("s32", ()), ("f32", (8, 8)), ("f32", (2,)), ("pred", ()), ("f32", (4,)), ("f32", (1,)), ("f32", (2,))]
    assert list(instruction.result) == shapes
    assert (instruction.opcode, instruction.operands, instruction.root) == ("parameter", ("0",), True)
    tuples = parse(module("ROOT %t = (f32[1], f32[1]) tuple(%a, /*index=1*/%b)")).root("main")
    assert tuples.operands == ("a", "b")


def test_text_without_a_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        count_hlo("func.func @main() {}")


def test_tpu_product_as_convolution():
    text = gemm(
        ("bf16[32,64]{1,0:T(8,128)(2,1)}", "bf16[64,16]{1,0:T(8,128)}", "f32[32,16]{1,0:T(8,128)}"),
        "convolution",
        operands='%a, %b), dim_labels=bf_io->bf, metadata={op_name="jit(step)/jvp(forward)/dot_general"} /*',
    )
    text = text.replace(" /*)", "")
    cost = count_hlo(text)
    assert cost.total == 2 * 32 * 64 * 16
    assert cost.phases == {"forward": 2 * 32 * 64 * 16}


def conv(lhs, rhs, out, attributes):
    return count_hlo(
        module(
            f"%a = f32[{lhs}]{{0}} parameter(0)\n%b = f32[{rhs}]{{0}} parameter(1)\n"
            f"ROOT %r = f32[{out}]{{0}} convolution(%a, %b), {attributes}"
        )
    ).total


def test_tpu_batched_product_as_dilated_convolution():
    """Attention logits of 4 images, 8 tokens, 2 heads of width 32, as a TPU compiler writes them."""
    window = "window={size=4x2 stride=3x1 lhs_dilate=4x2}, dim_labels=0b1f_0o1i->01bf"
    assert conv("4,8,2,32", "4,8,2,32", "4,2,8,8", window) == 2 * 4 * 2 * 8 * 8 * 32


def test_t6_convolution():
    assert conv("7,5,9", "5,9,11", "7,5,11", "window={size=5 stride=4 lhs_dilate=5}, dim_labels=b0f_0io->b0f") == 6930


@pytest.mark.parametrize("reversal", ["", " rhs_reversal=1x1"])
def test_padding_and_reversal(reversal):
    """3x3 SAME on 32x32 meets 94 = 3 x 32 - 2 inputs a dimension; reversing the kernel changes nothing."""
    window = f"window={{size=3x3 pad=1_1x1_1{reversal}}}, dim_labels=b01f_01io->b01f"
    assert conv("1,32,32,256", "3,3,256,256", "1,32,32,256", window) == 2 * 94 * 94 * 256 * 256


def test_convolution_groups():
    labels = "dim_labels=bf0_oi0->bf0"
    assert conv("4,6,5", "12,2,1", "4,12,5", f"window={{size=1}}, {labels}, feature_group_count=3") == 2 * 4 * 5 * 24
    assert conv("4,6,5", "12,6,1", "2,12,5", f"window={{size=1}}, {labels}, batch_group_count=2") == 2 * 2 * 5 * 72


def test_negative_padding_and_kernel_dilation():
    # Positions -1 + o + 2 k of a 7-long input starting at 2: o in 0..2, k in 0..2, all inside.
    window = "window={size=3 pad=-1_-1 rhs_dilate=2}, dim_labels=b0f_0io->b0f"
    assert conv("1,7,1", "3,1,1", "1,3,1", window) == 2 * 8


LOOP = """
%body (s: (s32[], f32[8,8], s32[])) -> (s32[], f32[8,8], s32[]) {
  %s = (s32[], f32[8,8]{1,0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(STEP)
  %next = s32[] BODY
  %x = f32[8,8]{1,0} get-tuple-element(%s), index=1
  %n = s32[] get-tuple-element(%s), index=2
  %moved = s32[] add(%n, %one)
  %y = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %t = (s32[], f32[8,8]{1,0}, s32[]) tuple(%next, %y, LIMIT)
}

%cond (s: (s32[], f32[8,8], s32[])) -> pred[] {
  %s = (s32[], f32[8,8]{1,0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %n = s32[] get-tuple-element(%s), index=2
  %bound = s32[] constant(12)
  ROOT %lt = pred[] COND
}

%fused_add (p0: s32[], p1: s32[]) -> s32[] {
  %p0 = s32[] parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %sum = s32[] add(%p1, %p0)
}

%fused_less (p0: s32[], p1: s32[]) -> pred[] {
  %p0 = s32[] parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %less = pred[] compare(%p0, %p1), direction=LT
}
"""


def loop(
    *,
    cond="compare(%i, %bound), direction=LT",
    body="add(%i, %one)",
    step="1",
    start="constant(0)",
    limit="%n",
    config="",
):
    before = LOOP.replace("COND", cond).replace("BODY", body).replace("STEP", step).replace("LIMIT", limit)
    entry = f"""{A}%k = s32[] {start}
%zero = s32[] copy(%k)
%seven = s32[] constant(7)
%init = (s32[], f32[8,8]{{1,0}}, s32[]) tuple(%zero, %a, %seven)
%w = (s32[], f32[8,8]{{1,0}}, s32[]) while(%init), condition=%cond, body=%body{config}
ROOT %r = f32[8,8]{{1,0}} get-tuple-element(%w), index=1"""
    return count_hlo(module(entry, before=before))


@pytest.mark.parametrize(
    ("options", "trips"),
    [
        ({}, 12),  # the form of TPU compilers: nothing but a constant in the condition
        ({"config": ', backend_config={"known_trip_count":{"n":"5"}}'}, 5),  # what the compiler says comes first
        ({"step": "5"}, 3),
        ({"start": "constant(2)"}, 10),
        ({"start": "constant(40)"}, 0),
        ({"cond": "compare(%bound, %i), direction=GT"}, 12),
        ({"cond": "compare(%i, %n), direction=LT"}, 7),  # a bound carried along
        ({"cond": "fusion(%i, %bound), kind=kLoop, calls=%fused_less"}, 12),
        ({"body": "fusion(%i, %one), kind=kLoop, calls=%fused_add"}, 12),
    ],
)
def test_trip_counts(options, trips):
    cost = loop(**options)
    assert cost.unknown == ()
    assert cost.total == trips * 1024


@pytest.mark.parametrize(
    "options",
    [
        {"cond": "compare(%i, %bound), direction=NE"},
        {"cond": "compare(%bound, %i), direction=LT"},
        {"cond": "compare(%n, %i), direction=LT"},
        {"cond": "compare(%i, %n), direction=LT", "limit": "%moved"},
        {"body": "multiply(%i, %one)"},
        {"body": "add(%n, %one)"},  # another element
        {"body": "add(%i, %i)"},
        {"step": "-1"},
        {"start": "parameter(1)"},
    ],
)
def test_unknown_trip_counts(options):
    cost = loop(**options)
    assert cost.unknown == ("while w without a trip count",)
    assert cost.total is None


def test_unknown_trip_count_without_work_is_free():
    before = LOOP.replace("COND", "compare(%i, %n), direction=NE").replace("BODY", "add(%i, %one)")
    before = before.replace("STEP", "1").replace("LIMIT", "%n").replace("dot(", "add(")
    entry = "%init = (s32[], f32[8,8], s32[]) parameter(0)\n"
    text = module(entry + "ROOT %w = (s32[], f32[8,8], s32[]) while(%init), condition=%cond, body=%body", before=before)
    assert count_hlo(text).total == 0


def test_condition_runs_once_more_than_the_body():
    before = LOOP.replace("COND", "compare(%i, %bound), direction=LT").replace("BODY", "add(%i, %one)")
    before = before.replace("STEP", "1").replace("LIMIT", "%n")
    work = "  %h = f32[8,8] get-tuple-element(%s), index=1\n  %g = f32[8,8] dot(%h, %h), lhs_contracting_dims={1}\n"
    before = before.replace("  ROOT %lt", work + "  ROOT %lt")
    entry = f"{A}%k = s32[] constant(0)\n%init = (s32[], f32[8,8], s32[]) tuple(%k, %a, %k)\n"
    text = module(entry + "ROOT %w = (s32[], f32[8,8], s32[]) while(%init), condition=%cond, body=%body", before=before)
    assert count_hlo(text).total == (12 + 13) * 1024


PRODUCT = """
%product (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  ROOT %y = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}METADATA
}

%two (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  %y = f32[8,8]{1,0} call(%x), to_apply=%product
  ROOT %z = f32[8,8]{1,0} fusion(%y), kind=kOutput, calls=%product
}
"""


@pytest.mark.parametrize(
    ("call", "products"),
    [
        ("fusion(%a), kind=kCustom, calls=%product", 1),
        ("call(%a), to_apply=%two", 2),
        ("conditional(%a, %a, %a), branch_computations={%product, %two}", 2),
        ("conditional(%a, %a, %a), true_computation=%two, false_computation=%product", 2),
        ("async-start(%a), calls=%two", 2),
        ("async-done(%a), calls=%two", 0),
    ],
)
def test_calls(call, products):
    text = module(A + f"ROOT %r = f32[8,8]{{1,0}} {call}", before=PRODUCT.replace("METADATA", ""))
    assert count_hlo(text).total == products * 1024


@pytest.mark.parametrize(
    ("caller", "own", "phase"),
    [
        ("", "jit(step)/jvp(forward)/block/dot_general", "forward"),
        ("", "jit(step)/transpose(jvp(forward))/block/dot_general", "backward"),
        ("", "jit(step)/transpose(jvp())/while/body/forward/dot_general", "backward"),
        ("", "jit(step)/vmap(jvp(targets))/dot_general", "targets"),
        ("", "jit(step)/predict/forward/dot_general", "predict"),
        ("", "jit(step)/update", "update"),
        ("", "jit(step)/forward/transpose(jvp())/dot_general", "forward"),  # a gradient inside the forward pass
        ("", "jit(step)/augmented/dot_general", "other"),
        ("", "jit(forward)/dot_general", "other"),  # a function's name
        ("", "jit(step)/update/jit(transpose)/dot_general", "update"),
        ("", "jit(step)/forward/transpose", "forward"),  # an array's transpose
        ("jit(step)/update/call", "", "update"),  # no name of its own
        ("jit(step)/transpose(jvp(forward))/call", "dot_general", "backward"),  # a relative one
        ("jit(step)/transpose(jvp())/call", "forward/dot_general", "backward"),
        ("jit(step)/update/fusion", "jit(step)/dot_general", "other"),  # fused with work of another phase
    ],
)
def test_phases(caller, own, phase):
    metadata = ', metadata={op_name="%s" stack_frame_id=3}'
    first = A + '%c = f32[8,8]{1,0} copy(%a), metadata={op_name="jit(step)/copy"}\n'
    call = "ROOT %r = f32[8,8]{1,0} call(%c), to_apply=%product" + (metadata % caller if caller else "")
    text = module(first + call, before=PRODUCT.replace("METADATA", metadata % own if own else ""))
    assert count_hlo(text).phases == {phase: 1024}


LAYOUT = """
%moved (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  ROOT %y = f32[8,8]{1,0} transpose(%x), dimensions={1,0}
}

%changed (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  ROOT %y = f32[8,8]{1,0} negate(%x)
}
"""


@pytest.mark.parametrize(
    ("user", "phase"),
    [
        ("transpose(%d), dimensions={1,0}NAME", "update"),
        ("fusion(%d), kind=kLoop, calls=%movedNAME", "update"),
        ("bitcast(%d)\n%e = f32[8,8] copy(%u)NAME", "update"),
        ("negate(%d)NAME", "other"),  # other work, maybe of another phase
        ("fusion(%d), kind=kLoop, calls=%changedNAME", "other"),
    ],
)
@pytest.mark.parametrize("product", [DOT, "fusion(%a), kind=kOutput, calls=%product"])
def test_phase_of_rewritten_work(user, phase, product):
    """A rewrite leaves the op_name on the instruction that restores the layout."""
    user = user.replace("NAME", ', metadata={op_name="jit(step)/update/conv_general_dilated"}')
    text = module(f"{A}%d = f32[8,8] {product}\n%u = f32[8,8] {user}", before=PRODUCT.replace("METADATA", "") + LAYOUT)
    assert count_hlo(text).phases == {phase: 1024}


@pytest.mark.parametrize(
    ("name", "op_name", "rematted"),
    [
        ("y", "jit(step)/transpose(jvp(forward))/checkpoint/dot_general", 0),
        ("y", "jit(step)/transpose(jvp(forward))/checkpoint/rematted_computation/dot_general", 1024),
        ("y.remat2", "jit(step)/transpose(jvp(forward))/dot_general", 1024),
        ("y.remat.1", "jit(step)/transpose(jvp(forward))/dot_general", 1024),
        ("y.rematch", "jit(step)/transpose(jvp(forward))/dot_general", 0),
    ],
)
def test_recomputed_work_is_a_part_of_its_phase(name, op_name, rematted):
    cost = count_hlo(module(A + f'ROOT %{name} = f32[8,8]{{1,0}} {DOT}, metadata={{op_name="{op_name}"}}'))
    assert cost.phases == {"backward": 1024}
    assert cost.rematted == rematted


@pytest.mark.parametrize("opcode", ["ragged-dot", "custom-call-start", "dot-start", "convolution-start"])
def test_unreadable_operations(opcode):
    cost = count_hlo(module(A + f"ROOT %r = f32[8,8] {opcode}(%a, %a)"))
    assert cost.unknown == (f"{opcode} r",)


def test_devices():
    header = "HloModule jit_step, is_scheduled=true, num_partitions=4, replica_count=2"
    body = A + f"ROOT %r = f32[8,8]{{1,0}} {DOT}"
    assert count_hlo(module(body, header=header), devices=8).total == 8 * 1024
    assert count_hlo(module(body), devices=3).total == 3 * 1024
    with pytest.raises(ValueError, match="compiled for 8 devices, the caller says 1"):
        count_hlo(module(body, header=header))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("pred", "bool"),
        ("s8", "int8"),
        ("u32", "uint32"),
        ("bf16", "bfloat16"),
        ("f64", "float64"),
        ("c64", "complex64"),
        ("f8e4m3fn", "float8_e4m3fn"),
        ("f8e5m2", "float8_e5m2"),
        ("f4e2m1fn", "float4_e2m1fn"),
        ("token", "token"),
    ],
)
def test_dtype_names(name, dtype):
    assert _jax_dtype(name) == dtype
