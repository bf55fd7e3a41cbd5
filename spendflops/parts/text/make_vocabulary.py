"""Makes ``vocabulary.txt`` from ``words.txt``: the same bytes on every machine.

    python -m spendflops.parts.text.make_vocabulary

``words.txt`` is our own list of English words that captions are likely to hold, with rough frequencies. The pieces are
learned by byte pair encoding on it (Sennrich et al. 2016, algorithm 1: the most frequent pair of neighbours is merged,
ties in alphabetical order) and written in the form of a BERT vocabulary, a piece inside a word with ``##`` in front.
Libraries train WordPiece vocabularies that differ from run to run, which a file that is pinned by its hash cannot.
"""

from __future__ import annotations

import collections
import heapq
import itertools
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

SIZE = 6144
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOWELS = "aeiou"
Pair = tuple[str, str]


def frequencies(text: str) -> dict[str, int]:
    """Word -> frequency, of the sections of ``words.txt``: ``# name frequency [plural|verb]``, then words.

    Regular inflections are added with a third of the frequency.
    """
    counts: collections.Counter[str] = collections.Counter()
    weight, forms = 0, None
    for line in text.splitlines():
        if line.startswith("#"):
            _, _, number, *kind = line.split()
            weight, forms = int(number), kind[0] if kind else ""
            continue
        for word in line.replace("-", " ").split():
            counts[word] += weight
            for form in inflections(word, forms):
                counts[form] += max(weight // 3, 1)
    return dict(counts)


def inflections(word: str, kind: str) -> Iterator[str]:
    """The regular plural of a noun, or the third person, past and participle of a verb."""
    soft = len(word) > 2 and word[-1] == "y" and word[-2] not in VOWELS
    if kind in ("plural", "verb"):
        yield word[:-1] + "ies" if soft else word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")
    if kind == "verb":
        stem = word[:-1] if word.endswith("e") and not word.endswith("ee") else word
        short = len(word) <= 5 and word[-1] in "bdgmnprt" and word[-2] in VOWELS and word[-3:-2] not in (*VOWELS, "")
        stem = word + word[-1] if short else stem
        yield (word[:-1] + "i" if soft else stem) + "ed"
        yield stem + "ing"


def learn(counts: dict[str, int], alphabet: list[str], size: int) -> list[str]:
    """``alphabet`` and the pieces that merging adds to it, in the order of merging, ``size`` in all."""
    pieces = dict.fromkeys(alphabet)
    words = [[word[0], *(f"##{c}" for c in word[1:])] for word in counts]
    weights = list(counts.values())
    pairs: collections.Counter[Pair] = collections.Counter()
    where: dict[Pair, set[int]] = collections.defaultdict(set)

    def count(index: int, sign: int) -> Iterator[Pair]:
        for pair in itertools.pairwise(words[index]):
            pairs[pair] += sign * weights[index]
            where[pair].add(index)
            yield pair

    changed = {pair for index in range(len(words)) for pair in count(index, 1)}
    heap: list[tuple[int, Pair]] = []
    while len(pieces) < size:
        for pair in changed:
            heapq.heappush(heap, (-pairs[pair], pair))
        # The order of the heap is that of (frequency, alphabet); entries of pairs that were counted anew are stale.
        frequency, best = heapq.heappop(heap)
        changed = set()
        if -frequency != pairs[best] or not frequency:
            continue
        merged = best[0] + best[1].removeprefix("##")
        pieces[merged] = None
        for index in where.pop(best):
            changed.update(count(index, -1))
            words[index] = _merged(words[index], best, merged)
            changed.update(count(index, 1))
        where.pop(best, None)
    return list(pieces)


def _merged(word: list[str], pair: Pair, piece: str) -> list[str]:
    made, at = [], 0
    while at < len(word):
        found = tuple(word[at : at + 2]) == pair
        made.append(piece if found else word[at])
        at += 2 if found else 1
    return made


def vocabulary() -> str:
    """The text of ``vocabulary.txt``: specials, printable ASCII, the letters and digits inside words, then pieces."""
    counts = frequencies(resources.files(__package__).joinpath("words.txt").read_text("utf-8"))
    printable = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    inside = [f"##{c}" for c in printable if c.isalnum()]
    return "\n".join(learn(counts, [*SPECIAL, *printable, *inside], SIZE)) + "\n"


if __name__ == "__main__":
    Path(str(resources.files(__package__).joinpath("vocabulary.txt"))).write_text(vocabulary(), "utf-8")
