"""The networks: videos are independent, attention has an effect, and sizes match the paper."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from edge_af.errors import EdgeAfError
from edge_af.models.networks import AttendFusion, FeatureAttention, build, count_params, initialize
from edge_af.models.presets import ABLATIONS, PRESETS, AttendFusionConfig, config_from_dict, preset
from edge_af.models.sizes import deployed_bytes, layer_sizes, multiply_adds, param_count, training_flops

TINY = AttendFusionConfig(tokens=4, token_width=8, heads=2, dropout=0.5)


def network_of(config=TINY, classes=12, seed=0):
    network = build(config, classes)
    initialize(network, torch.full((classes,), 0.1), torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    torch.nn.init.normal_(network.head.weight, std=0.3)
    for module in network.modules():
        if isinstance(module, FeatureAttention):
            torch.nn.init.normal_(module.out.weight, std=0.3)  # Initially zero, without any effect.
    return network.eval()


def features(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1024, generator=generator), torch.randn(n, 128, generator=generator)


@pytest.mark.parametrize("model", list(PRESETS))
def test_a_videos_scores_do_not_depend_on_its_batch(model):
    config = TINY if model == "attend-fusion" else dataclasses.replace(preset(model, "small"), width=16)
    # In double precision, rounding errors are far smaller than any effect of other videos.
    network = network_of(config).double()
    visual, audio = (array.double() for array in features(6))
    with torch.inference_mode():
        together = network(visual, audio)
        alone = torch.cat([network(visual[i : i + 1], audio[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-12)


def test_attention_depends_on_the_video_and_is_not_uniform():
    network = network_of()
    assert isinstance(network, AttendFusion)
    hidden = torch.randn(5, TINY.width) * 2
    weights = network.visual.attention.weights(hidden)
    assert weights.shape == (5, TINY.heads, TINY.tokens, TINY.tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, TINY.heads, TINY.tokens))
    assert (weights - 1 / TINY.tokens).abs().max() > 0.01
    assert (weights[0] - weights[1]).abs().max() > 0.01


def test_attention_follows_its_equation():
    """Compare with softmax(Q Kᵀ / √d) V in loops over videos and heads."""
    attention = network_of().visual.attention
    hidden = torch.randn(3, TINY.width)
    width, per_head = TINY.token_width, TINY.token_width // TINY.heads
    with torch.inference_mode():
        found = attention(hidden)
        for video in range(3):
            tokens = hidden[video].reshape(TINY.tokens, width) + attention.position
            packed = tokens @ attention.qkv.weight.T + attention.qkv.bias
            mixed = []
            for head in range(TINY.heads):
                part = slice(head * per_head, (head + 1) * per_head)
                query, key, value = (packed[:, i * width : (i + 1) * width][:, part] for i in range(3))
                mixed.append(torch.softmax(query @ key.T / per_head**0.5, dim=-1) @ value)
            expected = torch.cat(mixed, dim=1) @ attention.out.weight.T + attention.out.bias
            torch.testing.assert_close(found[video], expected.reshape(-1), atol=1e-5, rtol=1e-5)


def test_attention_changes_the_scores():
    network = network_of()
    visual, audio = features(4)
    with torch.inference_mode():
        before = network(visual, audio)
        network.visual.attention.qkv.weight[: TINY.token_width].zero_()  # Zero queries give uniform attention.
        after = network(visual, audio)
    assert (before - after).abs().max() > 1e-3


@pytest.mark.parametrize("modality", [0, 1])
def test_both_modalities_reach_the_scores(modality):
    network = network_of()
    inputs = list(features(4))
    with torch.inference_mode():
        before = network(*inputs)
        inputs[modality] = torch.zeros_like(inputs[modality])
        assert (before - network(*inputs)).abs().max() > 1e-3


def test_training_starts_from_the_prior():
    prior = torch.linspace(0.001, 0.3, 12)
    network = build(TINY, 12)
    initialize(network, prior, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        scores = torch.sigmoid(network.eval()(*features(50)))
    torch.testing.assert_close(scores.mean(0), prior, atol=0.01, rtol=0.1)


@pytest.mark.parametrize("ablate", ["none", "attention"])
def test_training_starts_without_what_stands_between_the_layers(ablate):
    network = build(dataclasses.replace(TINY, ablate=ablate), 12)
    initialize(network, torch.full((12,), 0.1), torch.Generator().manual_seed(0))
    hidden = torch.randn(3, TINY.width)
    for stream in ("visual", "audio"):
        assert network.get_submodule(f"{stream}.attention")(hidden).abs().max() == 0


def test_paper_presets_have_the_papers_parameter_counts():
    assert param_count(preset("fc-late-fusion", "paper"), 4716) == 340_820_716
    assert 71_500_000 <= param_count(preset("attend-fusion", "paper"), 4716) <= 72_500_000


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, names in PRESETS.items() for name in names])
@pytest.mark.parametrize("classes", [4716, 3862])
def test_param_count_is_what_the_network_has(model, name, classes):
    with torch.device("meta"):
        network = build(preset(model, name), classes)
    assert count_params(network) == param_count(preset(model, name), classes)


@pytest.mark.parametrize("ablate", ABLATIONS)
def test_ablations_take_away_what_they_say(ablate):
    config = dataclasses.replace(TINY, ablate=ablate)
    network = network_of(config)
    assert count_params(network) == param_count(config, 12)
    visual, audio = features(4)
    with torch.inference_mode():
        scores = network(visual, audio)
        for modality, changed in (("visual", (visual * 0, audio)), ("audio", (visual, audio * 0))):
            assert torch.equal(scores, network(*changed)) == (modality == ablate)


def test_ablating_the_attention_keeps_the_parameters():
    config = preset("attend-fusion", "paper")
    without = param_count(dataclasses.replace(config, ablate="attention"), 4716)
    assert without == pytest.approx(param_count(config, 4716), rel=1e-4)


def test_one_token_is_refused():
    with pytest.raises(EdgeAfError, match="always 1"):
        AttendFusionConfig(tokens=1, token_width=8, heads=2, dropout=0)


def test_an_unknown_preset_is_answered_with_the_nearest():
    with pytest.raises(EdgeAfError, match="Did you mean 'small'"):
        preset("attend-fusion", "smal")


def test_config_survives_json():
    assert config_from_dict("attend-fusion", dataclasses.asdict(TINY)) == TINY
    with pytest.raises(EdgeAfError, match="expected"):
        config_from_dict("attend-fusion", {"tokens": 4})


def test_costs_are_those_of_the_layers():
    config = preset("fc-late-fusion", "paper")
    products = 1024 * 8000 + 128 * 8000 + 4 * 8000**2 + 16000 * 3862
    assert multiply_adds(config, 3862) == products
    # The forward pass and both gradients, but no gradient of the input features.
    assert training_flops(config, 3862) == 2 * (3 * products - (1024 + 128) * 8000)
    biases = 6 * 8000 + 3862
    assert deployed_bytes(config, 3862, "fp32") == 4 * (products + biases)
    assert deployed_bytes(config, 3862, "int8") == products + 8 * biases
    assert deployed_bytes(config, 3862, "int4") == products // 2 + products // 16 + 4 * biases


def test_multiply_adds_are_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network_of()(*features(1))
    assert counter.get_total_flops() == 2 * multiply_adds(TINY, 12)
    names = [layer.name for layer in layer_sizes(TINY, 12)]
    assert names[:3] == ["visual.fc1", "visual.fc2", "visual.attention.qkv"]


def test_the_linear_preset_has_no_hidden_layer():
    config = preset("fc-late-fusion", "linear")
    assert param_count(config, 3862) == (1024 + 128 + 1) * 3862
    with pytest.raises(EdgeAfError, match="both 0"):
        dataclasses.replace(config, depth=2)
