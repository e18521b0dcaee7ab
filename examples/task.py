"""The demo's task: say where a thing is. Small enough to be learned on two cores, with every kind of criterion in its rubric.

A prompt tells where something is and asks for it: "the lamp is in the attic. where is the lamp?". The demonstrations answer
with mixed habits: plainly, hedging, rambling, wrongly, not at all. The rubric says which habit is good. Things of held-out
prompts appear in no demonstration and no training prompt; their words are in the tokenizer, and the model has never seen them.
"""

from __future__ import annotations

import random
from typing import Any

ROOMS = "kitchen garden attic cellar garage library bedroom bathroom hallway balcony office pantry".split()

THINGS = (
    "apple pear plum grape melon lemon peach mango cherry berry carrot onion potato tomato pepper bean pea corn rice bread butter "
    "cheese milk honey sugar salt soup salad pasta pizza cake cookie candy tea coffee juice water lamp chair table desk sofa clock "
    "mirror carpet curtain shelf drawer box basket bottle cup glass plate bowl spoon fork knife pan pot kettle broom brush soap "
    "towel pillow blanket candle match rope chain wire nail screw hammer saw drill wrench ladder bucket shovel rake hose brick stone "
    "glue paint paper pencil pen ink book page letter stamp card coin key lock ring watch belt shoe boot sock glove scarf hat coat "
    "shirt skirt dress button zipper needle thread wool silk cotton leather cat dog rabbit mouse rat frog toad lizard turtle snail "
    "worm spider ant bee wasp moth leaf root branch flower rose tulip daisy lily cactus moss fern bike wheel engine sail anchor "
    "drum flute violin piano guitar bell whistle ball kite doll puzzle"
).split()

OTHER_WORDS = "the is in where ? . it maybe or who knows i think".split()

HELD_OUT_THINGS = 48


def split_things(seed: int) -> tuple[list[str], list[str]]:
    """(things for training, things for held-out prompts), which share nothing."""
    things = list(THINGS)
    random.Random(f"things/{seed}").shuffle(things)
    return things[HELD_OUT_THINGS:], things[:HELD_OUT_THINGS]


def prompt(thing: str, room: str) -> dict[str, Any]:
    """A prompt row; the reference is for the verifier, the policy never sees it."""
    return {
        "prompt": f"the {thing} is in the {room}. where is the {thing}?",
        "reference": room,
        "category": "where",
        "metadata": {"thing": thing},
    }


def prompts(things: list[str], count: int, seed: int) -> list[dict[str, Any]]:
    """So many different prompts."""
    pairs = [(thing, room) for thing in things for room in ROOMS]
    random.Random(f"prompts/{seed}").shuffle(pairs)
    return [prompt(*pair) for pair in pairs[:count]]


def habit(room: str, rng: random.Random) -> str:
    """An answer in one of the habits of the demonstrations; fewer than a fifth are what the rubric wants."""
    other = rng.choice([r for r in ROOMS if r != room])
    answers = (
        (0.18, f"it is in the {room}."),
        (0.30, f"maybe in the {room}."),
        (0.12, f"maybe the {room} or the {other}."),
        (0.08, f"it is in the {other}."),
        (0.12, "who knows"),
        (0.20, f"{room} {room} {room}"),
    )
    weights, texts = zip(*answers, strict=True)
    return rng.choices(texts, weights)[0]


def demonstrations(things: list[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Prompts with answers of mixed habits."""
    rng = random.Random(f"demonstrations/{seed}")
    rows = []
    for _ in range(count):
        thing, room = rng.choice(things), rng.choice(ROOMS)
        rows.append({"prompt": prompt(thing, room)["prompt"], "completion": habit(room, rng)})
    return rows


RIGHT = {
    "key": "right",
    "title": "Names the right room",
    "weight": 2,
    "grader": {"type": "contains", "values": ["{{ prompt.reference }}"]},
}
SENTENCE = {
    "key": "sentence",
    "title": "One short sentence: it begins with 'it is' and ends with a full stop",
    "weight": 1,
    "grader": {"type": "regex", "pattern": r"^it is( \w+){1,6}\.$"},
}
ONE_ROOM = {
    "key": "one_room",
    "title": "Names exactly one room",
    "audit": True,
    "weight": 1,
    "grader": {
        "type": "regex",
        "pattern": rf"^(?!.*\b({'|'.join(ROOMS)})\b.*\b({'|'.join(ROOMS)})\b).*\b({'|'.join(ROOMS)})\b",
    },
}


def commits(judge: str) -> dict[str, Any]:
    """A judged criterion on which the scripted judge is sure."""
    return {
        "key": "commits",
        "title": "Commits to an answer",
        "text": "The answer states where the thing is, without hedging (maybe), without alternatives, without shrugging the question off.",
        "weight": 2,
        "grader": {"type": "judge", "judge": judge},
    }


def fluent(judge: str) -> dict[str, Any]:
    """A judged criterion on which the scripted judge is noisy, and says so."""
    return {
        "key": "fluent",
        "title": "Reads as a fluent sentence",
        "text": "The answer reads as one fluent sentence with a subject and a verb; nothing is repeated.",
        "weight": 2,
        "scale": {"type": "unit"},
        "grader": {"type": "judge", "judge": judge},
    }


GUIDELINES = "People ask where their things are. A good answer says where, plainly, in one short sentence."


def rubric_v1(judge: str) -> dict[str, Any]:
    """The first draft."""
    return {"guidelines": GUIDELINES, "criteria": [RIGHT, SENTENCE, commits(judge), ONE_ROOM]}


def rubric_v2(judge: str) -> dict[str, Any]:
    """The second version: fluency was missing."""
    return {"guidelines": GUIDELINES, "criteria": [RIGHT, SENTENCE, commits(judge), fluent(judge), ONE_ROOM]}
