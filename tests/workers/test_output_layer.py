"""Log-probabilities without the logits of the step: the numbers and gradients of log_softmax, for every kind of output layer."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from service.domain.job import LoraSpec
from workers.losses.output import chosen_logprobs
from workers.policy.attention import FEW_KEYS, attend
from workers.policy.loading import pick_budget
from workers.policy.output import output_layer
from workers.types import PolicyBatch, SupervisedBatch


def written_out(states, weight, tokens, bias=None, cap=None, temperature=1.0):
    """log π and entropy by the definition, all logits at once."""
    logits = states @ weight.t()
    if bias is not None:
        logits = logits + bias
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    logp = (logits / temperature).log_softmax(-1)
    return logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), -(logp.exp() * logp).sum(-1)


def drawn(rows, vocabulary, hidden=6, dtype=torch.float64):
    torch.manual_seed(rows)
    states, weight = (torch.randn(n, hidden, dtype=dtype, requires_grad=True) for n in (rows, vocabulary))
    return states, weight, torch.randint(vocabulary, (rows,))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_numbers_and_gradients_are_those_of_log_softmax(biased, cap, temperature):
    states, weight, tokens = drawn(5, 11)
    bias = torch.randn(11, dtype=torch.float64, requires_grad=True) if biased else None
    options = {"bias": bias, "cap": cap, "temperature": temperature}
    logprobs, entropy = chosen_logprobs(states, weight, tokens, entropy=True, **options)
    wanted = written_out(states, weight, tokens, **options)
    assert torch.allclose(logprobs, wanted[0], atol=1e-12)
    assert torch.allclose(entropy, wanted[1], atol=1e-12)
    leaves = [x for x in (states, weight, bias) if x is not None]
    asked = torch.linspace(-1, 2, 5, dtype=torch.float64)
    ours = torch.autograd.grad((asked * logprobs + asked.flip(0) * entropy).sum(), leaves)
    theirs = torch.autograd.grad((asked * wanted[0] + asked.flip(0) * wanted[1]).sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-12)
    alone, nothing = chosen_logprobs(states, weight, tokens, **options)
    assert nothing is None
    assert torch.autograd.gradcheck(
        lambda s, w: chosen_logprobs(s, w, tokens, bias=bias, cap=cap, temperature=temperature)[0], (states, weight)
    )
    assert torch.equal(alone, logprobs)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation has made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


def test_a_few_rows_at_a_time_in_forward_and_backward_and_a_last_piece_that_is_shorter():
    rows, vocabulary = 700, 20_000  # pieces of 256: 2 whole ones and one of 188
    states, weight, tokens = drawn(rows, vocabulary, dtype=torch.float32)
    with Largest() as seen:
        logprobs, _ = chosen_logprobs(states, weight, tokens)
        logprobs.sum().backward()
    assert seen.numbers == 256 * vocabulary
    own = states.grad.clone(), weight.grad.clone()
    states.grad = weight.grad = None
    wanted, _ = written_out(states, weight, tokens)
    wanted.sum().backward()
    assert torch.allclose(logprobs, wanted, atol=1e-5)
    assert torch.allclose(own[0], states.grad, atol=1e-5)
    assert torch.allclose(own[1], weight.grad, atol=1e-4)


def test_a_ruled_out_token_teaches_nothing_and_no_rows_are_no_rows():
    states, weight, tokens = drawn(4, 7)
    bias = torch.zeros(7, dtype=torch.float64)
    bias[3] = -torch.inf
    tokens[:] = 2
    logprobs, entropy = chosen_logprobs(states, weight, tokens, bias=bias, entropy=True)
    (logprobs + entropy).sum().backward()
    assert torch.isfinite(states.grad).all()
    assert torch.equal(weight.grad[3], torch.zeros(6, dtype=torch.float64))
    empty, _ = chosen_logprobs(states[:0], weight, tokens[:0])
    assert empty.shape == (0,)
    empty.sum().backward()


def test_in_bf16_products_are_bf16_and_sums_are_not():
    states, weight, tokens = drawn(300, 4000, hidden=64, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = chosen_logprobs(states, weight, tokens)
        whole = torch.nn.functional.linear(states, weight).float().log_softmax(-1)
    assert logprobs.dtype == torch.float32
    assert torch.allclose(logprobs, whole.gather(-1, tokens.unsqueeze(-1)).squeeze(-1), atol=1e-6)
    logprobs.sum().backward()
    assert weight.grad.dtype == states.grad.dtype == torch.float32


# --- whole models ---

BATCH = PolicyBatch(
    [[3, 4, 5], [8]], [[6, 7, 1], [9, 1], [10, 11, 12, 1]], [[0.0] * 3, [0.0] * 2, [0.0] * 4],
    [[1.0] * 3, [1.0] * 2, [1.0] * 4], [0, 0, 1], 9, 3, 8, 0.7,
)  # fmt: skip


def of_plain_rows(policy):
    """log π and entropy of the batch from whole, unpadded sequences and the model's own logits."""
    found = []
    for prompt, tokens in zip(BATCH.prompt_of_B, BATCH.tokens_B_T, strict=True):
        ids = [*BATCH.prompts_P_T[prompt], *tokens]
        logits = policy.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
        logp = (logits[len(ids) - len(tokens) - 1 : -1] / BATCH.temperature).log_softmax(-1)
        chosen = logp.gather(-1, torch.tensor(tokens).unsqueeze(-1)).squeeze(-1)
        found.append((chosen, -(logp.exp() * logp).sum(-1)))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def says_what_its_logits_say(policy):
    parameters = [p for p in policy.parameters() if p.requires_grad]
    flat = policy.logprobs(BATCH, entropy=True)
    wanted = of_plain_rows(policy)
    assert torch.allclose(flat.logprobs, wanted[0], atol=1e-5)
    assert torch.allclose(flat.entropy, wanted[1], atol=1e-5)
    ours = torch.autograd.grad((flat.logprobs + 0.3 * flat.entropy).sum(), parameters, allow_unused=True)
    theirs = torch.autograd.grad((wanted[0] + 0.3 * wanted[1]).sum(), parameters, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or torch.allclose(mine, other, atol=2e-5)


@pytest.mark.parametrize("kind", ["tiny_folder", "gpt2_folder"])
def test_models_are_taken_apart_and_say_what_their_logits_say(request, load, kind):
    policy = load(request.getfixturevalue(kind))
    assert output_layer(policy.model) is not None
    says_what_its_logits_say(policy)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
def test_adapted_models_too_and_an_adapted_output_layer_is_asked_as_a_whole(tiny_folder, load, targets):
    policy = load(tiny_folder, adapter=LoraSpec(type="lora", r=4, target_modules=targets))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)  # else the adapter says nothing yet
    assert (output_layer(policy.model) is None) == ("lm_head" in targets)
    says_what_its_logits_say(policy)


COMMON = {
    "vocab_size": 29, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None,
}  # fmt: skip


def saved(folder, tiny_folder, model):
    from transformers import AutoTokenizer

    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)  # logits that a cap or a scale changes visibly
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


def test_capped_logits_are_capped(tiny_folder, tmp_path, load):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(**COMMON, head_dim=8, sliding_window=4, final_logit_softcapping=3.0)
    policy = load(saved(tmp_path, tiny_folder, Gemma2ForCausalLM(config)))
    assert output_layer(policy.model).cap == 3.0
    says_what_its_logits_say(policy)


def test_what_is_not_known_of_an_output_layer_is_found_out(tiny_folder, tmp_path, load):
    from transformers import CohereConfig, CohereForCausalLM

    torch.manual_seed(0)
    policy = load(saved(tmp_path, tiny_folder, CohereForCausalLM(CohereConfig(**COMMON, logit_scale=0.25))))
    assert output_layer(policy.model) is None
    says_what_its_logits_say(policy)


def test_prompt_positions_never_reach_the_output_layer(tiny_folder, load):
    policy = load(tiny_folder)
    policy.packs = True
    policy.model.resize_token_embeddings(5000)
    batch = SupervisedBatch([[3] * 60], [[5, 6, 1]], [1.0], 3.0)
    assert output_layer(policy.model) is not None  # tried now, not under the count
    with Largest() as seen:
        policy.supervised_logprobs(batch)
    assert seen.numbers < 60 * 5000  # the layer's own 32 × 5,000 are the most


# --- attention of a bucket ---


@pytest.mark.parametrize("masked", [False, True])
def test_products_and_a_softmax_are_the_fused_kernel(masked):
    torch.manual_seed(0)
    keys, width = (96, 32) if masked else (64, 64)
    made = [torch.randn(3, heads, n, 16) for heads, n in ((8, width), (2, keys), (2, keys))]
    mask = None
    if masked:
        before = torch.arange(keys - width) < torch.tensor([[60], [64], [31]])
        own = torch.ones(width, width, dtype=torch.bool).tril()
        mask = torch.cat([before.unsqueeze(1).expand(-1, width, -1), own.expand(3, -1, -1)], dim=-1).unsqueeze(1)
    upstream = torch.randn(3, 8, width, 16)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        given = [x.to(dtype).requires_grad_() for x in made]
        out = attend(*given, mask=mask, scaling=0.25)
        assert out.dtype == dtype
        found.append([out.detach(), *torch.autograd.grad((out.float() * upstream).sum(), given)])
    for exact, rough in zip(*found, strict=True):
        assert float((exact - rough.float()).norm() / exact.norm()) < 0.01  # three digits of bf16


def test_many_keys_are_left_to_the_fused_kernel():
    """Scores of long sequences would not fit: no tensor of width × keys is made."""
    made = [torch.randn(1, 2, FEW_KEYS + 8, 16, dtype=torch.bfloat16) for _ in range(3)]
    with Largest() as seen:
        attend(*made, mask=None, scaling=None)
    assert seen.numbers < (FEW_KEYS + 8) ** 2


def test_the_device_says_how_many_tokens_are_run_at_once_unless_the_job_does():
    assert pick_budget(777, torch.device("cpu")) == 777
    assert pick_budget(None, torch.device("cpu")) < pick_budget(None, torch.device("cuda"))
