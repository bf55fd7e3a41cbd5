"""The kit against itself: sound plugins pass, and each planted bug makes exactly its check fail."""

import importlib

import planted
import pytest

import spendflops.testing
from spendflops.contracts import errors, registry
from spendflops.testing import kit

ALL = [(group, f.__name__) for group in registry.GROUPS for f in importlib.import_module(kit.MODULES[group]).CHECKS]
IN_PROCESSES = ("devices",)


def made(group, cls, **given):
    given = {"backbone": planted.Patches, **given} if group == "objectives" else given
    return {check.name: check for check in kit.checks(group, cls, given=given)}


@pytest.mark.parametrize(("group", "cls"), [(g, c) for g, many in planted.SOUND.items() for c in many])
def test_sound_plugins_pass(group, cls):
    outcomes = {name: check() for name, check in made(group, cls).items()}
    assert {name: o for name, o in outcomes.items() if o.status not in ("ok", "skipped")} == {}
    assert {name for name, o in outcomes.items() if o.status == "skipped"} <= {"devices"}


def test_every_check_has_a_planted_bug():
    assert sorted(planted.BUGS) == sorted(ALL)


@pytest.mark.parametrize(("group", "name"), [c for c in ALL if c[1] not in IN_PROCESSES], ids=lambda x: x)
def test_the_planted_bug_fails_its_check(group, name):
    outcome = made(group, planted.BUGS[group, name])[name]()
    assert outcome.status == "FAILED", outcome
    assert outcome.reason.splitlines()[0].endswith(".") and len(outcome.reason.splitlines()) > 1


def test_a_hierarchy_says_what_the_levels_are():
    class Halves(planted.Patches):
        hierarchy = ((8, 4), (8, 8))

    outcome = made("backbones", Halves)["levels"]()
    assert outcome.status == "FAILED" and "((8, 4), (8, 8)), but the levels" in outcome.reason


def test_what_is_kept_is_given_and_not_sent_to_the_device():
    class Forgotten(planted.Beside):
        kept = ("marks", "ground_truth")

    class Twice(planted.Beside):
        kept = ("marks", "label")

    for cls, name in ((Forgotten, "ground_truth"), (Twice, "label")):

        class Keeps(planted.SoundHost):
            def preprocess(self, *, role, info, spec, cls=cls):
                return cls.of(info=info, spec=spec, read=("image", "label"), asker="sound")

        outcome = made("evaluators", Keeps)["preprocess"]()
        assert outcome.status == "FAILED" and f"keeps '{name}'" in outcome.reason


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("../hits.txt", b"", "plain name"),
        ("hits.txt", "text", "is str"),
        ("example_0.jpg", b"\xff\xd8", "is no picture"),
        ("example_0.jpg", planted.PNG, "is PNG of"),
        ("example_0.png", planted.PNG + bytes(1 << 18), "at most"),
    ],
)
def test_files_that_cannot_be_kept_or_shown(name, content, words):
    class Keeps(planted.SoundHost):
        def files(self, rows, *, info, opened):
            return {name: content}

    outcome = made("evaluators", Keeps)["files"]()
    assert outcome.status == "FAILED" and words in outcome.reason


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), ALL, ids=lambda x: x)
def test_the_planted_bug_fails_no_other_check(group, name):
    given = {"devices": 8} if name in IN_PROCESSES else {}
    found = made(group, planted.BUGS[group, name], **given)
    failed = {check.name for check in found.values() if check().status == "FAILED"}
    assert failed == {name} | planted.ALSO.get((group, name), set())


@pytest.mark.slow
def test_eight_devices_give_what_one_gives():
    assert made("objectives", planted.Sound, devices=8)["devices"]().status == "ok"


def test_the_one_line_is_a_parametrised_test():
    class Declared(planted.Global):
        expected_failures = {"global_rng": "known, see the issue"}  # noqa: RUF012

    test = spendflops.testing.dataset_tests(Declared)
    (mark,) = test.pytestmark
    cases = {check.name: check for check in mark.args[1]}
    assert mark.kwargs["ids"] == list(cases)
    test(cases["access"])
    with pytest.raises(pytest.xfail.Exception, match="known, see the issue"):
        test(cases["global_rng"])
    plain = spendflops.testing.dataset_tests(planted.Global)
    with pytest.raises(pytest.fail.Exception, match=r"(?s)global_rng: .*derive randomness from the index"):
        plain({check.name: check for check in plain.pytestmark[0].args[1]}["global_rng"])


def test_an_expected_failure_that_holds_is_a_failure():
    class Repaired(planted.SoundData):
        expected_failures = {"splits": "leaky"}  # noqa: RUF012

    outcome = made("datasets", Repaired)["splits"]()
    assert outcome.status == "FAILED" and "remove the entry" in outcome.reason


def test_checks_that_say_nothing_are_skipped_visibly():
    found = made("datasets", planted.Shorter)
    assert found["repeats"]().status == "skipped" and "'access'" in found["repeats"]().reason


def test_unknown_names_are_errors():
    class Misspelt(planted.SoundData):
        expected_failures = {"split": "?"}  # noqa: RUF012

    with pytest.raises(errors.ConfigError, match="did you mean 'splits'"):
        list(kit.checks("datasets", Misspelt))
    with pytest.raises(errors.ConfigError, match="no option 'compute_type'"):
        list(kit.checks("objectives", planted.Sound, options={"compute_type": "float32"}))
    with pytest.raises(errors.ConfigError, match="needs path"):
        list(kit.checks("datasets", "folder"))
