"""How large everything is, and the data that every contender gets: made from a seed, so that all of them see the same."""

from __future__ import annotations

import random
from dataclasses import dataclass

SPECIAL = ("<pad>", "<eos>", "<unk>")
EOS = SPECIAL.index("<eos>")
FIRST_WORD = len(SPECIAL)


@dataclass(frozen=True)
class Sizes:
    """A llama-style model and the batches of one optimizer step."""

    vocabulary: int = 8192
    hidden: int = 256
    layers: int = 4
    heads: int = 8
    key_value_heads: int = 4
    inner: int = 688
    context: int = 512
    prompts: int = 8
    group: int = 8
    prompt_tokens: int = 128
    completion_tokens: int = 64
    pairs: int = 16
    rows: int = 32
    row_tokens: tuple[int, int] = (32, 256)
    warm_up: int = 2
    repeats: int = 7


FULL = Sizes()
QUICK = Sizes(
    vocabulary=512, hidden=64, layers=2, heads=4, key_value_heads=2, inner=128, context=128, prompts=2, group=4,
    prompt_tokens=16, completion_tokens=16, pairs=4, rows=4, row_tokens=(8, 32), warm_up=1, repeats=2,
)  # fmt: skip


def words(tokens: list[int]) -> str:
    """The text whose tokens these are, under the benchmark's tokenizer; the end token is not written."""
    return "".join(f" w{token - FIRST_WORD}" for token in tokens if token != EOS)


class Data:
    """Random tokens. Lengths of completions are forced, because a model with random weights almost never ends by itself."""

    def __init__(self, sizes: Sizes, *, fixed: bool = False) -> None:
        self.sizes, self.fixed = sizes, fixed

    def _tokens(self, rng: random.Random, count: int) -> list[int]:
        return [rng.randrange(FIRST_WORD, self.sizes.vocabulary) for _ in range(count)]

    def prompts(self) -> list[list[int]]:
        """The prompts of a step."""
        rng = random.Random("prompts")
        return [self._tokens(rng, self.sizes.prompt_tokens) for _ in range(self.sizes.prompts)]

    def lengths(self, step: int) -> list[int]:
        """How long each completion of a step gets: uniform between an eighth of the limit and the limit, or the limit."""
        sizes = self.sizes
        rng = random.Random(f"lengths/{step}")
        low = max(1, sizes.completion_tokens // 8)
        return [
            sizes.completion_tokens if self.fixed else rng.randint(low, sizes.completion_tokens)
            for _ in range(sizes.prompts * sizes.group)
        ]

    def completions(self, step: int) -> list[list[int]]:
        """Given completions of those lengths, prompt after prompt, each with its end token."""
        rng = random.Random(f"completions/{step}")
        return [[*self._tokens(rng, n - 1), EOS] for n in self.lengths(step)]

    def rewards(self, half: bool) -> list[float]:
        """A reward for each completion of a step; with `half`, every second prompt's are all alike."""
        group = self.sizes.group
        spread = [k / (group - 1) for k in range(group)]
        return [r for p in range(self.sizes.prompts) for r in ([0.5] * group if half and p % 2 else spread)]

    def demonstrations(self) -> list[tuple[list[int], list[int]]]:
        """(prompt, completion) pairs whose sums of lengths are uniform over `row_tokens`; a quarter of each is prompt."""
        rng = random.Random("demonstrations")
        found = []
        for _ in range(self.sizes.rows):
            whole = rng.randint(*self.sizes.row_tokens)
            found.append((self._tokens(rng, whole // 4), [*self._tokens(rng, whole - whole // 4 - 1), EOS]))
        return found

    def pairs(self) -> list[tuple[list[int], list[int], list[int]]]:
        """(prompt, chosen, rejected), with an end token each; ragged unless `fixed`."""
        sizes, rng = self.sizes, random.Random("pairs")

        def side() -> list[int]:
            low = max(2, sizes.completion_tokens // 8)
            length = sizes.completion_tokens if self.fixed else rng.randint(low, sizes.completion_tokens)
            return [*self._tokens(rng, length - 1), EOS]

        return [(self._tokens(rng, sizes.prompt_tokens), side(), side()) for _ in range(sizes.pairs)]
