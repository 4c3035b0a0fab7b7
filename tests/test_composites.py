"""Composites: mattes stay exact, light is blended as light, and the cache follows the renders."""

import numpy as np
import pytest
import torch
from PIL import Image

from mattesmith.enhance.light import SRGB, blend
from mattesmith.shards.augment import coded_and_decoded, gaussian
from mattesmith.studio.composites import (
    WHOLE,
    flipped,
    load_portraits,
    matting_pairs,
    read_render,
    studio_portraits,
    warped,
)


def write_render(folder, key, *, size=16, colour=(200, 100, 50), alpha=None, hair=None):
    """One render of a single colour; alpha is 1 in the left half unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    left = np.zeros((size, size), np.uint8)
    left[:, : size // 2] = 255
    planes = {"foreground": np.full((size, size, 3), colour, np.uint8)}
    planes["alpha"] = left if alpha is None else alpha
    planes["hair"] = np.zeros((size, size), np.uint8) if hair is None else hair
    for name, plane in planes.items():
        Image.fromarray(plane).save(folder / f"{key}.{name}.png")
    (folder / f"{key}.json").write_text("{}")


@pytest.fixture
def renders(tmp_path):
    for i in range(4):
        write_render(tmp_path / "train", f"{i:06d}", colour=(60 * i, 100, 50))
    return tmp_path


def test_portraits_are_read_sorted_and_at_the_asked_size(renders):
    portraits = load_portraits(renders, "train", size=8)
    assert portraits.keys == ("000000", "000001", "000002", "000003")
    assert portraits.foreground.shape == (4, 8, 8, 3)
    assert portraits.foreground[:, 0, 0, 0].tolist() == [0, 60, 120, 180]
    assert portraits.alpha[0, 0].tolist() == [255] * 4 + [0] * 4


def test_the_cache_gives_the_same_and_takes_in_new_changed_and_removed_renders(renders):
    before = load_portraits(renders, "train", size=8)
    assert (load_portraits(renders, "train", size=8).foreground == before.foreground).all()

    write_render(renders / "train", "000001", colour=(9, 9, 9))
    write_render(renders / "train", "000007", colour=(7, 7, 7))
    (renders / "train" / "000002.json").unlink()
    after = load_portraits(renders, "train", size=8)
    assert after.keys == ("000000", "000001", "000003", "000007")
    assert after.foreground[:, 0, 0, 0].tolist() == [0, 9, 180, 7]


@pytest.mark.parametrize("content", [b"half a file", b""])
def test_a_damaged_cache_is_made_again(renders, content):
    before = load_portraits(renders, "train", size=8)
    (renders / "train-8.npz").write_bytes(content)
    assert (load_portraits(renders, "train", size=8).foreground == before.foreground).all()


def test_unfinished_renders_wait(renders):
    (renders / "train" / "000009.alpha.png").write_bytes(b"")
    assert "000009" not in load_portraits(renders, "train", size=8).keys


def test_no_renders_and_too_small_ones_are_said_in_one_line(renders):
    with pytest.raises(FileNotFoundError, match="studio render"):
        load_portraits(renders, "val", size=8)
    with pytest.raises(ValueError, match=r"16 px wide, training needs 32"):
        load_portraits(renders, "train", size=32)


def test_halves_have_nobody_in_common(renders):
    portraits = load_portraits(renders, "train", size=8)
    even, odd = portraits.half(0), portraits.half(1)
    assert even.keys == ("000000", "000002")
    assert odd.keys == ("000001", "000003")
    assert (even.foreground[1] == portraits.foreground[2]).all()
    with pytest.raises(ValueError, match="no render of an odd number among 2; render more people"):
        even.half(1)


def test_a_smaller_render_averages_light_by_coverage(tmp_path):
    # Black where nothing is covered, white where all is: the mean colour of the person is white, not grey.
    alpha = np.tile(np.array([255, 0], np.uint8), (2, 1))
    foreground = np.repeat(alpha[..., None], 3, -1)
    write_render(tmp_path, "000000", size=2, alpha=alpha)
    Image.fromarray(foreground).save(tmp_path / "000000.foreground.png")
    colour, coverage, _ = read_render(tmp_path, "000000", size=1)
    assert coverage.tolist() == [[128]]
    assert colour.min() >= 254


def test_blending_is_done_in_linear_light():
    white, black = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    half = blend(white, torch.full((1, 1, 1, 1), 0.5), black)
    # Half of white's light is sRGB 188 of 255.
    assert ((half + 1) * 127.5).flatten().tolist() == pytest.approx([187.5] * 3, abs=0.2)
    assert blend(white, torch.ones(1, 1, 1, 1), black).flatten().tolist() == pytest.approx([1, 1, 1])
    assert blend(white, torch.zeros(1, 1, 1, 1), black).flatten().tolist() == [-1, -1, -1]


def test_a_portrait_hides_its_background_exactly_where_alpha_is_one(renders):
    portraits = load_portraits(renders, "train", size=16)
    dark, bright = (np.full((1, 16, 16, 3), level, np.uint8) for level in (0, 255))
    images = [studio_portraits(portraits, pool, np.random.default_rng(0), batch=8) for pool in (dark, bright)]
    differs = (images[0] != images[1]).any(1)
    assert differs.float().mean() == 0.5  # the uncovered half, mirrored or not
    assert (differs[:, :, :8].all((1, 2)) ^ differs[:, :, 8:].all((1, 2))).all()


def test_a_seed_gives_the_same_batch(renders):
    portraits = load_portraits(renders, "train", size=16)
    pool = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    for compose in (lambda rng: (studio_portraits(portraits, pool, rng, batch=4),),
                    lambda rng: matting_pairs(portraits, pool, rng, batch=4)):  # fmt: skip
        first, again, other = (compose(np.random.default_rng(seed)) for seed in (5, 5, 6))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0])


def test_pairs_are_in_range_and_vary_the_matte_with_the_image(renders):
    portraits = load_portraits(renders, "train", size=16)
    pool = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    image, alpha, hair = matting_pairs(portraits, pool, np.random.default_rng(0), batch=16)
    assert image.shape == (16, 3, 16, 16)
    assert alpha.shape == hair.shape == (16, 1, 16, 16)
    assert -1 <= image.min() <= image.max() <= 1
    assert 0 <= alpha.min() <= alpha.max() <= 1
    assert alpha.mean((1, 2, 3)).std() > 0.01
    assert image.isfinite().all()


def test_warped_bodies_stay_on_the_lower_border():
    stack = torch.zeros(64, 1, 32, 32)
    stack[:, :, :, 8:24] = torch.linspace(0, 1, 32)[:, None]  # 1 at the lower border
    lowest = warped(stack, np.random.default_rng(0))[:, 0, -1].amax(1)
    assert lowest.min() > 0.2
    upper_streak = warped(stack, np.random.default_rng(0))[:, 0, :-4].amax((1, 2))
    assert (upper_streak < 0.999).float().mean() > 0.7  # the border's row is seldom repeated


def test_some_warps_keep_every_pixel_as_it_was():
    levels = torch.rand(200, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    made = warped(levels, np.random.default_rng(0))
    nearest = (made.reshape(200, -1, 1) - levels.reshape(200, 1, -1)).abs().amin(2)  # of the same picture's levels
    kept = (nearest < 1e-4).all(1).float().mean()
    assert kept == pytest.approx(WHOLE, abs=0.1)


def test_mirroring_takes_only_the_chosen_samples():
    x = torch.arange(4.0).reshape(2, 1, 1, 2)
    assert flipped(x, torch.tensor([True, False])).flatten().tolist() == [1, 0, 2, 3]


def test_a_blur_keeps_the_mean_and_follows_its_own_sigma():
    dot = torch.zeros(2, 1, 17, 17)
    dot[:, :, 8, 8] = 1
    blurred = gaussian(dot, [0.5, 1.5])
    assert blurred.sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert blurred[0, 0, 8, 8] > 2 * blurred[1, 0, 8, 8]
    variance = (blurred[1, 0].sum(0) * (torch.arange(17) - 8.0) ** 2).sum()
    assert variance.item() == pytest.approx(1.5**2, rel=0.05)


def test_coding_keeps_flat_blocks_and_loses_fine_detail():
    flat = torch.full((1, 3, 8, 8), 0.5)
    step = np.array([0.125])  # 0.5 x 8, the coefficient of the mean, is a multiple
    torch.testing.assert_close(coded_and_decoded(flat, step), flat, atol=1e-5, rtol=0)
    checks = flat + 0.01 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2 - 1)
    torch.testing.assert_close(coded_and_decoded(checks, step), flat, atol=1e-5, rtol=0)
    fine = torch.rand(1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(coded_and_decoded(fine, np.array([1e-6])), fine, atol=1e-4, rtol=0)


def test_the_table_of_light_has_no_visible_steps():
    assert (SRGB.diff().abs().max() * 255).item() < 1
