"""Promises of the encoder: rounding, order, types, and the same bytes every time."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mattesmith.enhance import Enhanced
from mattesmith.filters import Scored
from mattesmith.gen import Latents, Sample
from mattesmith.shards import encode, member_names
from mattesmith.shards.encode import gray_from_alpha, jpeg, png, rgb_from_image


def portrait(side: int = 16) -> Scored:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.uniform(-1, 1, (3, side, side)).astype("float32"))
    alpha = torch.linspace(0, 1, side).expand(1, side, side).contiguous()
    noise = (torch.ones(1, 4, 4), torch.ones(1, 8, 8))
    sample = Sample(Latents(1, 2, 3, torch.zeros(4)), torch.zeros(6, 4), noise, image)
    enhanced = Enhanced(sample, torch.full((6, 4), 0.1), noise, image, alpha, image, {"entropy": 1, "pixel": 0.25}, 7)
    return Scored(enhanced, {"coverage": 1, "agreement": 1e-9}, 2, None)


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_members_stand_in_the_promised_order() -> None:
    assert tuple(encode(portrait(), key="0").files) == ("image.png", "alpha.png", "fg.png", "trimap.png", "json")
    record = encode(portrait(), key="0", codec="jpeg", with_latents=True, with_alpha16=True)
    names = ("image.jpg", "alpha.png", "fg.png", "trimap.png", "json", "alpha16.png", "ws.npy", "noise.npz")
    assert tuple(record.files) == names == member_names(codec="jpeg", with_latents=True, with_alpha16=True)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match="codec must be one of png, jpeg, got 'webp'"):
        encode(portrait(), key="0", codec="webp")


def test_levels_are_rounded_not_floored() -> None:
    assert gray_from_alpha(torch.tensor([[[0.999, 0.001, 0.5, 1.0]]])).tolist() == [[255, 0, 128, 255]]
    assert gray_from_alpha(torch.tensor([[[0.999, 1.0]]]), num_levels=65536).tolist() == [[65469, 65535]]
    assert rgb_from_image(torch.tensor([0.999, -0.999, 0.0]).view(3, 1, 1)).tolist() == [[[255, 0, 128]]]


def test_every_level_survives_the_way_there_and_back() -> None:
    levels = torch.arange(256, dtype=torch.float32).view(1, 16, 16)
    assert torch.equal(torch.from_numpy(gray_from_alpha(levels / 255)).float(), levels[0])
    assert np.array_equal(rgb_from_image((levels / 127.5 - 1).expand(3, -1, -1))[:, :, 0], levels[0].byte().numpy())


def test_values_outside_their_range_are_clamped() -> None:
    assert gray_from_alpha(torch.tensor([[[-0.1, 1.1]]])).tolist() == [[0, 255]]
    assert rgb_from_image(torch.full((3, 1, 1), 1.2)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    "shape, dtype, mode", [((5, 7, 3), "uint8", "RGB"), ((5, 7), "uint8", "L"), ((1, 1), "uint8", "L")]
)
def test_a_png_is_read_back_exactly(shape: tuple[int, ...], dtype: str, mode: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    image = opened(png(pixels))
    image.load()
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), pixels)


def test_a_16_bit_png_is_read_back_exactly() -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (9, 4)).astype(np.uint16)
    image = opened(png(pixels))
    assert image.mode == "I;16"
    assert np.array_equal(np.asarray(image), pixels)


def test_the_stored_matte_is_8_bit_gray_and_the_foreground_has_no_alpha() -> None:
    files = encode(portrait(), key="0", with_alpha16=True).files
    modes = {name: opened(content).mode for name, content in files.items() if name.endswith("png")}
    assert modes == {"image.png": "RGB", "alpha.png": "L", "fg.png": "RGB", "trimap.png": "L", "alpha16.png": "I;16"}


def test_the_trimap_keeps_to_three_levels_and_is_known_only_where_the_matte_is() -> None:
    scored = portrait()
    alpha = torch.zeros(1, 32, 32)
    alpha[:, :, 16:] = 1
    scored = replace(scored, enhanced=replace(scored.enhanced, alpha=alpha))
    trimap = np.asarray(opened(encode(scored, key="0", trimap_width=5).files["trimap.png"]))
    assert set(np.unique(trimap)) == {0, 128, 255}
    assert (trimap[:, 0] == 0).all()
    assert (trimap[:, 11:21] == 128).all()
    assert (trimap[:, -1] == 255).all()


def test_the_json_has_fixed_keys_and_floats_stay_floats() -> None:
    text = encode(portrait(), key="0000200000").files["json"].decode()
    fields = json.loads(text)
    assert list(fields) == [
        *("key", "seed", "shard", "candidate", "width", "height", "steps", "expected_mad", "trimap", "losses", "scores")
    ]
    assert fields["losses"] == {"entropy": 1.0, "pixel": 0.25}
    assert '"entropy":1.0' in text
    assert '"trimap":{"width":1,"low":0.05,"high":0.95}' in text
    assert '"coverage":1.0' in text and '"expected_mad":2.0' in text
    assert (fields["seed"], fields["shard"], fields["candidate"], fields["steps"]) == (1, 2, 3, 7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_kept_portrait_with_a_value_that_is_not_finite_is_named(value: float) -> None:
    scored = replace(portrait(), scores={"agreement": value})
    with pytest.raises(ValueError, match=r"sample 0000200000: agreement is (nan|inf)"):
        encode(scored, key="0000200000")


def test_latents_come_back_as_they_were() -> None:
    files = encode(portrait(), key="0", with_latents=True).files
    ws = np.load(io.BytesIO(files["ws.npy"]), allow_pickle=False)
    assert ws.dtype == np.float16
    assert np.allclose(ws, 0.1, atol=1e-4)
    noise = np.load(io.BytesIO(files["noise.npz"]), allow_pickle=False)
    assert [noise[name].shape for name in noise.files] == [(1, 4, 4), (1, 8, 8)]


def test_the_same_portrait_gives_the_same_bytes() -> None:
    options = {"codec": "jpeg", "with_latents": True, "with_alpha16": True}
    assert encode(portrait(), key="0", **options) == encode(portrait(), key="0", **options)


def test_a_jpeg_keeps_its_chroma() -> None:
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, ::2, 0] = 255
    decoded = np.asarray(opened(jpeg(stripes, quality=95))).astype(int)
    assert np.abs(decoded - stripes).mean() < 8
