"""Training verbs start once more with huge pages; nobody's own glibc options are replaced."""

import os
import sys

import pytest

from spendflops.cli import main


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's option")
@pytest.mark.parametrize(
    ("verb", "given", "again"),
    [("train", None, True), ("study", None, True), ("plugins", None, False), ("train", "glibc.malloc.check=1", False)],
)
def test_only_training_starts_again_and_only_once(verb, given, again, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda program, words: started.append((program, words)))
    monkeypatch.setattr(main, "main", lambda words: 0)
    monkeypatch.setattr(sys, "argv", ["spendflops", verb, "--x"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "spendflops", verb, "--x"])
    # Set first, so that the end of the test restores what the code changes.
    monkeypatch.setenv("GLIBC_TUNABLES", given or "")
    if given is None:
        monkeypatch.delenv("GLIBC_TUNABLES")
    with pytest.raises(SystemExit):
        main.run()
    assert started == ([(sys.executable, [sys.executable, "-m", "spendflops", verb, "--x"])] if again else [])
    if again:
        assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
        with pytest.raises(SystemExit):
            main.run()
        assert len(started) == 1
