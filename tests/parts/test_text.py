"""Tokenizers: BERT's rules case by case, OpenAI's on merges of our own, the built-in vocabulary."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import pickle
import sys
from importlib import resources

import numpy as np
import pytest

from spendflops.contracts.errors import ConfigError, DataError
from spendflops.parts import text
from spendflops.parts.text import make_vocabulary
from spendflops.parts.text.bpe import byte_symbols
from spendflops.parts.text.wordpiece import words

DIGEST = "3e73b1f5536addc960b7570d202924a3a057b089b87700e4309a2ddd3ff9a6e4"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
TOY = [*SPECIAL, "un", "##aff", "##able", "able", "##a", "want", "##want", "##ed", "runn", "##ing", ",", "low", "##er"]


@pytest.fixture
def toy():
    return text.WordPiece(TOY)


def spelled(tokenizer, sentence):
    names = list(tokenizer.index)
    return [names[number] for number in tokenizer.ids(sentence)[1:-1]]


@pytest.mark.parametrize(
    "sentence, expected",
    [
        ("unaffable", ["un", "##aff", "##able"]),  # the case of the authors' tests
        ("UNwantéd,running", ["un", "##want", "##ed", ",", "runn", "##ing"]),
        ("unwanted X", ["un", "##want", "##ed", "[UNK]"]),
        ("unwantedX running", ["[UNK]", "runn", "##ing"]),  # one missing piece, and the whole word is unknown
        ("lower low", ["low", "##er", "low"]),
        ("ablea", ["able", "##a"]),  # the longest piece first
        ("\U0001f600", ["[UNK]"]),
        ("", []),
        (" \t\n ", []),
    ],
)
def test_greedy_longest_match(toy, sentence, expected):
    assert spelled(toy, sentence) == expected


def test_words_over_200_characters_are_unknown():
    letters = text.WordPiece([*SPECIAL, "a", "##a"])
    assert spelled(letters, "a" * 200) == ["a"] + ["##a"] * 199
    assert spelled(letters, "a" * 201) == ["[UNK]"]


@pytest.mark.parametrize(
    "sentence, expected",
    [
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("H\u00e9llo \u0130stanbul na\u00efve \u00c5", ["hello", "istanbul", "naive", "a"]),  # NFD, then marks go
        ("ah\u535a\u63a8zz", ["ah", "\u535a", "\u63a8", "zz"]),  # spaces around CJK
        ("\u304b\u306a", ["\u304b\u306a"]),  # kana are no CJK ideographs
        ("a$b+c^d`e_f", ["a", "$", "b", "+", "c", "^", "d", "`", "e", "_", "f"]),  # ASCII symbols are punctuation
        ("a\u00b1b \u20ac5", ["a\u00b1b", "\u20ac5"]),  # other symbols are not
        ("wait\u2026 \u201cyes\u201d\u2014no", ["wait", "\u2026", "\u201c", "yes", "\u201d", "\u2014", "no"]),
        ("a\u00a0b\u3000c\tc\r\nd", ["a", "b", "c", "c", "d"]),
        ("a\x00b\ufffdc\u200dd\x7fe", ["abcde"]),  # control and format characters vanish
        ("a\u2028b", ["a", "b"]),
        ("[SEP] [MASK]", ["[", "sep", "]", "[", "mask", "]"]),  # a caption cannot hold special tokens
    ],
)
def test_words_of_bert(sentence, expected):
    assert list(words(sentence, lower=True)) == expected


def test_cased_vocabularies_keep_case_and_accents():
    assert list(words("H\u00e9llo, World", lower=False)) == ["H\u00e9llo", ",", "World"]
    assert text.WordPiece(TOY).lower and not text.WordPiece([*TOY, "Low"]).lower
    assert text.WordPiece([*TOY, "Low"], lower=True).lower
    assert spelled(text.WordPiece([*TOY, "Low"]), "Low low") == ["Low", "low"]


def test_ascii_and_unicode_rules_agree():
    """The fast path of plain ASCII gives what the rules for all characters give."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        plain = "".join(map(chr, rng.integers(32, 127, rng.integers(1, 30))))
        slow = list(words(plain + "\u00a0", lower=True))
        assert list(words(plain, lower=True)) == slow


def test_encode_cuts_on_the_right_and_keeps_the_end(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(TOY) + "\n")
    ids = text.encode(str(path), "lower low able", 8)
    assert ids.tolist() == [2, 15, 16, 15, 7, 3, 0, 0] and ids.dtype == np.int32
    assert text.encode(str(path), "lower low able", 6).tolist() == [2, 15, 16, 15, 7, 3]
    assert text.encode(str(path), "lower low able", 4).tolist() == [2, 15, 16, 3]
    assert text.encode(str(path), "", 4).tolist() == [2, 3, 0, 0]
    assert text.tokenizer(str(path)).size == len(TOY)


def test_remembered_words_change_nothing(toy, monkeypatch):
    monkeypatch.setattr("spendflops.parts.text.remember.LARGEST", 2)
    again = pickle.loads(pickle.dumps(toy))
    for sentence in ("lower low able", "able lower unaffable", "lower low able"):
        assert toy.ids(sentence) == again.ids(sentence) == text.WordPiece(TOY).ids(sentence)
    assert len(toy._known) <= 2


def test_builtin_vocabulary_is_the_one_that_is_made():
    """Its bytes are pinned: a tokenizer that changes makes stored weights worthless."""
    stored = resources.files("spendflops.parts.text").joinpath("vocabulary.txt").read_bytes()
    assert hashlib.sha256(stored).hexdigest() == DIGEST
    assert make_vocabulary.vocabulary().encode() == stored
    tokens = stored.decode().split("\n")[:-1]
    assert len(stored) < 100_000 and len(set(tokens)) == len(tokens) == make_vocabulary.SIZE == 6144
    assert tokens[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def test_builtin_vocabulary_reads_captions():
    builtin = text.tokenizer(text.BUILTIN)
    caption = text.pseudo_caption(["Siberian husky", "tench"])
    assert caption == "This is a photo of Siberian husky and tench."
    assert spelled(builtin, caption) == ["this", "is", "a", "photo", "of", "siberian", "husky", "and", "tench", "."]
    # Every printable character has a piece at the start and, letters and digits, inside of a word.
    every = "".join(map(chr, range(33, 127)))
    assert builtin.unknown not in builtin.ids(f"{every} zqxjkv0987 na\u00efve")
    assert text.pseudo_caption(["A"]) == "This is a photo of A."


@pytest.mark.parametrize(
    "word, kind, forms",
    [
        ("dog", "plural", ["dogs"]),
        ("fox", "plural", ["foxes"]),
        ("berry", "plural", ["berries"]),
        ("monkey", "plural", ["monkeys"]),
        ("hop", "verb", ["hops", "hopped", "hopping"]),
        ("bake", "verb", ["bakes", "baked", "baking"]),
        ("cry", "verb", ["cries", "cried", "crying"]),
        ("rest", "verb", ["rests", "rested", "resting"]),
        ("look", "verb", ["looks", "looked", "looking"]),
        ("red", "", []),
    ],
)
def test_inflections(word, kind, forms):
    assert list(make_vocabulary.inflections(word, kind)) == forms


def test_frequencies():
    counts = make_vocabulary.frequencies("# one 30 plural\ndog close-up\n# two 2\ndog\n")
    assert counts == {"dog": 32, "dogs": 10, "close": 30, "closes": 10, "up": 30, "ups": 10}


def test_merges_are_of_the_most_frequent_pair():
    """Against a learner that counts everything anew for each merge."""
    counts = {"low": 5, "lower": 2, "newest": 6, "widest": 3, "wow": 5, "aaa": 4}
    alphabet = sorted({c for w in counts for c in (w[0], *(f"##{x}" for x in w[1:]))})
    split = {w: [w[0], *(f"##{c}" for c in w[1:])] for w in counts}
    expected = list(alphabet)
    while len(expected) < len(alphabet) + 12:
        pairs = {}
        for w, parts in split.items():
            for pair in itertools.pairwise(parts):
                pairs[pair] = pairs.get(pair, 0) + counts[w]
        best = sorted(pairs, key=lambda p: (-pairs[p], p))[0]
        merged = best[0] + best[1][2:]
        expected.append(merged)
        for parts in split.values():
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = [merged]
                at += 1
    made = make_vocabulary.learn(counts, alphabet, len(expected))
    assert made == list(dict.fromkeys(expected))


def test_byte_pairs(tmp_path):
    lines = ["#version: toy", "l o", "lo w</w>", "e r</w>", "' s</w>", "\u00c3 \u00a9</w>"]
    name = str(tmp_path / "merges.txt.gz")
    (tmp_path / "merges.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    found = text.tokenizer(name)
    assert (found.size, found.first, found.last, found.pad) == (519, 517, 518, 0)
    names = list(found.index)

    def pieces(sentence):
        ids = found.ids(sentence)
        assert ids[0] == found.first and ids[-1] == found.last
        return [names[number] for number in ids[1:-1]]

    assert pieces("Low  LOWER\n") == ["low</w>", "lo", "w", "er</w>"]
    assert pieces("low's '' 12") == ["low</w>", "'s</w>", "'", "'</w>", "1</w>", "2</w>"]
    assert pieces("l&amp;amp;o") == ["l</w>", "&</w>", "o</w>"]
    assert pieces("\u00e9") == pieces("e\u0301") == ["\u00c3\u00a9</w>"]  # composed; two bytes, one merge
    assert pieces("a_b\u00bd") == ["a</w>", "_</w>", "b</w>", "\u00c2", "\u00bd</w>"]  # neither _ nor 1/2 is a letter
    assert found.index["!"] == 0 and found.index["a"] == 64
    assert text.encode(name, "low low low", 4).tolist() == [517, found.index["low</w>"], found.index["low</w>"], 518]
    symbols = byte_symbols()
    assert len(set(symbols.values())) == len(symbols) == 256 and not any(s.isspace() for s in symbols.values())
    with pytest.raises(DataError, match=r"(?s)no file of merges.*line 3"):
        text.BytePairs(["#", "l o", "l o w"])
    with pytest.raises(DataError, match="no file of merges"):
        text.BytePairs(["#"])


def test_byte_pairs_remember_without_changing(monkeypatch):
    monkeypatch.setattr("spendflops.parts.text.remember.LARGEST", 1)
    found = text.BytePairs(["#", "l o"])
    assert found.ids("lo low lo") == found.ids("lo low lo") and len(found._known) == 1


def test_names_that_are_no_tokenizer(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)unknown tokenizer 'bert'.*builtin"):
        text.tokenizer("bert")
    with pytest.raises(DataError, match="cannot be read"):
        text.tokenizer(str(tmp_path / "vocab.txt"))
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"(?s)no token '\[PAD\]'.*BERT"):
        text.tokenizer(str(tmp_path / "words.txt"))
    (tmp_path / "short.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(DataError, match="cannot be read"):
        text.tokenizer(str(tmp_path / "short.gz"))


def test_json_needs_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"(?s)not installed.*pip install 'spendflops\[text\]'"):
        text.tokenizer(str(tmp_path / "tokenizer.json"))


def test_json_with_the_library(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    engine = tokenizers.Tokenizer(tokenizers.models.WordPiece({t: i for i, t in enumerate(TOY)}, unk_token="[UNK]"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    engine.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    engine.enable_truncation(3)
    path = tmp_path / "tokenizer.json"
    engine.save(str(path))
    found = text.tokenizer(str(path))
    assert found.size == len(TOY) and found.pad == 0
    assert text.encode(str(path), "lower low able", 8).tolist() == [2, 15, 16, 15, 7, 3, 0, 0]
    assert text.encode(str(path), "lower low able", 4).tolist() == [2, 15, 16, 3]
    path.with_name("other.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(DataError, match="no tokenizer"):
        text.tokenizer(str(path.with_name("other.json")))
