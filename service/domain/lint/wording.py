"""What judged criteria say: can an answer fail them, do they ask one thing, and do they ask it of somebody who can tell?

The rules are made for few false alarms: quotations and conditions are passed over, and most look for a fixed phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from service.domain.grader import RegexGrader
from service.domain.lint.finding import Finding, Subject, anchored
from service.domain.rubric import Criterion

_QUOTED = re.compile(r"```.*?```|`[^`]*`|\"[^\"]*\"|“[^”]*”|«[^»]*»|(?<!\w)'[^']*'(?!\w)", re.DOTALL)
_CONDITION = re.compile(r"\b(?:if|when|where|unless|because|since|that|which|who|whose|whether)\b[^,.;:]*")

FILLER = frozenset(
    "a an the is are be been being was it its this that these of to in on at for with and or as by from has have does do "
    "should must can will would answer answers response responses completion output model assistant reply text content overall "
    "generally very really quite rather all user user's users given gives provides provide written write makes make "
    "sense looks look feels feel seems way manner done".split()
)
EVALUATIVE = frozenset(
    "good great nice fine ok okay best better well excellent helpful useful high quality high-quality appropriate adequate "
    "suitable reasonable satisfactory acceptable decent effective valuable positive bad poor desirable ideal "
    "impressive solid strong".split()
)
_VAGUE = re.compile(
    r"\b(appropriate(?:ly)?|adequate(?:ly)?|reasonabl[ey]|suitabl[ey]|satisfactor(?:y|ily)|acceptabl[ey]|as needed|if necessary"
    r"|as appropriate|where appropriate|and so on|and the like|etc\b\.?|somewhat|good enough|well enough|user-friendly)"
)

_PAIRED = (
    "clear concise accurate complete correct polite helpful relevant professional friendly respectful honest safe consistent "
    "factual brief short structured readable grammatical coherent logical organised organized thorough precise specific "
    "informative neutral empathetic warm kind truthful comprehensive detailed actionable original creative natural fluent"
).split()
_ADJECTIVE = "(?:" + "|".join(_PAIRED) + "|well-(?:organi[sz]ed|structured|written))"
_ADVERB = (
    "(?:" + "|".join([*(f"{word.removesuffix('le')}ly" for word in _PAIRED), *(f"{word}ly" for word in _PAIRED)]) + ")"
)
_VERB = (
    "is|are|has|does|doesn't|gives|includes|avoids|explains|contains|provides|follows|says|offers|recommends|describes|"
    "identifies|refuses|acknowledges|keeps|makes|stays|remains|cites|mentions|tells|warns|suggests|ends with|begins with|"
    "starts with"
)
_AMBIGUOUS_VERB = "names|states|uses|answers|lists|shows|supports|addresses|asks|points out"
_DETERMINER = "the|a|an|its|their|no|any|every|all|each|what|how|why|at least|only|one"
_SUBJECT = r"(?:also\s+|it\s+|then\s+|the (?:answer|response|completion|reply)\s+)*"
_DOUBLE = [
    re.compile(
        rf"\b(?:is|are|be|stays|remains|sounds)\s+(?:\w+ly\s+)?{_ADJECTIVE}\s+(?:and|as well as)\s+(?:\w+ly\s+)?{_ADJECTIVE}\b"
    ),
    re.compile(rf"\b{_ADVERB}\s+and\s+{_ADVERB}\b"),
    re.compile(rf"\b(?:and|as well as|but)\s+{_SUBJECT}(?:{_VERB})\b(?!\s+of\b)"),
    re.compile(rf"\b(?:and|as well as|but)\s+{_SUBJECT}(?:{_AMBIGUOUS_VERB})\s+(?:{_DETERMINER})\b"),
    re.compile(r"(?:^|[.;]\s+)(?:it\s+|the (?:answer|response|completion)\s+)?also\b"),
]

_LENGTH = re.compile(
    r"\b(comprehensive(?:ly)?|exhaustive(?:ly)?|thorough(?:ly)?|in[- ]depth|(?:very |highly |more )?detailed|extensive(?:ly)?"
    r"|elaborat(?:e|es|ely)|as (?:many|much) \w+(?: \w+)? as possible|(?:a )?(?:long|longer|lengthy) (?:answer|response|text|explanation)"
    r"|the (?:more|longer)\b[^.]*\bthe better|(?:at least|more than|minimum of|no fewer than|over) \d+ (?:words|sentences|paragraphs|pages|"
    r"characters|tokens|lines))"
)
_NOT_BEFORE = re.compile(
    r"\b(?:not|no|never|without|avoids?|unnecessar\w*|overly|too|excessively|needlessly|rather than|instead of)\W+(?:\w+\W+){0,2}$"
)
_OPEN_LENGTH = re.compile(r"^\^?(?:\(\?s\))?(?:\.|\[\\s\\S\]|\\w|\\S)\{(\d{2,}),\}\$?$")

_NUMBER = r"(?:\d+|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|fifty|a hundred)"
_COMPARED = (
    r"(?:exactly|precisely|at least|at most|no more than|no fewer than|not more than|fewer than|less than|more than|up to|between|over|"
    r"under|a maximum of|a minimum of|a total of|only)"
)
_TEXT_UNIT = (
    r"(?:words?|characters?|letters|sentences?|paragraphs?|tokens|syllables|lines of text|bullet points?|bullets)"
)
_UNIT = rf"(?:{_TEXT_UNIT}|examples|items|reasons|steps|sections|citations|sources|references|key points|arguments|times(?!\s+(?:a|per)\b))"
_COUNT = re.compile(
    rf"\b(?:{_COMPARED}\s+{_NUMBER}(?:\s*(?:-|–|to|and|or)\s*{_NUMBER})?\s+(?:\w+\s+)?{_UNIT}"
    rf"|{_NUMBER}(?:\s*(?:-|–|to|or)\s*{_NUMBER})?\s+(?:\w+\s+)?{_TEXT_UNIT})\b"
)
_AVOIDS = re.compile(r"\b(?:avoids?|refrains?|abstains?|never|is free of|are free of|stays away from)\b")
_NEGATED = re.compile(
    r"^(?:\W*\w+\W+){0,3}(?:does not|doesn't|do not|don't|is not|isn't|are not|has no|have no|contains no|without|no)\b"
)


def plain(text: str) -> str:
    """Lower case, without what is only quoted."""
    return _QUOTED.sub(" ", text).replace("’", "'").lower()


def rules(subject: Subject) -> Iterator[Finding]:
    """Everything that the wording of the rubric's own criteria gives reason to say."""
    for place, criterion, _ in subject.judged():
        text = plain(criterion.text)
        unfalsifiable = _unfalsifiable(criterion, text)
        if unfalsifiable:
            yield _at(
                place,
                "unfalsifiable",
                "no answer could be shown to fail this; name something that a judge can point at",
            )
        elif (found := _VAGUE.search(text)) and not anchored(criterion):
            message = f"'{found.group(1)}' means something else to every judge; say what it is here, or anchor the levels of a scale"
            yield _at(place, "vague_words", message, severity="info")
        if asked := _double(text):
            message = (
                f'this asks for two things at once ("{asked}"): a judge must guess which decides; make it two criteria'
            )
            yield _at(place, "double_barrelled", message)
        if longer := _rewards_length(criterion, text):
            message = f'"{longer}" is met more easily by writing more; say what must be in the answer, or cap its length elsewhere'
            yield _at(place, "verbosity_rewarding", message)
        if counted := _COUNT.search(text):
            message = f'"{counted.group(0)}": judges count badly; let a verifier count (regex, or python), and the judge judge'
            yield _at(place, "counting_dependent", message)
        yield from _double_negative(place, criterion, text)
    for place, criterion in subject.own():
        grader = criterion.grader
        if not isinstance(grader, RegexGrader) or criterion.audit or not _OPEN_LENGTH.match(grader.pattern):
            continue
        if grader.must_match == (criterion.polarity == "met_is_good"):
            message = "this is met by any text that is long enough; give it an upper bound, or ask for content"
            pointer = f"{place}/grader/pattern"
            yield Finding(code="verbosity_rewarding", severity="warning", pointer=pointer, message=message)


def _at(place: str, code: str, message: str, *, severity: str = "warning") -> Finding:
    return Finding.model_validate({"code": code, "severity": severity, "pointer": f"{place}/text", "message": message})


def _unfalsifiable(criterion: Criterion, text: str) -> bool:
    """Nothing is said but that it be good."""
    if anchored(criterion) or _QUOTED.search(criterion.text):
        return False
    said = [word for word in re.findall(r"[a-z][a-z'\-]*", text) if word not in FILLER]
    return all(word in EVALUATIVE for word in said) and not re.search(r"\d", text)


def _double(text: str) -> str | None:
    told = _CONDITION.sub(" ", text)
    found = next((match for pattern in _DOUBLE if (match := pattern.search(told))), None)
    return " ".join(found.group(0).split()) if found else None


def _rewards_length(criterion: Criterion, text: str) -> str | None:
    if criterion.polarity == "met_is_bad":
        return None
    for found in _LENGTH.finditer(text):
        if not _NOT_BEFORE.search(text[: found.start()]):
            return found.group(0)
    return None


def _double_negative(place: str, criterion: Criterion, text: str) -> Iterator[Finding]:
    if criterion.polarity != "met_is_bad":
        return
    if found := _AVOIDS.search(text):
        message = (
            f"an answer that meets this ('{found.group(0)} …') does well, and 'met_is_bad' makes that bad: word it as the fault "
            "itself, or use met_is_good"
        )
        yield _at(place, "double_negative", message)
    elif _NEGATED.search(text):
        message = (
            "a negation under 'met_is_bad' is read wrongly by judges and people; say in positive words what is bad"
        )
        yield _at(place, "double_negative", message, severity="info")
