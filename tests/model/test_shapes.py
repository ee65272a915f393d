"""Shapes from a Hugging Face `config.json`: as transformers reads it, or refused with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import MODELS, ModelSpec, model_spec

SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "intermediate_size": 96,
    "vocab_size": 500,
}


def written(folder: Path, **config: Any) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "llama", "num_key_value_heads": None, "tie_word_embeddings": True},
        {"model_type": "llama", "num_key_value_heads": 4, "head_dim": 16},
        {"model_type": "llama", "sliding_window": 64},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral", "sliding_window": None, "head_dim": 12},
        {"model_type": "qwen2"},
        {"model_type": "qwen2", "num_key_value_heads": 2, "sliding_window": 64},
        {"model_type": "qwen2", "num_key_value_heads": 2, "head_dim": 10},
        {"model_type": "qwen3", "num_key_value_heads": 8, "tie_word_embeddings": True},
        {"model_type": "qwen3", "num_key_value_heads": 8, "head_dim": 20, "use_sliding_window": False},
    ],
    ids=str,
)  # fmt: skip
def test_a_config_is_read_as_transformers_reads_it(config: dict[str, Any], tmp_path: Path) -> None:
    """Every weight that transformers makes of it is counted, and every number of the KV cache."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    shape = model_spec(written(tmp_path, **SMALL, **config))
    told = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(told)
    assert memory.weight_bytes(shape) == 2 * model.num_parameters()
    keys = model.model.layers[0].self_attn.k_proj.out_features
    assert memory.kv_token_bytes(shape) == 2 * 2 * keys


def test_a_published_config_gives_the_preset(tmp_path: Path) -> None:
    stated = {"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32,
              "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
              "vocab_size": 32768, "tie_word_embeddings": False, "sliding_window": None}  # fmt: skip
    found = model_spec(written(tmp_path, **stated))
    preset = model_spec("mistral-7b")
    fields = [name for name in ModelSpec.__dataclass_fields__ if name != "name"]
    assert [getattr(found, name) for name in fields] == [getattr(preset, name) for name in fields]
    assert found.name == str(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gpt2"}, r"model_type is gpt2; shapes are known of llama, mistral"),
        ({"model_type": None}, r"model_type is None"),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\];"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts"),
        ({"model_type": "qwen3", "num_experts": 128}, "mixture of experts"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 64}, "sliding_window is 64"),
        ({"model_type": "mistral"}, "sliding_window is 4096"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "attention blocks then differ"),
        ({"layer_types": 3}, "attention blocks then differ"),
        ({"attention_bias": True}, "attention_bias is True: such biases"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_size": None}, "hidden_size is a whole number of at least 1, not None"),
        ({"num_hidden_layers": True}, "num_hidden_layers is a whole number"),
        ({"vocab_size": 1.5}, "vocab_size is a whole number"),
        ({"intermediate_size": 1 << 40}, "intermediate_size is a whole number"),
        ({"num_key_value_heads": 5}, "no multiple of kv_heads"),
        ({"hidden_size": 250}, "no multiple of num_attention_heads"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is true or false"),
    ],
)  # fmt: skip
def test_what_is_not_counted_is_refused_with_the_reason(
    change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidSpec, match=f"config.json: .*{says}"):
        model_spec(written(tmp_path, **{"model_type": "llama", **SMALL, **change}))


def test_what_is_no_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="is not there: give the path"):
        model_spec(str(tmp_path / "absent.json"))
    with pytest.raises(InvalidSpec, match=r"no config\.json that can be read"):
        model_spec(str(tmp_path) + "/\0.json")
    for content in ("{", "[" * 100_000, "\xff"):
        (tmp_path / "broken.json").write_text(content, encoding="latin-1")
        with pytest.raises(InvalidSpec, match=r"no config\.json that can be read"):
            model_spec(str(tmp_path / "broken.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InvalidSpec, match="it holds no object"):
        model_spec(str(tmp_path / "list.json"))


def test_names_of_presets_are_no_paths() -> None:
    assert len({model.name for model in MODELS}) == len(MODELS)
    assert not any(model.name.endswith(".json") for model in MODELS)
    with pytest.raises(InvalidSpec, match=r"mistral-7b, qwen2\.5-14b, or give the path"):
        model_spec("gpt-2")
