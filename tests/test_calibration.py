"""Calibration: known errors come back, worse scores never look better, and other networks have no number."""

import json
from pathlib import Path

import numpy as np
import pytest

from mattesmith.filters.calibration import (
    UNCALIBRATED,
    Calibration,
    Term,
    bound_to,
    calibration_file,
    find_calibration,
    from_json,
)
from mattesmith.filters.fitting import (
    SCORES,
    additive_curves,
    fit_calibration,
    fit_error,
    isotonic,
    monotone_curve,
    risk_coverage,
    spearman,
)

NETWORKS = {"generator": "a" * 64, "matting": "b" * 64, "second": "c" * 64}


def portraits(num: int, *, seed: int = 0) -> tuple[list[dict[str, float]], np.ndarray]:
    """Scores, of which stability and agreement alone tell the error, the one more than the other."""
    rng = np.random.default_rng(seed)
    scores = [{name: float(rng.lognormal(-3, 0.7)) for name in SCORES} for _ in range(num)]
    told = [200 * one["stability"] ** 0.7 * one["agreement"] ** 0.3 for one in scores]
    return scores, np.array(told) * rng.lognormal(0, 0.05, num)


def fitted(num: int = 400) -> Calibration:
    return fit_calibration(*portraits(num), networks=NETWORKS, version="0")


def expected(calibration: Calibration, scores: list[dict[str, float]]) -> np.ndarray:
    return np.array([calibration.expected_mad(one) for one in scores])


def test_errors_that_follow_from_scores_are_found_on_portraits_it_never_saw() -> None:
    calibration = fitted()
    scores, true = portraits(300, seed=1)
    error = fit_error(expected(calibration, scores), true)
    assert error["relative_error"] < 0.15 and error["spearman"] > 0.95 and error["best_half"] < 0.65
    reach = {term.score: term.values[-1] - term.values[0] for term in calibration.terms}
    assert reach["stability"] > reach["agreement"] > 5 * max(reach.get(name, 0.0) for name in ("holes", "certainty"))


def test_the_mean_over_the_fit_set_comes_out_right() -> None:
    scores, true = portraits(200)
    calibration = fit_calibration(scores, true, networks=NETWORKS, version="0")
    assert expected(calibration, scores).mean() == pytest.approx(true.mean(), rel=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_a_worse_score_never_lowers_the_expected_error(name: str) -> None:
    calibration, one = fitted(), portraits(1, seed=2)[0][0]
    line = [calibration.expected_mad(one | {name: value}) for value in (0.0, *np.geomspace(1e-5, 1, 40))]
    assert np.all(np.diff(line) >= 0)
    if name == "stability":
        assert line[-1] > 2 * line[0]


def test_scores_that_say_nothing_give_the_mean() -> None:
    scores = [dict.fromkeys(SCORES, 0.0)] * 20
    calibration = fit_calibration(scores, np.arange(20.0), networks=NETWORKS, version="0")
    assert calibration.terms == () and calibration.expected_mad(scores[0]) == pytest.approx(9.5)


def test_the_same_portraits_give_the_same_bits_and_json_keeps_them() -> None:
    calibration = fitted(50)
    assert calibration == fitted(50) == from_json(calibration.to_json(), name="x")
    assert json.loads(calibration.to_json())["networks"] == NETWORKS


def test_a_calibration_is_found_by_its_networks_alone(tmp_path: Path) -> None:
    assert find_calibration(NETWORKS, folder=tmp_path) is None
    default, other = fitted(20), fit_calibration(*portraits(30), networks=NETWORKS | {"matting": "d"}, version="0")
    calibration_file(None, folder=tmp_path).write_text(default.to_json())
    calibration_file(NETWORKS | {"matting": "d"}, folder=tmp_path).write_text(other.to_json())
    more = {"perceptual": "e" * 64}
    assert find_calibration(NETWORKS | more, folder=tmp_path) == default
    assert find_calibration(NETWORKS | {"matting": "d"}, folder=tmp_path) == other
    for name in NETWORKS:
        assert find_calibration(NETWORKS | {name: "f"}, folder=tmp_path) is None
    assert UNCALIBRATED < 0


def test_another_normalisation_or_trimap_network_is_another_network(tmp_path: Path) -> None:
    cards = {name: {"sha256": sha256, "architecture": "any"} for name, sha256 in NETWORKS.items()}
    assert bound_to(cards) == NETWORKS  # so what was fitted with embedded networks still holds

    def found(changed: dict[str, dict[str, str]]) -> Calibration | None:
        return find_calibration(bound_to(cards | changed), folder=tmp_path)

    unit, imagenet = ({"matting": cards["matting"] | {"normalisation": name}} for name in ("unit", "imagenet"))
    first, second = ({"trimap": {"sha256": name * 64}} for name in "de")
    made: list[Calibration] = []
    for changed in ({}, unit, first):
        networks = bound_to(cards | changed)
        made.append(fit_calibration(*portraits(20 + len(made)), networks=networks, version="0"))
        file = calibration_file(networks, folder=tmp_path)
        assert not file.exists()
        file.write_text(made[-1].to_json())
    assert [found({}), found(unit), found(first)] == made
    assert found(imagenet) is None and found(second) is None and found(unit | first) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda fields: fields.pop("bias"), "bias"),
        (lambda fields: fields.update(bias=float("nan")), "not finite"),
        (lambda fields: fields["networks"].pop("second"), "must name the sha256"),
        (lambda fields: fields["terms"][0]["values"].reverse(), "must not fall"),
        (lambda fields: fields["terms"][0]["values"].pop(), "as many values as knots"),
        (lambda fields: fields.update(terms=3), "not iterable"),
    ],
)
def test_a_file_that_is_no_calibration_is_named(tmp_path: Path, change, said: str) -> None:
    fields = json.loads(fitted(50).to_json())
    change(fields)
    (tmp_path / "calibration.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=rf"calibration\.json is no calibration.*{said}"):
        find_calibration(NETWORKS, folder=tmp_path)


def test_too_few_portraits_and_values_that_are_no_numbers_are_refused() -> None:
    scores, true = portraits(9)
    with pytest.raises(ValueError, match="10 portraits or more"):
        fit_calibration(scores, true, networks=NETWORKS, version="0")
    scores, true = portraits(12)
    with pytest.raises(ValueError, match="finite"):
        fit_calibration(scores, true * np.nan, networks=NETWORKS, version="0")


# Parts


def test_the_number_is_the_formula() -> None:
    term = Term("holes", (np.log(0.1), np.log(0.2)), (0.0, 2.0))
    calibration = Calibration(1.0, (term,), NETWORKS, {}, "0")
    middle = np.sqrt(0.1 * 0.2) - 1e-4
    assert calibration.expected_mad({"holes": middle}) == pytest.approx(np.exp(1 + 2 * 0.5))
    assert calibration.expected_mad({"holes": 0.0}) == pytest.approx(np.e)
    assert calibration.expected_mad({"holes": 1.0}) == pytest.approx(np.exp(3))


def test_violators_are_pooled_by_their_weight() -> None:
    assert isotonic(np.array([4.0, 1.0, 5.0]), np.array([1.0, 2.0, 1.0])).tolist() == [2, 2, 5]
    assert isotonic(np.array([3.0, 2.0, 1.0]), np.ones(3)).tolist() == [2, 2, 2]
    knots, values = monotone_curve(np.repeat([0.0, 1.0], 10), np.repeat([1.0, 3.0], 10))
    assert knots.tolist() == [0, 1] and values.tolist() == [1, 3]


def test_what_is_a_sum_of_rising_parts_is_taken_apart() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (2000, 3))
    (first, second, third) = additive_curves(x, 3 * x[:, 0] + 2 * (x[:, 1] > 0.5) - 2.5)
    assert np.interp([0.2, 0.8], *first) == pytest.approx([-0.9, 0.9], abs=0.06)
    assert np.interp([0.2, 0.8], *second) == pytest.approx([-1, 1], abs=0.06)
    assert np.ptp(third[1]) < 0.1


def test_ranks_and_curves_have_known_answers() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(a, a**3) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert spearman(a, np.ones(4)) == 0
    share, risk = risk_coverage(np.array([2.0, 1.0, 3.0]), np.array([4.0, 2.0, 9.0]))
    assert share == pytest.approx([1 / 3, 2 / 3, 1]) and risk.tolist() == [2, 3, 5]
    found = fit_error(np.array([2.0, 4.0]), np.array([1.0, 5.0]))
    assert list(found.values()) == pytest.approx([3, 1 / 3, 1, 1 / 3])
