"""The runner of the commands in the documents."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fenced

TEXT = """# Title
```bash
echo one >> log
```
```text
false
```
<!-- not run: takes hours -->
```bash
false
```
## A method in thirty minutes
### Files
```bash
x=two
echo $x >> log
```
"""


def test_blocks_with_their_sections_and_reasons():
    found = fenced.blocks(TEXT)
    assert [(b.line, b.skipped) for b in found] == [(2, ""), (9, "takes hours"), (14, "")]
    assert found[2].section == ("Title", "A method in thirty minutes", "Files")
    assert found[2].script == "x=two\necho $x >> log"


@pytest.mark.parametrize(
    "text", ["```bash\necho\n", "<!-- not run: why -->\n", "<!-- not run: why -->\nwords\n```bash\ntrue\n```\n"]
)
def test_what_cannot_be_meant_is_refused(text):
    with pytest.raises(ValueError):
        fenced.blocks(text)


def test_all_blocks_of_a_file_or_one_section_in_an_empty_folder(tmp_path, capfd):
    document = tmp_path / "doc.md"
    document.write_text(TEXT)
    assert fenced.main([str(document), "--root", str(tmp_path)]) == 0
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert "not run: takes hours" in capfd.readouterr().out
    assert fenced.main([str(document), "--empty", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new/log").read_text() == "two\n"
    with pytest.raises(SystemExit):
        fenced.main([str(document), "--empty", str(tmp_path / "new")])


def test_the_first_failure_ends_the_run(tmp_path):
    document = tmp_path / "doc.md"
    document.write_text("```bash\nfalse | true\necho after >> log\n```\n```bash\necho next >> log\n```\n")
    assert fenced.main([str(document), "--root", str(tmp_path)]) == 1
    assert not (tmp_path / "log").exists()
