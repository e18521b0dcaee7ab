"""An adapter leaves the service as a whole model, through the API and the command line."""

import os
import subprocess
import sys

import pytest
import torch

from service.client import ApiError


def test_an_adapter_is_downloaded_merged(bench, api, stack, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = bench.run("sft", adapter={"type": "lora", "r": 4}, training={"steps": 8, "learning_rate": 0.02})
    checkpoint = job["result"]["last_checkpoint"]
    done = subprocess.run(
        [sys.executable, "-m", "service.cli.main", "checkpoint", "download", checkpoint, "-o", str(tmp_path / "whole"), "--merged"],
        capture_output=True, text=True, check=True, env={**os.environ, "GRAPE_DATA_DIR": str(stack.folder)},
    )  # fmt: skip
    assert "merging the adapter" in done.stderr
    api.download_checkpoint(checkpoint, tmp_path / "adapter")
    ids = torch.tensor([[3, 4, 5, 6]])
    base = AutoModelForCausalLM.from_pretrained(stack.folder / "bench-model-0")
    with torch.no_grad():
        before = base(ids).logits.clone()
        both = PeftModel.from_pretrained(base, tmp_path / "adapter")(input_ids=ids).logits
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")(ids).logits
    assert torch.allclose(whole, both, atol=1e-5)
    assert (whole - before).abs().max() > 1e-3
    model = api.merge_checkpoint(checkpoint)  # the one that is there already
    assert (model["status"], model["base_model"]) == ("ready", None)
    assert [m["source"] for m in api.pages("/v1/models")].count(model["source"]) == 1
    assert bench.run("evaluate", model=model["id"])["status"] == "succeeded"
    with pytest.raises(ApiError, match="only an adapter's checkpoint can be merged") as caught:
        api.post("/v1/models", {"name": "m", "source": {"path": "/x", "merged": True}})
    assert caught.value.errors[0]["pointer"] == "/source/merged"
    with pytest.raises(ApiError, match="registered from elsewhere") as caught:
        api.get(f"/v1/models/{bench.model()}/files/config.json")
    assert caught.value.status == 404
