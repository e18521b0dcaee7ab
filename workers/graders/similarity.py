"""How like a reference a text is, in [0, 1]: the metrics of OpenAI's text_similarity that need no model and no download.

Edit distance and longest common subsequence come from rapidfuzz, BLEU from sacrebleu. GLEU and ROUGE-N are counts of n-grams,
written here: the packages that have them (nltk, rouge-score) count the same way, but bring a toolkit of megabytes, and find the
common subsequence in quadratic Python. Tests hold the numbers against both packages' documentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import regex
from rapidfuzz.distance import Indel, LCSseq

MAX_CACHED_LINES = 256
_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]|(?:(?![\p{Han}\p{Hiragana}\p{Katakana}])[\p{L}\p{M}\p{N}])+")

Grams = Counter[tuple[str, ...]]


class ReferenceTooShort(ValueError):
    """No text at all could be like this reference by this metric; the message says why."""


def similarity(metric: str, text: str, reference: str) -> float:
    """`METRICS[metric]`. Raises `ReferenceTooShort`."""
    return METRICS[metric](text, reference)


def fuzzy_match(text: str, reference: str) -> float:
    """1 − (insertions and deletions) / (sum of the lengths), over characters, case counts: rapidfuzz's `ratio` / 100."""
    return Indel.normalized_similarity(text, reference)


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU-4 (Papineni et al. 2002) as sacrebleu has it: 13a tokens, exponential smoothing, and only the orders that
    the text is long enough for."""
    wanted, found = tokens_13a(reference), tokens_13a(text)
    if not wanted:
        raise ReferenceTooShort("the reference is empty, and bleu compares its words")
    score = _sacrebleu()[0].sentence_score(" ".join(found), [" ".join(wanted)]).score
    return min(float(score) / 100.0, 1.0)


def tokens_13a(text: str) -> list[str]:
    """The tokens of WMT's mteval-v13a: words and punctuation, case kept."""
    _, tokenizer, caches = _sacrebleu()
    tokens: list[str] = tokenizer(text).split()
    # sacrebleu remembers 65,536 lines and more: as many completions would fill the memory of a long job.
    for cache in caches:
        if cache.cache_info().currsize > MAX_CACHED_LINES:
            cache.cache_clear()
    return tokens


@lru_cache(maxsize=1)
def _sacrebleu() -> tuple[Any, Any, list[Any]]:
    """The scorer of text in tokens, the tokenizer, and the tokenizer's caches."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_re import TokenizerRegexp

    scorer = BLEU(effective_order=True, tokenize="none", force=True)
    return scorer, Tokenizer13a(), [Tokenizer13a.__call__, TokenizerRegexp.__call__]


def gleu(text: str, reference: str) -> float:
    """Google BLEU (Wu et al. 2016): matching n-grams of 1 to 4 tokens, over those of the longer side."""
    wanted, found = tokens_13a(reference), tokens_13a(text)
    if not wanted:
        raise ReferenceTooShort("the reference is empty, and gleu compares its words")
    matches = total_wanted = total_found = 0
    for n in range(1, 5):
        mine, theirs = _grams(found, n), _grams(wanted, n)
        matches += (mine & theirs).total()
        total_found += mine.total()
        total_wanted += theirs.total()
    return matches / max(total_found, total_wanted)


def rouge(n: int) -> Callable[[str, str], float]:
    """ROUGE-N (Lin 2004) as F1 over n-grams of words, without stemming."""

    def score(text: str, reference: str) -> float:
        wanted, found = _grams(words(reference), n), _grams(words(text), n)
        if not wanted:
            raise ReferenceTooShort(f"the reference has fewer than {n} words, so rouge_{n} is 0 for every text")
        return _f1((wanted & found).total(), found.total(), wanted.total())

    return score


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L (Lin 2004) of the whole texts as F1 over the longest common subsequence of words, without stemming."""
    wanted, found = words(reference), words(text)
    if not wanted:
        raise ReferenceTooShort("the reference has no words, and rouge_l compares words")
    return _f1(LCSseq.similarity(found, wanted), len(found), len(wanted))


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits of any script; Chinese and Japanese characters one by one."""
    return [word.lower() for word in _WORD.findall(text)]


def _grams(tokens: Sequence[str], n: int) -> Grams:
    return Counter(tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1))


def _f1(matches: int, found: int, wanted: int) -> float:
    """2PR/(P + R) with P = matches/found and R = matches/wanted, which is 2·matches/(found + wanted)."""
    return 2.0 * matches / (found + wanted)


METRICS: dict[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    **{f"rouge_{n}": rouge(n) for n in range(1, 6)},
    "rouge_l": rouge_l,
}
