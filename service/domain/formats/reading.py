"""What a row says, whatever its format: a prompt, an answer worth imitating, a pair. Between formats and our kinds of row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.domain.conversation import as_messages
from service.domain.dataset import DatasetKind
from service.domain.formats.source import Fault, FormatError, Source, Turn, fail

Prompt = str | list[Turn]


@dataclass(frozen=True, slots=True)
class Options:
    """What an import is told beside the file.

    `judge` grades criteria that come with a file; `polarity` says who decides whether meeting a pitfall is good or bad;
    `weights` are the file's, or those that the RaR paper gives to a criterion's category.
    """

    judge: str | None = None
    polarity: str | None = None
    weights: str = "file"
    decided: Counter[str] = field(default_factory=Counter)
    """Pitfalls by the polarity that their first words gave them, counted while they are read."""


@dataclass(slots=True)
class Reading:
    """A row's content. `good` is the answer to imitate and the better one of a pair, `bad` the worse one.

    `joined`: prompt and answer are written as one conversation. `no_answer`, `no_pair`: why a row has none.
    """

    prompt: Prompt
    good: str | None = None
    bad: str | None = None
    joined: bool = False
    own: dict[str, Any] = field(default_factory=dict)
    no_answer: Fault | None = None
    no_pair: Fault | None = None

    @property
    def messages(self) -> list[Turn]:
        """The prompt as messages."""
        return as_messages(self.prompt) if isinstance(self.prompt, str) else self.prompt

    def conversation(self, answer: str) -> list[Turn]:
        """Prompt and answer as messages."""
        return [*self.messages, {"role": "assistant", "content": answer}]

    def completion(self, answer: str) -> str | list[Turn]:
        """An answer in the form of the prompt: text, or one message."""
        return answer if isinstance(self.prompt, str) else [{"role": "assistant", "content": answer}]

    def content(self, kind: DatasetKind) -> dict[str, Any]:
        """Our row of this kind; `FormatError` if there is not enough for one."""
        text = isinstance(self.prompt, str)
        if kind == "prompts":
            if not self.prompt:
                raise FormatError(_NOTHING[kind])
            return {"prompt" if text else "messages": self.prompt, **self.own}
        if self.good is None or (kind == "preferences" and self.bad is None):
            missing = self.no_answer if kind == "demonstrations" else self.no_pair
            raise FormatError(missing or _NOTHING[kind])
        if kind == "demonstrations":
            if self.joined and not text:
                return {"messages": self.conversation(self.good), **self.own}
            return {"prompt": self.prompt, "completion": self.good, **self.own}
        assert self.bad is not None
        pair = {"chosen": self.completion(self.good), "rejected": self.completion(self.bad)}
        return {"prompt": self.prompt, **pair, **self.own}

    @classmethod
    def of(cls, content: Mapping[str, Any], kind: DatasetKind) -> Reading:
        """What one of our own rows says."""
        own = {name: content[name] for name in OWN_FIELDS[kind] if name in content}
        if kind == "prompts":
            return cls(content.get("prompt") or content["messages"], own=own)
        if kind == "preferences":
            return cls(content["prompt"], _text(content["chosen"]), _text(content["rejected"]), own=own)
        if content.get("messages") is not None:
            *prompt, answer = content["messages"]
            return cls(prompt, answer["content"], joined=True, own=own)
        return cls(content["prompt"], content["completion"], own=own)


OWN_FIELDS: dict[str, tuple[str, ...]] = {
    "prompts": ("reference", "category", "tags", "criteria"),
    "demonstrations": ("weight",),
    "preferences": ("margin",),
}
"""Fields of our rows that no prompt and no answer stands in."""

_NOTHING: dict[str, Fault] = {
    "prompts": Fault("", "no_prompt", "the row holds no prompt; import it into a dataset of kind demonstrations"),
    "demonstrations": Fault("", "no_answer", "the row holds a prompt alone; import it into a dataset of kind prompts"),
    "preferences": Fault(
        "", "no_pair", "the row holds no two answers of which one is better, so it is no preference; "
        "import it into a dataset of another kind",
    ),
}  # fmt: skip


def _text(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[0]["content"])


@dataclass(frozen=True, slots=True)
class Shape:
    """One way in which a format writes rows.

    `signs`: whether a row of this format is written so; `distinct`, if that is more, how a row shows which format it is of.
    `names`: where the fields of our rows stand in the format's. `exports`: the kinds whose rows can be written so when they did
    not come so. `owns`: those of `OWN_FIELDS` that `write` writes itself; the others keep their names.
    """

    format: str
    name: str
    signs: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Source, Options], Reading]
    write: Callable[[Reading], dict[str, Any]]
    names: Mapping[str, str] = field(default_factory=dict)
    exports: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()
    distinct: Callable[[Mapping[str, Any]], bool] | None = None

    def shows(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of an unknown format is of this one."""
        return (self.distinct or self.signs)(row)


def pair(source: Source, prompt: Prompt | None, chosen: str, rejected: str) -> Reading:
    """A pair from the fields `chosen` and `rejected`: texts, or conversations that may begin with the prompt's turns."""
    better, worse = source.prompt(chosen), source.prompt(rejected)
    if isinstance(better, str) != isinstance(worse, str):
        fail(source.at(rejected), "mixed_shapes", f"'{chosen}' and '{rejected}' must both be texts or both messages")
    if isinstance(better, str) and isinstance(worse, str):
        if prompt is not None:
            return Reading(prompt, better, worse)
        cut = _common_words(better, worse)
        if not better[:cut].strip():
            message = f"'{chosen}' and '{rejected}' begin differently, so they hold no prompt; give 'prompt'"
            fail(source.at(chosen), "no_prompt", message)
        return Reading(better[:cut], better[cut:], worse[cut:])
    assert isinstance(better, list)
    assert isinstance(worse, list)
    shared = 0
    while shared < min(len(better), len(worse)) - 1 and better[shared] == worse[shared]:
        shared += 1
    for name, side in ((chosen, better), (rejected, worse)):
        if len(side) != shared + 1 or side[-1]["role"] != "assistant":
            message = (
                f"after the turns that both share, '{name}' must hold one message of the assistant, and nothing else"
            )
            fail(f"{source.at(name)}/{shared}", "invalid_completion", message)
    return Reading(_agreed(source, prompt, better[:shared], chosen), better[-1]["content"], worse[-1]["content"])


def _agreed(source: Source, prompt: Prompt | None, shared: list[Turn], chosen: str) -> list[Turn]:
    """The prompt's turns, which may stand in a field of their own, before the answers, or both."""
    if prompt is None:
        if not shared:
            fail(source.at(chosen), "no_prompt", f"'{chosen}' holds no turn before the answer; give 'prompt'")
        return shared
    if not shared:
        return as_messages(prompt) if isinstance(prompt, str) else prompt
    if (isinstance(prompt, str) and shared[-1]["content"] != prompt) or (isinstance(prompt, list) and shared != prompt):
        fail(source.at(chosen), "other_prompt", f"'{chosen}' begins with other turns than 'prompt'; which are meant?")
    return shared


def _common_words(left: str, right: str) -> int:
    """How many characters two texts share at their beginning, cut after a whole word; the white space belongs to what follows."""
    length = next((k for k, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    if left == right:
        return len(left.rstrip().rpartition(" ")[0])
    while length and not (left[length - 1 : length].isspace() or _ends_word(left, right, length)):
        length -= 1
    return len(left[:length].rstrip())


def _ends_word(left: str, right: str, at: int) -> bool:
    """Whether neither text goes on with the same word after `at` characters."""
    return all(text[at : at + 1].isspace() for text in (left, right))
