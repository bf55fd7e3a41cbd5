"""Counter C on a whole module in the form of XLA's compiler for GPUs.

The module is written by hand from the documented form of its library calls (names and configurations as in XLA's
cublas_cudnn.h and gpu backend_configs.proto): no GPU was at hand. It is a step of a small transformer: patches by
cuDNN, a loop of 3 layers with cuBLAS, fused attention and a Triton fusion, then gradients of the last product and of
the patches.
"""

import re

import pytest

from spendflops.accounts.flops import count_hlo

BATCH, TOKENS, DIM, HEADS, LAYERS, PATCH = 2, 16, 64, 4, 3, 4

GEMM = (
    '{"operation_queue_id":"0","gemm_backend_config":{"alpha_real":1,"beta":0,"dot_dimension_numbers":'
    '{"lhs_contracting_dimensions":["LHS"],"rhs_contracting_dimensions":["RHS"],"lhs_batch_dimensions":[],'
    '"rhs_batch_dimensions":[]},"alpha_imag":0,"epilogue":"EPILOGUE","selected_algorithm":"0"},'
    '"force_earliest_schedule":false}'
)
FMHA = (
    '{"operation_queue_id":"0","cudnn_fmha_backend_config":{"algorithm":{"algo_id":"0","math_type":"TENSOR_OP_MATH"},'
    '"fmha_scale":0.25,"intermediate_tensor_shape":{"element_type":"BF16","dimensions":["2","4","16","16"],'
    '"tuple_shapes":[],"layout":{"minor_to_major":["3","2","1","0"]}},"bmm1_dot_dimension_numbers":'
    '{"lhs_contracting_dimensions":["3"],"rhs_contracting_dimensions":["3"],"lhs_batch_dimensions":["0","2"],'
    '"rhs_batch_dimensions":["0","2"]},"mask_type":"NO_MASK"}}'
)


def gemm(lhs, rhs, epilogue="DEFAULT"):
    return GEMM.replace("LHS", str(lhs)).replace("RHS", str(rhs)).replace("EPILOGUE", epilogue)


MODULE = f"""HloModule jit_step, is_scheduled=true, entry_computation_layout={{(bf16[2,3,16,16]{{3,2,1,0}})->bf16[64,3,4,4]{{3,2,1,0}}}}

%triton_gemm (a: bf16[32,256], b: bf16[256,64]) -> bf16[32,64] {{
  %a = bf16[32,256]{{1,0}} parameter(0)
  %b = bf16[256,64]{{1,0}} parameter(1)
  ROOT %dot.7 = bf16[32,64]{{1,0}} dot(%a, %b), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}, metadata={{op_name="jit(step)/jvp(forward)/while/body/mlp/dot_general"}}
}}

%body (s: (s32[], bf16[32,64])) -> (s32[], bf16[32,64]) {{
  %s = (s32[], bf16[32,64]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = bf16[32,64]{{1,0}} get-tuple-element(%s), index=1
  %wqkv = bf16[64,192]{{1,0}} constant({{...}})
  %qkv = (bf16[32,192]{{1,0}}, s8[33554432]{{0}}) custom-call(%x, %wqkv), custom_call_target="__cublas$gemm", metadata={{op_name="jit(step)/jvp(forward)/while/body/attn/dot_general"}}, backend_config={gemm(1, 0)}
  %qkv.0 = bf16[32,192]{{1,0}} get-tuple-element(%qkv), index=0
  %q = bf16[2,16,4,16]{{3,2,1,0}} bitcast(%qkv.0)
  %attend = (bf16[2,16,4,16]{{3,1,2,0}}, u8[0]{{0}}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", operand_layout_constraints={{bf16[2,16,4,16]{{3,2,1,0}}}}, metadata={{op_name="jit(step)/jvp(forward)/while/body/attn/softmax"}}, backend_config={FMHA}
  %attend.0 = bf16[2,16,4,16]{{3,1,2,0}} get-tuple-element(%attend), index=0
  %flat = bf16[32,64]{{1,0}} bitcast(%attend.0)
  %wout = bf16[64,64]{{1,0}} constant({{...}})
  %out = (bf16[32,64]{{1,0}}, s8[33554432]{{0}}) custom-call(%flat, %wout), custom_call_target="__cublas$lt$matmul", metadata={{op_name="jit(step)/jvp(forward)/while/body/attn/dot_general"}}, backend_config={gemm(1, 0)}
  %out.0 = bf16[32,64]{{1,0}} get-tuple-element(%out), index=0
  %wup = bf16[64,256]{{1,0}} constant({{...}})
  %bias = bf16[256]{{0}} constant({{...}})
  %up = (bf16[32,256]{{1,0}}, s8[33554432]{{0}}) custom-call(%out.0, %wup, %bias), custom_call_target="__cublas$lt$matmul", metadata={{op_name="jit(step)/jvp(forward)/while/body/mlp/dot_general"}}, backend_config={gemm(1, 0, "BIAS_GELU")}
  %up.0 = bf16[32,256]{{1,0}} get-tuple-element(%up), index=0
  %wdown = bf16[256,64]{{1,0}} constant({{...}})
  %down = bf16[32,64]{{1,0}} fusion(%up.0, %wdown), kind=kCustom, calls=%triton_gemm, backend_config={{"fusion_backend_config":{{"kind":"__triton_gemm"}}}}
  ROOT %t = (s32[], bf16[32,64]{{1,0}}) tuple(%next, %down)
}}

%cond (s: (s32[], bf16[32,64])) -> pred[] {{
  %s = (s32[], bf16[32,64]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %bound = s32[] constant(3)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}}

ENTRY %main (images: bf16[2,3,16,16], w: bf16[64,3,4,4]) -> bf16[64,3,4,4] {{
  %images = bf16[2,3,16,16]{{3,2,1,0}} parameter(0)
  %w = bf16[64,3,4,4]{{3,2,1,0}} parameter(1)
  %key = u32[2]{{0}} constant({{1, 2}})
  %random = (u32[64]{{0}}, u32[64]{{0}}) custom-call(%key, %key), custom_call_target="cu_threefry2x32_ffi", api_version=API_VERSION_TYPED_FFI
  %patches = (bf16[2,64,4,4]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%images, %w), window={{size=4x4 stride=4x4}}, dim_labels=bf01_oi01->bf01, custom_call_target="__cudnn$convForward", metadata={{op_name="jit(step)/jvp(forward)/conv_general_dilated"}}, backend_config={{"cudnn_conv_backend_config":{{"conv_result_scale":1,"activation_mode":"kNone"}}}}
  %patches.0 = bf16[2,64,4,4]{{3,2,1,0}} get-tuple-element(%patches), index=0
  %x = bf16[32,64]{{1,0}} bitcast(%patches.0)
  %zero = s32[] constant(0)
  %init = (s32[], bf16[32,64]{{1,0}}) tuple(%zero, %x)
  %loop = (s32[], bf16[32,64]{{1,0}}) while(%init), condition=%cond, body=%body, backend_config={{"known_trip_count":{{"n":"3"}},"known_init_step":{{"init":"0","step":"1"}}}}
  %y = bf16[32,64]{{1,0}} get-tuple-element(%loop), index=1
  %whead = bf16[64,64]{{1,0}} constant({{...}})
  %dy = (bf16[32,64]{{1,0}}, s8[33554432]{{0}}) custom-call(%y, %whead), custom_call_target="__cublas$gemm", metadata={{op_name="jit(step)/transpose(jvp(forward))/dot_general"}}, backend_config={gemm(1, 1)}
  %dy.0 = bf16[32,64]{{1,0}} get-tuple-element(%dy), index=0
  %dpatches = bf16[2,64,4,4]{{3,2,1,0}} bitcast(%dy.0)
  %dw = (bf16[64,3,4,4]{{3,2,1,0}}, u8[1024]{{0}}) custom-call(%images, %dpatches), window={{size=4x4 stride=4x4}}, dim_labels=bf01_oi01->bf01, custom_call_target="__cudnn$convBackwardFilter", metadata={{op_name="jit(step)/transpose(jvp(forward))/conv_general_dilated"}}, backend_config={{"cudnn_conv_backend_config":{{"conv_result_scale":1}}}}
  ROOT %dw.0 = bf16[64,3,4,4]{{3,2,1,0}} get-tuple-element(%dw), index=0
}}
"""  # noqa: E501

ROWS = BATCH * TOKENS
PATCHES = 2 * ROWS * DIM * 3 * PATCH**2
LAYER = 2 * ROWS * 12 * DIM**2 + 2 * 2 * BATCH * TOKENS**2 * DIM
GRADIENT = 2 * ROWS * DIM**2


def test_library_calls_of_a_whole_module_are_decoded():
    cost = count_hlo(MODULE)
    assert cost.phases == {"forward": PATCHES + LAYERS * LAYER, "backward": GRADIENT + PATCHES}
    assert cost.dtypes == {"bfloat16": cost.total} and not cost.unknown
    kinds = {op.kind: op.times for op in cost.ops if op.phase == "forward"}
    assert kinds["__cudnn$fmhaSoftmax"] == kinds["dot"] == LAYERS and kinds["__cudnn$convForward"] == 1


@pytest.mark.parametrize(
    "target", ["__cublas$gemm", "__cudnn$fmhaSoftmax", "__cudnn$convForward", "cu_threefry2x32_ffi"]
)
def test_a_call_of_another_library_is_named_and_the_rest_is_a_lower_bound(target):
    replaced = MODULE.replace(f'"{target}"', '"their_kernel"', 1)
    assert replaced != MODULE
    cost = count_hlo(replaced)
    assert cost.total is None and cost.unknown == ("custom-call their_kernel",)
    known = count_hlo(MODULE).total
    assert sum(cost.phases.values()) == known if target.startswith("cu_") else sum(cost.phases.values()) < known


def test_the_length_of_a_loop_is_what_the_compiler_says_or_its_condition():
    unsaid = re.sub(r', backend_config=\{"known_trip_count".*', "", MODULE)
    assert unsaid != MODULE and count_hlo(unsaid) == count_hlo(MODULE)
