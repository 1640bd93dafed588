"""Runs `gve index --config gve-3b.yaml` with a model of the real 3B shape, without further options."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from gve_ray.config import GIB, resolve_model
from gve_ray.demo.render import encode_mp4

ROOT = Path(__file__).resolve().parents[2]
PROCESSOR = "package://demo/tiny_vl/model"  # provides the tokenizer and processor
TEXT = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151_936, "layer_types": ["full_attention"] * 36,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
}  # fmt: skip
VISION = {
    "hidden_size": 1280, "intermediate_size": 3420, "depth": 32, "num_heads": 16, "out_hidden_size": 2048,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip


def make_model(folder: Path) -> None:
    """Write random weights in bfloat16: 3.75 billion values, 7.5 GB."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    source = Path(resolve_model(PROCESSOR))
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    config = json.loads((source / "config.json").read_text())
    config["text_config"] |= TEXT
    config["vision_config"] |= VISION
    (folder / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            AutoConfig.from_pretrained(folder), dtype=torch.bfloat16
        )
    model.to_empty(device="cpu").tie_weights()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.02)
            else:
                weight.fill_(1.0 if "norm" in name else 0.0)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(3.75e9, rel=0.01)
    model.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.skipif(psutil.virtual_memory().available < 18 * GIB, reason="needs 18 GiB of free memory")
def test_index_with_the_recipe_for_3b(tmp_path: Path) -> None:
    # In a separate process, so that its memory is free again.
    subprocess.run([sys.executable, __file__, str(tmp_path / "model")], check=True)
    (tmp_path / "videos").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pictures = rng.integers(0, 256, (16, 64, 96, 3), dtype=np.uint8)
        encode_mp4(tmp_path / "videos" / f"{name}.mp4", pictures, fps=8, width=96, height=64)
    output = tmp_path / "index"
    paths = ["--input", str(tmp_path / "videos"), "--model.model", str(tmp_path / "model")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "gve_ray.cli",
            "index",
            "--config",
            "gve-3b.yaml",
            *paths,
            "--output",
            str(output),
        ],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 in = 2 out + 0 rejected" in done.stdout
    assert "resources.embed: " in done.stderr + done.stdout
    assert (output / "library.json").is_file()


if __name__ == "__main__":
    make_model(Path(sys.argv[1]))
