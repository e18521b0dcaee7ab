"""Judges that are registered models: the questions and the reader of replies are those of every judge, the sampler is our own.

All questions of a batch are put to the model together, in an order that the questions alone decide, so that equal batches get
equal replies.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from service.domain.base import content_hash
from service.domain.conversation import Message
from service.domain.job_state import JobFailure
from service.domain.judge import JudgeConfig
from service.domain.rubric import Criterion
from workers.graders.judge.abilities import Abilities
from workers.graders.judge.cell import chunks
from workers.graders.judge.client import Heard, Reply
from workers.graders.judge.purse import FREE, UNCOUNTED, Purse, Tokens, most_tokens
from workers.graders.local.token_texts import entries
from workers.graders.steps import CannotCut, cut
from workers.policy.generation.sampler import Sample, SamplingOptions, sample_groups
from workers.policy.loading import ModelFiles, load_model
from workers.policy.tokenization import TokenizationError, decode, encode_chat, eos_ids_of

TOP = 100
"""Alternatives of each token that confidence `logprob` sees: what is less likely than a hundred others decides nothing."""

NO_TEMPLATE = "model {} has no chat template, so it cannot be asked as a judge; save one with its tokenizer"

QUIET_S = 5.0
"""Should fewer questions come than were announced, those that wait are asked after this time."""


@dataclass(slots=True)
class JudgeModel:
    """A loaded language model that judges."""

    model: Any
    tokenizer: Any
    eos_ids: list[int]
    device: torch.device
    context_length: int | None

    @property
    def bytes(self) -> int:
        """What its weights take."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())


def load_judge(files: ModelFiles, device: torch.device) -> JudgeModel:
    """Verify the files and load them: float32 on a CPU, bfloat16 on a GPU. Raises `JobFailure`."""
    files.verify()
    model, tokenizer = load_model(files, device)
    if device.type == "cuda":
        model = model.to(torch.bfloat16)
    model.config.use_cache = True
    eos_ids = eos_ids_of(model, tokenizer)
    if not eos_ids:
        raise JobFailure("model_invalid", f"model {files.id} has no end-of-sequence token, so no reply could end")
    if not tokenizer.chat_template:
        raise JobFailure("model_invalid", NO_TEMPLATE.format(files.id))
    return JudgeModel(
        model=model.requires_grad_(False),
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        device=device,
        context_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
    )


def require_chat(files: ModelFiles) -> None:
    """Raise `JobFailure` unless the model's tokenizer has a chat template; the model itself is not loaded."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers raise
        raise JobFailure("model_invalid", f"the tokenizer of model {files.id} cannot be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise JobFailure("model_invalid", NO_TEMPLATE.format(files.id))


@dataclass(slots=True)
class _Question:
    ids: list[int]
    logprobs: bool
    reply: asyncio.Future[Reply]


@dataclass(slots=True)
class LocalJudge:
    """An `Asker`. It answers once `expected` questions wait: see `questions`. At most `rows` are decoded together.

    `check` is called at every token and may raise to end it all.
    """

    loaded: JudgeModel
    config: JudgeConfig
    rows: int
    expected: int
    check: Callable[[], None]
    purse: Purse = UNCOUNTED
    abilities: Abilities = field(default_factory=lambda: Abilities(json_schema=False, logprobs=True, repeatable=True))
    _asked: int = 0
    _waiting: list[_Question] = field(default_factory=list)

    async def ask(self, messages: list[dict[str, str]], options: Mapping[str, Any] | None = None) -> Reply:
        """One question and its answer."""
        loop = asyncio.get_running_loop()
        permit = await self.purse.take(lambda: most_tokens(0, len(messages), self.config.sampling))
        self._asked += 1
        if isinstance(permit, str):
            self._answer_if_all(loop)
            return Reply(status="budget", reason=permit)
        try:
            ids = encode_chat(self.loaded.tokenizer, [Message.model_validate(message) for message in messages])
        except TokenizationError as error:
            permit.spend(FREE)
            self._answer_if_all(loop)
            return Reply(status="infra_error", reason=f"the judge's model: {error}", attempts=1)
        question = _Question(ids, bool((options or {}).get("logprobs")), loop.create_future())
        self._waiting.append(question)
        self._answer_if_all(loop)
        reply = await question.reply
        permit.spend(Tokens(reply.tokens_in, reply.tokens_out))
        return reply

    def _answer_if_all(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._asked >= self.expected:
            loop.call_soon(self._answer)
        elif self._asked == 1:
            loop.call_later(QUIET_S, self._answer)

    def _answer(self) -> None:
        """Ask the model everything that waits. The loop stands still meanwhile; it has nothing else to do."""
        questions = sorted(self._waiting, key=lambda question: (-len(question.ids), question.ids))
        self._waiting.clear()
        try:
            for together, room in self._portions(questions):
                self._generate(together, room)
        except Exception as error:
            for question in questions:
                if not question.reply.done():
                    question.reply.set_exception(error)

    def _portions(self, questions: Sequence[_Question]) -> list[tuple[list[_Question], int]]:
        """Questions that are decoded together, with the tokens that their replies may have; long ones first."""
        wanted = self.config.sampling.max_tokens or self.config.sampling.max_completion_tokens or 1024
        context = self.loaded.context_length
        portions: list[tuple[list[_Question], int]] = []
        for question in questions:
            room = wanted if context is None else min(wanted, context - len(question.ids))
            if room < 1:
                reason = f"{len(question.ids)} tokens do not fit into the judge's context of {context}"
                question.reply.set_result(Reply(status="judge_truncated", reason=reason, attempts=1))
            elif portions and portions[-1][1] == room and len(portions[-1][0]) < self.rows:
                portions[-1][0].append(question)
            else:
                portions.append(([question], room))
        return portions

    def _generate(self, questions: list[_Question], room: int) -> None:
        started = time.monotonic()
        sampling, prompts = self.config.sampling, [question.ids for question in questions]
        pad = self.loaded.tokenizer.pad_token_id
        seed = int(content_hash([sampling.seed, self.config.fingerprint, prompts])[:15], 16)
        options = SamplingOptions(
            group_size=1,
            temperature=sampling.temperature or 0.0,
            max_tokens=room,
            eos_ids=self.loaded.eos_ids,
            pad_id=int(pad) if pad is not None else 0,
            seed=seed if sampling.seed is None else sampling.seed,
            top=TOP if any(question.logprobs for question in questions) else 0,
        )
        samples: dict[int, Sample] = {}
        sample_groups(
            self.loaded.model,
            prompts,
            options,
            lambda index, group: samples.update({index: group[0]}),
            device=self.loaded.device,
            check=self.check,
        )
        took = (time.monotonic() - started) * 1000
        for index, question in enumerate(questions):
            question.reply.set_result(self._reply(question, samples[index], took))

    def _reply(self, question: _Question, sample: Sample, took_ms: float) -> Reply:
        reply = Reply(
            attempts=1,
            latency_ms=took_ms,
            tokens_in=len(question.ids),
            tokens_out=len(sample.tokens),
            http_status=200,
        )
        text = decode(self.loaded.tokenizer, sample.tokens, self.loaded.eos_ids)
        if sample.finish_reason == "length":
            reply.status, reply.reason = "judge_truncated", "the judge ran out of tokens before its answer ended"
        elif not text.strip():
            reply.status, reply.reason = "parse_error", "the judge's answer is empty"
        else:
            reply.text = text
            if question.logprobs and sample.top is not None:
                reply.logprobs = entries(self.loaded.tokenizer, sample.tokens[:-1], sample.top)
        reply.heard = [Heard(reply.status, None, sample.finish_reason, reply.reason, text)]
        return reply


def questions(criteria: Sequence[Criterion], config: JudgeConfig, text: str) -> int:
    """How many questions `grade_completion` puts: one for each chunk of criteria and vote, on step criteria for each step."""
    count = 0
    for votes, chunk in chunks(criteria, config):
        try:
            parts = len(cut(chunk[0], text)) if chunk[0].scope == "step" else 1
        except CannotCut:
            parts = 0
        count += votes * parts
    return count
