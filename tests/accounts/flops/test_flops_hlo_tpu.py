"""Counter C on what the compiler for TPUs made of small programs of ours (`tpuprograms.py`), beside counter B."""

import jax
import pytest
from tpuprograms import FOLDER, PROGRAMS, arguments

from spendflops.accounts.flops import count_hlo, count_jaxpr


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_compiled_for_a_tpu_has_the_flops_of_the_traced_one(name):
    _, devices, step, *shapes = PROGRAMS[name]
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    hardware, model = count_hlo(text, devices=devices), count_jaxpr(jax.make_jaxpr(step)(*arguments(*shapes)))
    assert hardware.total == model.total > 0
    assert hardware.phases == model.phases and hardware.rematted == model.rematted
    # The forms that are meant: every product is a convolution, and no loop states its length.
    assert " convolution(" in text and " dot(" not in text and "known_trip_count" not in text


def test_the_programs_hold_what_is_hard_to_count():
    loops = {name for name in PROGRAMS if " while(" in (FOLDER / f"{name}.txt").read_text(encoding="utf-8")}
    dilated = {name for name in PROGRAMS if "lhs_dilate=" in (FOLDER / f"{name}.txt").read_text(encoding="utf-8")}
    assert loops == {"rematted_v3", "layers_v3_8_devices", "layers_v5e_bfloat16"}
    assert dilated >= {"attention_v5e", "convolutions_v3"}


def test_a_kernel_that_states_no_cost_is_named():
    text = (FOLDER / "attention_v5e.txt").read_text(encoding="utf-8")
    kernel = 'ROOT %k = f32[8,8] custom-call(%p), custom_call_target="tpu_custom_call"'
    call = text.replace(
        "\nENTRY ", f"\n%kernel (p: f32[8,8]) -> f32[8,8] {{\n  %p = f32[8,8] parameter(0)\n  {kernel}\n}}\n\nENTRY "
    )
    entry = call.index("\nENTRY ")
    first = call.index("\n  ", entry)
    call = call[:first] + "\n  %z = f32[8,8] constant(0)\n  %c = f32[8,8] call(%z), to_apply=%kernel" + call[first:]
    cost = count_hlo(call)
    assert cost.total is None and cost.unknown == ("custom-call tpu_custom_call",)
    assert sum(cost.phases.values()) == count_hlo(text).total
