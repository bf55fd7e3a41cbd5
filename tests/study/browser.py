"""A real Chromium without a network: what it says on its console, and what of a page it shows at some widths."""

import dataclasses
import html
import json
import re
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome")
_MEASURE = """
addEventListener('load', () => {
  const frames = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const seen = name => [...page.querySelectorAll(name)].filter(e => e.getClientRects().length);
    const wide = e => e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest('.scroll, pre');
    return {
      overflow: root.scrollWidth - root.clientWidth,
      wide: seen('body *').filter(wide).map(e => e.tagName),
      tables: seen('table').map(e => [...e.rows].map(row => [...row.cells].map(cell => cell.textContent))),
      charts: seen('svg').filter(e => e.getBoundingClientRect().height > 20).length,
      loaded: seen('img').filter(e => e.naturalWidth > 0).length,
      smallest: Math.min(...seen('svg').map(e => {
        const text = e.querySelector('text'), box = e.viewBox.baseVal.width;
        return text ? parseFloat(frame.contentWindow.getComputedStyle(text).fontSize) * e.clientWidth / box : 99;
      })),
      background: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    };
  });
  document.getElementById('found').textContent = JSON.stringify(frames);
});
"""


@dataclasses.dataclass(frozen=True)
class Chromium:
    """A browser that finds no name but those of files.

    Attributes:
        program: What to start.
        profile: A folder for what it writes.
    """

    program: str
    profile: str

    def run(self, path, *options):
        """The page after it was loaded, as HTML, and the lines that it wrote to its console."""
        command = [self.program, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
                   "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self.profile}", *options,
                   "--dump-dom", f"file://{path}"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout, re.findall(r"CONSOLE[:(]\d+\)?\] (.*)", done.stderr)

    def measure(self, path, widths, folder, *options, scripts=True):
        """What is seen of a page in windows of some widths, a dictionary each, and the lines on the console."""
        frame = "" if scripts else 'sandbox="allow-same-origin"'
        with open(path, encoding="utf-8") as file:
            page = html.escape(file.read())
        frames = "".join(f'<iframe {frame} width="{w}" height="900" srcdoc="{page}"></iframe>' for w in widths)
        outer = folder / "outer.html"
        outer.write_text(f"<!doctype html>{frames}<pre id=found></pre><script>{_MEASURE}</script>", encoding="utf-8")
        dumped, console = self.run(outer, *options)
        return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dumped)[1])), console


def find(profile):
    """A Chromium that keeps its profile in a folder; None where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return None if found is None else Chromium(found, str(profile))
