"""The renderer on a sphere with strands: exact coverage, honest edges, files that resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mitsuba")

from mattesmith.studio import render as studio_render
from mattesmith.studio import scene as studio_scene
from mattesmith.studio.camera import Camera, draw_camera, project
from mattesmith.studio.denoise import denoise
from mattesmith.studio.light import Light, captured, directions, draw_light, lamp, temperature
from mattesmith.studio.passes import coverage, flat_coverage, straight, strand_flow
from mattesmith.studio.render import Render, develop, from_srgb, render, save, split_of, to_srgb, worker_pool
from mattesmith.studio.scene import build_scene, cut_out, decimal, mitsuba, newest_llvm, round_up
from mattesmith.studio.surfaces import Strands, Surface

SIZE = 24
# It sees 0.2 m to every side of the origin.
CAMERA = Camera((0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 1.0, 0.0), float(np.rad2deg(2 * np.arctan(0.2))))


def ball(radius: float = 0.1, name: str = "skin") -> Surface:
    theta, phi = np.meshgrid(np.linspace(0, np.pi, 24), np.linspace(0, 2 * np.pi, 48), indexing="ij")
    points = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], -1) * radius
    at = np.arange(23)[:, None] * 48 + np.arange(47)
    halves = ((at, at + 48, at + 1), (at + 1, at + 48, at + 49))
    faces = np.concatenate([np.stack(half, -1).reshape(-1, 3) for half in halves])
    colour = np.tile(np.float32([0.6, 0.4, 0.3]), (24 * 48, 1))
    return Surface(name, points.reshape(-1, 3).astype(np.float32), faces.astype(np.int32), colour, 0.5, 0.3)


def rays_of_hair(num: int = 400, radius: float = 0.0005) -> Strands:
    rng = np.random.default_rng(0)
    way = rng.normal(size=(num, 3)).astype(np.float32)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    points = way[:, None] * np.linspace(0.1, 0.17, 5, dtype=np.float32)[None, :, None]
    return Strands("hair", points, np.full((num, 5), radius, np.float32), np.full((num, 3), 0.2, np.float32), 0.4)


def white_light() -> Light:
    return Light("white", np.ones((64, 128, 3), np.float32), 0.3)


@pytest.fixture(scope="module", autouse=True)
def scalar() -> None:
    """The scalar variant compiles nothing, so tiny scenes are quick; one test below takes the other way."""
    mitsuba().set_variant("scalar_rgb")


@pytest.fixture(scope="module")
def picture() -> Render:
    return render([ball()], [rays_of_hair()], CAMERA, white_light(), size=SIZE, colour_samples=16, alpha_samples=64)


def test_a_disc_covers_its_area_and_not_a_pixel_more() -> None:
    alpha = render([ball()], [], CAMERA, white_light(), size=SIZE, colour_samples=4, alpha_samples=256).alpha
    apparent = 0.1 / np.sqrt(1 - 0.1**2)  # a sphere 1 m away, on the plane through its centre
    assert alpha.sum() == pytest.approx(np.pi * (apparent / 0.4 * SIZE) ** 2, rel=0.02)
    assert alpha[SIZE // 2, SIZE // 2] == 1 and alpha[0, 0] == 0


def test_hair_is_at_most_alpha_and_some_of_it_is_soft(picture: Render) -> None:
    assert (picture.hair <= picture.alpha).all()
    assert ((picture.hair > 0.05) & (picture.hair < 0.95)).sum() > 50
    assert picture.colour.shape == (SIZE, SIZE, 3)
    assert np.isfinite(picture.colour).all() and picture.colour.min() >= 0 and picture.colour.max() <= 1


def test_a_strand_thinner_than_a_pixel_covers_its_share() -> None:
    points = np.stack([np.full(5, 0.0083), np.linspace(-0.3, 0.3, 5), np.zeros(5)], -1)[None].astype(np.float32)
    strand = Strands("hair", points, np.full((1, 5), 0.001, np.float32), np.full((1, 3), 0.2, np.float32), 0.4)
    hair = render([], [strand], CAMERA, white_light(), size=SIZE, colour_samples=4, alpha_samples=400).hair
    assert hair.sum() == pytest.approx(SIZE * 0.002 / 0.4 * SIZE, rel=0.05)
    assert (hair.sum(0) > 0).sum() == 1


def test_colour_outside_the_matte_continues_the_edge_and_is_never_black(picture: Render) -> None:
    inside = picture.colour[picture.alpha > 0.9].mean()
    assert picture.colour[picture.alpha == 0].min() > 0.2 * inside


def test_the_same_seed_gives_the_same_picture() -> None:
    first, again = (render([ball()], [rays_of_hair(50)], CAMERA, white_light(), size=SIZE, colour_samples=4,
                           alpha_samples=16, seed=3) for _ in range(2))  # fmt: skip
    np.testing.assert_array_equal(first.alpha, again.alpha)
    np.testing.assert_allclose(first.colour, again.colour, atol=1e-5)


def test_both_ways_to_count_coverage_agree() -> None:
    surfaces, strands = [ball()], [rays_of_hair()]
    flat = flat_coverage(surfaces, strands, CAMERA, size=SIZE, samples=400, seed=1)
    if newest_llvm() is None:
        pytest.skip("no libLLVM here, so there is one way only")
    mitsuba().set_variant("llvm_ad_rgb")
    try:
        scene = build_scene(surfaces, strands, CAMERA, white_light(), size=SIZE)
        flow = strand_flow(CAMERA, strands, size=SIZE)
        adaptive = coverage(scene, flow.touched, size=SIZE, samples=400, seed=0)
    finally:
        mitsuba().set_variant("scalar_rgb")
    for one, other in zip(adaptive, flat, strict=True):
        assert np.abs(one - other).mean() < 0.01 and np.abs(one - other).max() < 0.15


def test_a_cut_goes_across_triangles_exactly_at_one_half() -> None:
    square = Surface(
        "cloth", np.float32([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), np.int32([[0, 1, 2], [0, 2, 3]]),
        np.float32([[0] * 3, [1] * 3, [1] * 3, [0] * 3]), 0.5, 0.1, opacity=np.float32([0, 1, 1, 0]),
    )  # fmt: skip
    vertices, faces, colour = cut_out(square)
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normal[:, 2] > 0).all()  # the winding is kept
    assert normal[:, 2].sum() / 2 == pytest.approx(0.5)
    assert corners[..., 0].min() == pytest.approx(0.5) and colour[faces].min() == pytest.approx(0.5)
    assert cut_out(replace(square, opacity=np.zeros(4, np.float32)))[1].shape == (0, 3)


def test_decimal_text_reads_back() -> None:
    values = np.array([0.0, -1.5, 9.999999, 0.000049, -0.123456])
    assert bytes(decimal(values)).split() == [b"+0.000000", b"-1.500000", b"+9.999999", b"+0.000049", b"-0.123456"]


def test_shapes_come_in_few_sizes() -> None:
    counts = np.arange(1, 400_000, 97)
    sizes = np.array([round_up(int(count)) for count in counts])
    assert len(set(sizes)) == 28 and sizes.min() == 4096  # 4 an octave
    assert (sizes >= counts).all() and (sizes[counts > 4096] < 1.25 * counts[counts > 4096]).all()
    assert [round_up(n) for n in (780, 4097, 229_376, 229_377)] == [4096, 5120, 229_376, 262_144]


def test_the_segments_that_make_up_the_number_are_not_seen(monkeypatch: pytest.MonkeyPatch, picture: Render) -> None:
    monkeypatch.setattr(studio_scene, "round_up", lambda count: count)
    bare = render([ball()], [rays_of_hair()], CAMERA, white_light(), size=SIZE, colour_samples=16, alpha_samples=64)
    np.testing.assert_array_equal(bare.alpha, picture.alpha)
    np.testing.assert_array_equal(bare.hair, picture.hair)
    assert np.abs(bare.colour - picture.colour).mean() < 1e-3


def test_only_the_wanted_identities_are_rendered(tmp_path: Path) -> None:
    wanted = [i for i in range(10, 40) if split_of(i) == "val"]
    (tmp_path / "val").mkdir()
    for identity in wanted:
        (tmp_path / "val" / f"{identity:06d}.json").write_text("{}")
    assert studio_render.render_portraits(tmp_path, first=10, count=30, splits=["val"], size=16) == []
    assert len(list(tmp_path.glob("*/*"))) == len(wanted) > 0


def test_projection_agrees_with_the_renderer() -> None:
    centre = np.array([0.08, 0.05, 0.0], np.float32)
    camera = replace(CAMERA, up=(0.2, 1.0, 0.0), origin=(0.1, 0.0, 1.0))
    dot = replace(ball(0.02), vertices=ball(0.02).vertices + centre)
    alpha = render([dot], [], camera, white_light(), size=SIZE, colour_samples=4, alpha_samples=100).alpha
    row, column = (np.mgrid[:SIZE, :SIZE] + 0.5) * alpha / alpha.sum()
    at, _ = project(camera, centre, SIZE)
    np.testing.assert_allclose([column.sum(), row.sum()], at, atol=0.1)


def test_strands_flow_the_way_they_run() -> None:
    slope = np.linspace(-0.1, 0.1, 6, dtype=np.float32)
    points = np.stack([slope, -slope, 0 * slope], -1)[None]  # down to the right
    strand = Strands("hair", points, np.full((1, 6), 1e-3, np.float32), np.zeros((1, 3), np.float32), 0.4)
    flow = strand_flow(CAMERA, [strand], size=SIZE)
    middle = flow.direction[SIZE // 2, SIZE // 2]
    assert abs(middle @ (0.5**0.5, 0.5**0.5)) == pytest.approx(1, abs=1e-3)
    assert flow.touched[SIZE // 2, SIZE // 2] and not flow.touched[2, 20]


def test_each_strand_has_its_own_colour() -> None:
    across = np.broadcast_to(np.float32([[-0.1], [0.1]]), (2, 5))
    points = np.stack([across, np.tile(np.linspace(-0.3, 0.3, 5), (2, 1)), np.zeros((2, 5))], -1).astype(np.float32)
    red_blue = np.float32([[0.7, 0.1, 0.1], [0.1, 0.1, 0.7]])
    strands = Strands("hair", points, np.full((2, 5), 0.02, np.float32), red_blue, 0.6)
    colour = render([], [strands], CAMERA, white_light(), size=SIZE, colour_samples=16, alpha_samples=16).colour
    left, right = colour[12, 6], colour[12, 18]
    assert left[0] > 2 * left[2] and right[2] > 2 * right[0]


def test_straight_colour_of_a_flat_edge_is_flat_everywhere() -> None:
    alpha = np.clip(np.linspace(-1, 2, 32), 0, 1)[None].repeat(32, 0).astype(np.float32)
    premultiplied = alpha[..., None] * np.float32([0.5, 0.25, 0.1])
    np.testing.assert_allclose(straight(premultiplied, alpha, alpha), np.tile([0.5, 0.25, 0.1], (32, 32, 1)), rtol=1e-3)


def test_denoising_keeps_paint_and_removes_noise() -> None:
    rng = np.random.default_rng(0)
    albedo = np.where(np.arange(32)[None, :, None] < 16, 0.2, 0.7) * np.ones((32, 32, 3))
    noisy = albedo * rng.uniform(0.5, 1.5, (32, 32, 1))
    ones, normal = np.ones((32, 32)), np.zeros((32, 32, 3))
    clean = denoise(noisy, ones, albedo, normal, 0 * ones, np.zeros((32, 32, 2)))
    assert np.abs(clean - albedo).mean() < 0.35 * np.abs(noisy - albedo).mean()
    assert clean[:, 15].mean() == pytest.approx(0.2, rel=0.1) and clean[:, 16].mean() == pytest.approx(0.7, rel=0.1)


def test_a_lamp_shines_from_where_it_is_said_to_stand() -> None:
    right = lamp(90, 0, 15, 3.0, np.ones(3, np.float32))
    assert directions().reshape(-1, 3)[right[..., 0].argmax()] @ (1, 0, 0) > 0.97
    light = Light("right", right + 1e-3, 0.2)
    colour = render([ball()], [], CAMERA, light, size=SIZE, colour_samples=16, alpha_samples=16).colour
    assert colour[12, 16].mean() > 3 * colour[12, 7].mean()
    assert temperature(3000)[0] > temperature(9000)[0] and temperature(3000)[2] < temperature(9000)[2]


def test_lights_and_cameras_differ_by_seed_and_repeat_with_it() -> None:
    lights = [draw_light(np.random.default_rng(seed)) for seed in range(12)]
    assert len({light.name for light in lights}) > 6 and len(captured()) == 18
    assert all(np.isfinite(light.environment).all() and light.environment.min() >= 0 for light in lights)
    np.testing.assert_array_equal(draw_light(np.random.default_rng(5)).environment, lights[5].environment)
    for seed in range(12):
        camera = draw_camera(np.random.default_rng(seed), np.zeros(3))
        (x, y), _ = project(camera, np.zeros(3, np.float32), 100)
        assert abs(x - 50) < 4 and abs(y - 46) < 4 and 13 < camera.fov_deg < 28


def test_exposure_sets_the_face_and_keeps_highlights_below_white() -> None:
    ones, colour = np.ones((8, 8)), np.full((8, 8, 3), 0.02)
    skin = np.full((8, 8, 3), 0.35)
    assert develop(colour, ones, 0 * ones, skin, 0.3).mean() == pytest.approx(0.3, rel=0.01)
    assert develop(colour, ones, 0 * ones, skin / 8, 0.3).mean() < 0.12  # dark skin stays dark
    colour[0, 0] = 5
    assert 0.9 < develop(colour, ones, 0 * ones, skin, 0.3).max() < 1


def test_saved_files_read_back_and_the_sheet_shows_them(picture: Render, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    save(picture, {"identity": 7}, tmp_path / "train" / "000007")
    names = sorted(file.name for file in (tmp_path / "train").iterdir())
    assert names == ["000007.alpha.png", "000007.foreground.png", "000007.hair.png", "000007.json"]
    assert json.loads((tmp_path / "train" / "000007.json").read_text()) == {"identity": 7}
    studio_render.sheet(tmp_path, tmp_path / "sheet.png", 3, columns=2)
    assert (tmp_path / "sheet.png").stat().st_size > 500
    larger = Render(
        *(np.repeat(np.repeat(layer, 2, 0), 2, 1) for layer in (picture.colour, picture.alpha, picture.hair))
    )
    save(larger, {"identity": 8}, tmp_path / "train" / "000008")
    studio_render.sheet(tmp_path, tmp_path / "sheet.png", 3, columns=2)
    with Image.open(tmp_path / "sheet.png") as both:
        assert both.size == (2 * SIZE, SIZE)
    with pytest.raises(FileNotFoundError, match="no renders"):
        studio_render.sheet(tmp_path / "nowhere", tmp_path / "other.png")


def test_srgb_round_trips_and_splits_are_fixed() -> None:
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_srgb(from_srgb(levels)), levels)
    splits = [split_of(i) for i in range(2000)]
    assert 0.77 < splits.count("train") / 2000 < 0.83 and 0.08 < splits.count("val") / 2000 < 0.12
    assert splits[:5] == [split_of(i) for i in range(5)]


def test_no_worker_outlives_a_killed_command() -> None:
    """Python's own executor leaves its workers waiting for ever. They hold the command's output open until they end."""
    program = (
        "import os, time\n"
        "from mattesmith.studio.render import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(60)\n"
    )
    command = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with command:
        assert command.stdout is not None
        worker = int(command.stdout.readline())
        command.kill()
        try:
            command.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            os.kill(worker, signal.SIGKILL)
            raise


def test_an_interrupted_command_drops_the_portraits_that_are_not_begun() -> None:
    with pytest.raises(KeyboardInterrupt), worker_pool(1) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
        waiting = [pool.submit(time.sleep, 0.1) for _ in range(100)]
        waiting[0].result()
        raise KeyboardInterrupt
    assert sum(one.cancelled() for one in waiting) > 90
