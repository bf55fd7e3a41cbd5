"""The page in a real Chromium, the network blocked: charts, tables without scripts, no overflow, a quiet console."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_report import Page

from spendflops.study.report import write

PHONE, DESKTOP = 390, 1280


@pytest.fixture
def path(study, tmp_path):
    return write(study, tmp_path / "report")["html"]


def test_the_page_is_whole_at_both_widths(chromium, path, tmp_path):
    with open(path, encoding="utf-8") as file:
        source = Page(file.read())
    (phone, desktop), console = chromium.measure(path, (PHONE, DESKTOP), tmp_path)
    assert console == []
    for seen in (phone, desktop):
        assert seen["overflow"] <= 0 and seen["wide"] == []
        assert seen["tables"] == source.tables
        assert seen["charts"] == [tag for tag, _ in source.tags].count("svg") // 2  # wide or narrow
        assert seen["smallest"] >= 9.5  # pixels of the text in a chart


def test_tables_are_there_without_scripts(chromium, path, tmp_path):
    with open(path, encoding="utf-8") as file:
        source = Page(file.read())
    (seen,), console = chromium.measure(path, (PHONE,), tmp_path, scripts=False)
    assert seen["tables"] == source.tables and len(source.tables) == 8
    assert console == []


def test_dark_windows_get_a_dark_page(chromium, path, tmp_path):
    (light,), _ = chromium.measure(path, (DESKTOP,), tmp_path)
    (dark,), _ = chromium.measure(path, (DESKTOP,), tmp_path, "--blink-settings=preferredColorScheme=0")
    shades = [sum(map(int, re.findall(r"\d+", seen["background"]))) for seen in (light, dark)]
    assert shades[0] == 3 * 255 and shades[1] < 3 * 60


def test_what_is_wrong_with_a_page_is_seen(chromium, study, tmp_path):
    """The measurements above can fail: a picture from elsewhere, a script, and a line that is too long."""
    path = tmp_path / "bad.html"
    with open(write(dataclasses.replace(study, notes=("W" * 500,)), tmp_path)["html"], encoding="utf-8") as file:
        page = file.read()
    path.write_text(page.replace("<main>", '<main><img src="https://example.org/x.png"><script>1</script>'))
    (phone,), console = chromium.measure(path, (PHONE,), tmp_path)
    assert phone["loaded"] == 0 and len(console) == 2 and all("Content Security Policy" in line for line in console)
    path.write_text(page.replace("<main>", '<main><div style="width:900px">wide</div>'))
    (phone,), _ = chromium.measure(path, (PHONE,), tmp_path)
    assert phone["overflow"] > 400 and "DIV" in phone["wide"]


@pytest.mark.slow
def test_three_hundred_runs_stay_under_two_megabytes(chromium, tmp_path):
    """A study of 303 runs with two pictures each, as benchmarks/report.py makes it."""
    script = Path(__file__).parents[2] / "benchmarks/report.py"
    code = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import report; from pathlib import Path; " + (
        f"print(len(report.make(Path({str(tmp_path)!r}), quick=False).rows))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(made.stdout.split()[-1]) == 303
    page = tmp_path / "report.html"
    assert page.stat().st_size < 2e6
    (phone, desktop), console = chromium.measure(page, (PHONE, DESKTOP), tmp_path)
    assert console == [] and phone["tables"] == desktop["tables"] and len(phone["tables"][-1]) > 300
    assert all(seen["overflow"] <= 0 and seen["wide"] == [] for seen in (phone, desktop))
