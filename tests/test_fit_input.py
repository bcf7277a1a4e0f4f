"""`kety.fit`: input that it cannot use is refused, with a message that helps."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import kety
from cases import TWO_PHASE, Floats, artery, options_of, study
from kety import InputFunction, KetyError, Status, VarProLM
from kety.inputs import population_input

FRAMES = len(TWO_PHASE)


@pytest.fixture(scope="module")
def aif() -> InputFunction:
    return artery("georgiou", TWO_PHASE[-1] + 5)


@pytest.fixture(scope="module")
def curves(aif: InputFunction) -> Floats:
    return study(np.random.default_rng(50), 20, aif)[0]


def with_frame(frame: int, value: float) -> Floats:
    times = TWO_PHASE.copy()
    times[frame] = value
    return times


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (TWO_PHASE[:-1], r"\(20, 37\).*36 frames"),
        (np.append(TWO_PHASE, 204.0), "38 frames"),
        (TWO_PHASE[::-1], "must increase"),
        (with_frame(7, 12.0), r"times\[6\] = 12 s is followed by 12 s"),
        (with_frame(7, 3.0), "must increase"),
        (with_frame(7, np.nan), r"times\[7\] is not finite"),
        (with_frame(36, np.inf), r"times\[36\] is not finite"),
        (TWO_PHASE[None], "one row"),
        (5.0, "frames|shape"),
        ([], "shape|one row"),
        ("TWO", "times"),
        ([*TWO_PHASE[:-1], "late"], "times"),
        (TWO_PHASE + 0j, "times"),
    ],
)
def test_times(curves: Floats, aif: InputFunction, times: Any, message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KetyError, match=message):
            kety.fit(curves, times, aif)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones((20, 36)), r"\(20, 36\)"),
        (np.ones((37, 20)), r"\(37, 20\)"),
        (np.ones(36), r"\(36,\)"),
        (np.float64(3.0), r"shape \(\)"),
        (np.ones((20, 37), complex), "complex"),
        (np.ones((20, 37), bool), "bool"),
        (np.full((20, 37), "1"), "dtype"),
        (np.full((20, 37), None), "object"),
        (np.ones((20, 37), "m8[s]"), "timedelta"),
    ],
)
def test_curves(aif: InputFunction, wrong: Any, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        kety.fit(wrong, TWO_PHASE, aif)


@pytest.mark.parametrize("wrong", [None, np.ones(37), (TWO_PHASE, TWO_PHASE), "parker"])
def test_an_input_that_is_no_input_function(curves: Floats, wrong: Any) -> None:
    with pytest.raises(KetyError, match=r"InputFunction.*hematocrit"):
        kety.fit(curves, TWO_PHASE, wrong)


def test_an_input_that_ends_before_the_frames(curves: Floats) -> None:
    short = population_input("parker", 150.0)
    with pytest.raises(KetyError, match=r"ends at .* s but the frames run to 201 s"):
        kety.fit(curves, TWO_PHASE, short)
    with pytest.raises(KetyError, match="ends at"):
        kety.fit(curves, TWO_PHASE, short, delay=10.0)
    with pytest.raises(KetyError, match="ends at"):
        kety.fit(curves, TWO_PHASE, short, bounds={"delay": (10.0, 100.0)})


def test_an_input_that_begins_after_the_frames(curves: Floats) -> None:
    late = population_input("parker", 900.0, delay=500.0)
    with pytest.raises(KetyError, match="input"):
        kety.fit(curves, TWO_PHASE, late)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tofts2"}, "extended_tofts, patlak"),
        ({"model": ""}, "tofts, extended_tofts"),
        ({"model": None}, "models are"),
        ({"dtype": "float16"}, "float32.*float64"),
        ({"dtype": "double"}, "float32.*float64"),
        ({"device": "gpu"}, "'gpu'.*cpu"),
        ({"discretization": "fft"}, "'fft'.*exact"),
        ({"joint": "nearby"}, "graph, temporal, spatial"),
        ({"joint": 3}, "graph, temporal, spatial"),
        ({"optimizer": "varpro"}, "varprolm"),
        ({"threads": 0}, "at least 1"),
        ({"threads": -2}, "at least 1"),
        ({"threads": 1.5}, "threads"),
        ({"threads": "two"}, "threads"),
        ({"delay": "yes"}, "delay"),
        ({"delay": None}, "delay"),
        ({"delay": np.nan}, "delay"),
        ({"delay": np.inf}, "delay"),
        ({"delay": [1.0, 2.0]}, "delay"),
        ({"delay": 2.0, "bounds": {"delay": (0.0, 5.0)}}, "bounds for delay are"),
        ({"delay": False, "bounds": {"delay": (0.0, 5.0)}}, "bounds for delay are"),
    ],
)
def test_options(curves: Floats, aif: InputFunction, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KetyError, match=message):
        kety.fit(curves, TWO_PHASE, aif, **options)


def test_truth_of_numpy_is_truth(curves: Floats, aif: InputFunction) -> None:
    free = kety.fit(curves, TWO_PHASE, aif, delay=np.True_)  # type: ignore[arg-type]
    assert len(np.unique(free.delay)) > 10
    none = kety.fit(curves, TWO_PHASE, aif, delay=np.False_)  # type: ignore[arg-type]
    assert (none.delay == 0).all()


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"ktrans": (1.0, 0.5)}, "exceeds"),
        ({"ktrans": (-0.1, 0.5)}, "negative"),
        ({"kep": (0.0, np.inf)}, "finite"),
        ({"vb": (np.nan, 1.0)}, "finite"),
        ({"vb": 0.3}, "lower, upper"),
        ({"vb": (0.1, 0.2, 0.3)}, "lower, upper"),
        ({"vb": ("a", "b")}, "lower, upper"),
        ({"vb": None}, "lower, upper"),
        ({"ve": (0.0, 1.0)}, "derived from ktrans and kep"),
        ({"vp": (0.0, 1.0)}, "derived from vb"),
        ({"Ktrans": (0.0, 1.0)}, "ktrans, kep, vb, delay"),
        ({"fp": (0.0, 1.0)}, "ktrans, kep, vb, delay"),
        ([("ktrans", 0.0, 1.0)], "bounds"),
        ("ktrans", "bounds"),
    ],
)
def test_bounds(curves: Floats, aif: InputFunction, bounds: Any, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        kety.fit(curves, TWO_PHASE, aif, bounds=bounds)


def test_bounds_of_a_parameter_that_another_model_has(curves: Floats, aif: InputFunction) -> None:
    with pytest.raises(KetyError, match="ktrans, vb, delay"):
        kety.fit(curves, TWO_PHASE, aif, "patlak", bounds={"kep": (0.0, 1.0)})


@pytest.mark.parametrize(
    "mask", [np.ones(19, bool), np.ones((20, 37), bool), np.ones((20, 1), bool), True, np.ones(0)]
)
def test_a_mask_on_another_grid(curves: Floats, aif: InputFunction, mask: Any) -> None:
    with pytest.raises(KetyError, match=r"mask has shape .*\(20,\)"):
        kety.fit(curves, TWO_PHASE, aif, mask=mask)


def test_a_mask_of_words(curves: Floats, aif: InputFunction) -> None:
    with pytest.raises(KetyError, match="mask"):
        kety.fit(curves, TWO_PHASE, aif, mask=np.full(20, "in"))


def test_nan_in_a_mask_is_outside(curves: Floats, aif: InputFunction) -> None:
    mask = np.ones(20)
    mask[4] = np.nan
    maps = kety.fit(curves, TWO_PHASE, aif, mask=mask)
    assert maps.status[4] == Status.OUTSIDE
    assert (np.delete(maps.status.values, 4) != Status.OUTSIDE).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(36), r"37 frames.*\(36,\)"),
        (np.ones((20, 37)), "37 frames"),
        (2.0, "37 frames"),
        (with_frame(0, -1.0), "not negative"),
        (with_frame(4, np.nan), "finite"),
        (with_frame(4, np.inf), "finite"),
        (np.zeros(37), "above 0"),
        (["heavy"] * 37, "weights"),
        (np.arange(37) < 4, "4 frames|frames .*weight|at least 5"),
    ],
)
def test_weights(curves: Floats, aif: InputFunction, weights: Any, message: str) -> None:
    with pytest.raises(KetyError, match=message):
        kety.fit(curves, TWO_PHASE, aif, weights=weights)


@pytest.mark.parametrize(("model", "frames"), [("extended_tofts", 4), ("tofts", 3), ("patlak", 3)])
def test_fewer_frames_than_parameters(
    curves: Floats, aif: InputFunction, model: str, frames: int
) -> None:
    with pytest.raises(KetyError, match=f"{frames} frames cannot determine the {frames} free"):
        kety.fit(curves[:, -frames:], TWO_PHASE[-frames:], aif, model)
    # One parameter less to find, and they do.
    kety.fit(curves[:, -frames:], TWO_PHASE[-frames:], aif, model, delay=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_evaluations": 0}, "max_evaluations"),
        ({"max_evaluations": -3}, "max_evaluations"),
        ({"max_evaluations": 2.5}, "max_evaluations"),
        ({"ftol": -1e-3}, "ftol"),
        ({"ftol": np.nan}, "ftol"),
        ({"xtol": -1e-3}, "xtol"),
        ({"candidate_ratio": np.nan}, "candidate_ratio"),
        ({"rival": -1.0}, "rival"),
        ({"instruction_set": "sse9"}, r"sse9.*plain"),
    ],
)
def test_options_of_the_optimizer(
    curves: Floats, aif: InputFunction, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kety.fit(curves, TWO_PHASE, aif, optimizer=VarProLM(**options))


@pytest.mark.parametrize("level", [1e25, 1e39, 1e160, 1e300])
def test_numbers_beyond_the_precision_are_a_status(
    curves: Floats, aif: InputFunction, level: float
) -> None:
    huge = curves.copy()
    huge[[2, 7]] *= level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in ("float32", "float64"):
            maps = kety.fit(huge, TWO_PHASE, aif, dtype=dtype)
            known = np.isfinite(maps.ktrans.values)
            failed = [Status.NOT_FINITE, Status.NOT_ENHANCING, Status.NOT_IDENTIFIABLE]
            assert np.isin(maps.status.values[~known], failed).all()
            assert known[[i for i in range(20) if i not in (2, 7)]].sum() >= 17
            assert not np.isinf(maps.ktrans).any()


def test_nothing_warns(curves: Floats, aif: InputFunction) -> None:
    odd = curves.copy()
    odd[0], odd[1], odd[2, 3], odd[3, 4] = 0.0, 7.0, np.nan, np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in kety.MODELS:
            for mask in (None, np.ones(20, bool)):
                for dtype in ("float32", "float64"):
                    given = options_of(model, aif) | {"mask": mask, "dtype": dtype}
                    kety.fit(odd, TWO_PHASE, aif, model, fitted=True, **given)
