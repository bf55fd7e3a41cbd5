"""Counter C: library calls."""

import pytest

from spendflops.accounts.flops import count_hlo


def custom(target, *, operands=("f32[8,16]",), out="f32[8,4]", attributes="", config="{}"):
    lines = [f"%p{index} = {shape} parameter({index})" for index, shape in enumerate(operands)]
    names = ", ".join(f"%p{index}" for index in range(len(operands)))
    call = f'ROOT %r = {out} custom-call({names}), custom_call_target="{target}"{attributes}, backend_config={config}'
    body = "\n".join(f"  {line}" for line in [*lines, call])
    return count_hlo(f"HloModule jit_step\n\nENTRY %main () -> f32[8,4] {{\n{body}\n}}\n")


@pytest.mark.parametrize("target", ["__cublas$gemm", "__cublas$lt$matmul", "__cublas$lt$matmul$f8"])
def test_cublas(target):
    config = (
        '{"operation_queue_id":"0","gemm_backend_config":{"alpha_real":1,"dot_dimension_numbers":'
        '{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["2"],"lhs_batch_dimensions":["0"],'
        '"rhs_batch_dimensions":["0"]},"epilogue":"DEFAULT"}}'
    )
    operands = ("f16[3,16,8]{2,1,0}", "f16[3,4,16]{2,1,0}")
    cost = custom(target, operands=operands, out="(f16[3,8,4]{2,1,0}, s8[4194304]{0})", config=config)
    assert cost.total == 2 * 3 * 8 * 4 * 16
    assert cost.dtypes == {"float16": cost.total}
    assert cost.ops[0].kind == target


@pytest.mark.parametrize(
    ("target", "operands", "out"),
    [
        ("__cudnn$convForward", ("IMAGE", "KERNEL"), "OUT"),
        ("__cudnn$convBiasActivationForward", ("IMAGE", "KERNEL", "f32[8]"), "OUT"),
        ("__cudnn$convForwardGraph", ("IMAGE", "KERNEL"), "OUT"),
        ("__cudnn$convBackwardInput", ("OUT", "KERNEL"), "IMAGE"),
        ("__cudnn$convBackwardFilter", ("IMAGE", "OUT"), "KERNEL"),
    ],
)
def test_cudnn_convolutions(target, operands, out):
    """Strided 2x2 patches: each of the 16 outputs a channel meets 4 pixels of 3 channels."""
    shapes = {"IMAGE": "f32[2,3,8,8]{3,2,1,0}", "KERNEL": "f32[8,3,2,2]{3,2,1,0}", "OUT": "f32[2,8,4,4]{3,2,1,0}"}
    cost = custom(
        target,
        operands=[shapes.get(operand, operand) for operand in operands],
        out=f"({shapes[out]}, u8[0]{{0}})",
        attributes=", window={size=2x2 stride=2x2}, dim_labels=bf01_oi01->bf01",
    )
    assert cost.total == 2 * 2 * 8 * 16 * 4 * 3


def test_vectorised_convolutions_are_unknown():
    cost = custom("__cudnn$convForward", operands=("s8[2,1,8,8,32]", "s8[32,1,1,1,32]"), out="(s8[2,1,8,8,32], u8[0])")
    assert cost.unknown == ("custom-call __cudnn$convForward",)


@pytest.mark.parametrize(("suffix", "products"), [("", 2), ("Backward", 5)])
def test_cudnn_attention(suffix, products):
    shape = "bf16[2,10,3,64]{3,1,2,0}"
    config = '{"cudnn_fmha_backend_config":{"intermediate_tensor_shape":{"dimensions":["2","3","10","12"]}}}'
    operands = (shape, "bf16[2,12,3,64]{3,1,2,0}", "bf16[2,12,3,64]{3,1,2,0}")
    cost = custom(f"__cudnn$fmhaSoftmax{suffix}", operands=operands, out=f"({shape}, u8[0])", config=config)
    assert cost.total == products * 2 * 2 * 3 * 10 * 12 * 64


@pytest.mark.parametrize(("config", "lhs"), [("{}", "f32[8,16]"), ('{"transpose_a":true}', "f32[16,8]")])
def test_onednn_product(config, lhs):
    operands = (lhs, "f32[16,4]")
    assert custom("__onednn$matmul", operands=operands, config=config).total == 2 * 8 * 4 * 16


@pytest.mark.parametrize("flops", ["123456", '"123456"'])
def test_pallas_cost_estimate(flops):
    config = '{"custom_call_config":{"body":"TUzvUg","cost_estimate":{"bytes_accessed":"4","flops":FLOPS}}}'.replace(
        "FLOPS", flops
    )
    assert custom("tpu_custom_call", config=config).total == 123456


@pytest.mark.parametrize(
    "target",
    [
        "TopK",
        "ConcatBitcast",
        "X64Combine",
        "Sharding",
        "SPMDFullToShardShape",
        "lapack_spotrf_ffi",
        "cusolver_syevd_ffi",
        "xla_ffi_python_cpu_callback",
    ],
)
def test_benign_calls(target):
    assert custom(target, out="()").total == 0


@pytest.mark.parametrize(
    "target",
    ["tpu_custom_call", "their_gemm", "__cudnn$fmhaSoftmaxF8", "__cudnn$fmhaSoftmaxBackwardF8", "__cudnn$norm"],
)
def test_unknown_calls(target):
    cost = custom(target)
    assert cost.total is None
    assert cost.unknown == (f"custom-call {target}",)
