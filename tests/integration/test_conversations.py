"""Conversations as demonstrations: every answer learned, and one sentence where the model has no chat template."""

from transformers import AutoTokenizer

from examples.tiny_model import make_tiny_model
from tests.integration.conftest import WORDS

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }} {{ m.content }} {% if m.role == 'assistant' %}<eos> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)


def conversations(api):
    dataset = api.post("/v1/datasets", {"name": "talks", "kind": "demonstrations"})["id"]
    rows = [
        {
            "messages": [
                {"role": role, "content": text}
                for role, text in (("user", x), ("assistant", f"{x} {y}"), ("user", y), ("assistant", x))
            ],
            "weight": 1.0 + (x == "c"),
        }
        for x in "bcdef"
        for y in "ghij"
    ]
    api.upload_rows(dataset, rows)
    return dataset


def test_every_turn_of_the_assistant_is_learned(bench, api, stack):
    folder = stack.folder / "chat-model"
    make_tiny_model(folder, WORDS, seed=4, hidden=32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    model, talks = api.register_model("chat", {"path": str(folder)})["id"], conversations(api)
    lengths = {}
    for loss_on in ("completion", "assistant"):
        job = bench.run(
            "sft", model=model, demonstrations=talks, algorithm={"type": "sft", "loss_on": loss_on},
            training={"steps": 30, "learning_rate": 0.01},
        )  # fmt: skip
        losses = bench.series(job["id"], "loss")
        assert losses[30] < losses[1] - 0.8
        assert job["algorithm"] == {"type": "sft", "loss_on": loss_on, "packing": True}
        lengths[loss_on] = bench.series(job["id"], "completion_length")[1]
        assert not [e for e in bench.events(job["id"]) if e["type"] == "job.warning"]
    assert lengths == {"completion": 2.0, "assistant": 5.0}  # "x <eos>", and "x y <eos>" before it


def test_a_model_without_a_chat_template_ends_the_job_before_it_runs(bench, api):
    job_id = bench.submit("sft", demonstrations=conversations(api))
    job = bench.finish(job_id, expected="failed")
    assert job["error"]["code"] == "data_invalid"
    assert "no chat template; give 'prompt' as plain text, or save a chat template" in job["error"]["message"]
    assert "job.running" not in {event["type"] for event in bench.events(job_id)}
