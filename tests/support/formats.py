"""Rows as other projects publish them, written from the descriptions of their formats."""

JUDGE = "jdg_01j9zq3v8k2m4n6p8r0t2v4x6y"

U, A = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}


def rated(response, ratings, overall, **more):
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    return {
        "model": "m", "response": response, "critique": "…", "overall_score": overall, "fine-grained_score": sum(ratings) / 4,
        "annotations": {n: {"Rating": str(r), "Rationale": "…"} for n, r in zip(names, ratings, strict=True)}, **more,
    }  # fmt: skip


TRL = {
    "text": {"text": "The sky is blue."},
    "conversation": {"messages": [U, A]},
    "prompt_only": {"prompt": "2+2?"},
    "prompt_only, conversational": {"prompt": [U], "answer": "4", "level": 1},
    "prompt_completion": {"prompt": "2+2", "completion": "=4"},
    "prompt_completion, conversational": {"prompt": [U], "completion": [A]},
    "prompt_completion, two turns": {"prompt": [U], "completion": [A, U, A]},
    "unpaired": {"prompt": "2+2", "completion": "=4", "label": True},
    "unpaired, conversational": {"prompt": [U], "completion": [A], "label": True},
    "stepwise": {"prompt": "2+2*2?", "completions": ["2*2=4", "2+4=6"], "labels": [True, True]},
    "preference": {"prompt": "2+2", "chosen": "=4", "rejected": "=5", "margin": 0.5, "source": "me"},
    "preference, conversational": {"prompt": [U], "chosen": [A], "rejected": [WRONG]},
    "implicit_preference": {"chosen": "The sky is blue.", "rejected": "The sky is bright green."},
    "implicit_preference, conversational": {"chosen": [U, A], "rejected": [U, WRONG]},
}

HH = {
    "chosen": "\n\nHuman: What is 2+2?\n\nAssistant: Let me see.\n\nHuman: Well?\n\nAssistant: It is 4.",
    "rejected": "\n\nHuman: What is 2+2?\n\nAssistant: Let me see.\n\nHuman: Well?\n\nAssistant: It is 5.",
}

ULTRAFEEDBACK = {
    "source": "evol_instruct", "instruction": "2+2?", "models": ["a", "b", "c"],
    # The published `overall_score` is not the order: a 1 was read as 10.
    "completions": [rated("5", (1, 1, 2, 1), 10.0), rated("4", (5, 5, 4, 5), 8.5), rated("about 4", (3, 4, 3, 4), 7)],
    "correct_answers": ["4"], "incorrect_answers": ["None"],
}  # fmt: skip

BINARIZED = {
    "prompt": "2+2?", "prompt_id": "ab12", "chosen": [U, A], "rejected": [U, WRONG], "messages": [U, A],
    "score_chosen": 8.5, "score_rejected": 5,
}  # fmt: skip

CAI = {
    "init_prompt": "2+2?", "init_response": "5", "critic_prompt": "Is it right?", "critic_response": "No: it is 4.",
    "revision_prompt": "Say it right.", "revision_response": "4", "prompt": "2+2?", "messages": [U, A],
    "chosen": [U, A], "rejected": [U, WRONG],
}  # fmt: skip

OPENAI_CHAT = {
    "messages": [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}], "name": "ann"},
        {"role": "assistant", "content": "4", "weight": 1},
    ],
    "parallel_tool_calls": False,
}

OPENAI_PREFERENCE = {
    "input": {"messages": [U], "tools": [], "parallel_tool_calls": True},
    "preferred_output": [A], "non_preferred_output": [WRONG],
}  # fmt: skip

HEALTHBENCH = {
    "prompt_id": "p-1", "prompt": [{"role": "user", "content": "My chest hurts."}],
    "rubrics": [
        {"criterion": "Says to call emergency services.", "points": 10, "tags": ["level:example", "axis:completeness"]},
        {"criterion": "Asks how long it has lasted.", "points": 5, "tags": ["axis:context_awareness"]},
        {"criterion": "Names a diagnosis as certain.", "points": -8, "tags": ["axis:accuracy"]},
    ],
    "example_tags": ["theme:emergency_referrals"],
    "ideal_completions_data": {"ideal_completion": "Call 112.", "ideal_completions_group": "Group 1",
                               "ideal_completions_ref_completions": None},
}  # fmt: skip


def rar_row(*pitfalls):
    """E, I and O as the public files have them, and pitfalls (description, weight, and more fields)."""
    items = [
        {"title": "Right dose", "description": "Essential Criteria: States the right dose.", "weight": 5},
        {"title": "Names the drug", "description": "Important Criteria: Names the drug.", "weight": 3},
        {"title": "Is polite", "description": "Optional Criteria: Is polite.", "weight": 1},
        *({"title": f"Pitfall {k}", **pitfall} for k, pitfall in enumerate(pitfalls)),
    ]
    return {
        "question": "Which dose?", "reference_answer": "5 mg", "question_source": "exam", "rubric": items,
        "rubric_list": [item["description"] for item in items], "rubric_count": len(items),
    }  # fmt: skip


AVOIDS = {"description": "Pitfall Criteria: Avoids naming a brand.", "weight": -1}
FAILS = {"description": "Pitfall Criteria: Recommends a double dose.", "weight": -2}
UNCLEAR = {"description": "Pitfall Criteria: Does not mention the liver.", "weight": -2}
RAR = rar_row(AVOIDS, FAILS)
