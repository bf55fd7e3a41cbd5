#!/usr/bin/env bash
# Takes docs/report.png, the picture in the README, from a study's report: docs/picture.sh runs/quickstart/report.html
# Needs Chromium (CHROMIUM=/path/to/it where it is not called chromium). The picture has 256 colours at most: under 300 kB.
set -euo pipefail
cd "$(dirname "$0")/.."
report=$(realpath "${1:?usage: docs/picture.sh runs/quickstart/report.html}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${CHROMIUM:-chromium}" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$scratch/profile" \
    --window-size=1100,"${HEIGHT:-1250}" --screenshot="$scratch/report.png" "file://$report" 2>"$scratch/log" \
    || { cat "$scratch/log" >&2; exit 1; }
.venv/bin/python - "$scratch/report.png" docs/report.png <<'END'
import sys

from PIL import Image

Image.open(sys.argv[1]).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(sys.argv[2], optimize=True)
END
ls -l docs/report.png
