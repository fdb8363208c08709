"""Layer 0 of a real pretrained model against its own attention block; skipped where the weights are not."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "real_transformer.py"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("real_transformer", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def real(script):
    """The weights, and the tokens of the first window."""
    if not script.DATA.is_dir():
        pytest.skip(f"no model weights in {script.DATA}")
    weights, tokens = script.load(script.DATA)
    return weights, tokens[: script.WINDOW]


def test_layer_0_equals_the_models_block(script, real):
    # Inputs are float32; sums over 512 tokens and 385 coordinates in float32 round to a few 1e-7.
    assert script.block_error(*real) < 1e-5


def test_constant_coordinate_stays(script, real):
    # Row 385 of every W_h is zero: the appended 1 moves by nothing, to the bit.
    assert not script.attention(real[0]).velocity(real[1])[:, -1].any()


def test_a_wrong_bias_is_seen(script, real):
    weights, x = real
    wrong = weights._replace(Q=weights.Q + np.float32(1e-2))
    got = script.attention(wrong).velocity(x)[:, :-1]
    want = script.plain_block(weights, x)
    assert np.abs(got - want).max() / np.abs(want).max() > 1e-4


def test_missing_data_is_said(script, tmp_path, capsys):
    assert script.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "Q.npy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
