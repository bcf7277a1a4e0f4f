"""The native forward kernel against dense quadrature, its limits, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import naive
from kety import KetyError, simulate_curves
from kety.fitting.engine import instruction_sets
from kety.fitting.forward import kernel_curves
from kety.fitting.pieces import kernel_pieces
from kety.inputs import InputFunction, population_input

Floats = NDArray[np.float64]
repeatable = settings(deadline=None, derandomize=True, max_examples=120)
few = settings(deadline=None, derandomize=True, max_examples=40)

rates = st.one_of(
    st.sampled_from([0.0, 5e-324, 1e-300, 1e-12, 1e-7, 0.35, 1.0]),
    st.floats(0.0, 1.0),
    st.floats(-7.0, 0.0).map(lambda e: 10.0**e),
)
amplitudes = st.one_of(st.just(0.0), st.floats(1e-6, 1.0), st.floats(-1.0, -1e-6))
# Delays that float32 holds exactly, so that both precisions are asked for the same curve.
delays = st.floats(-40.0, 40.0, width=32)


@st.composite
def inputs(draw: st.DrawFn) -> InputFunction:
    """An input on an irregular grid, of any interpolation, with or without a jump at its start."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(2, 24))
    times = draw(st.floats(-20.0, 30.0)) + np.append(
        0, np.cumsum(rng.uniform(1.0, 12.0, count - 1))
    )
    concentration = rng.uniform(0.0, 1.0, count)
    if draw(st.booleans()):
        concentration[0] = 0.0
    assume(concentration.any())
    return InputFunction(
        times, concentration, interpolation=draw(st.sampled_from(["cubic", "linear", "monotone"]))
    )


@st.composite
def frames(draw: st.DrawFn) -> Floats:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = rng.choice([0.01, 1.0, 10.0], draw(st.integers(1, 24))) * rng.uniform(0.5, 2.0)
    return draw(st.floats(-30.0, 30.0)) + np.cumsum(steps)


@st.composite
def kernels(draw: st.DrawFn, exponentials: int | None = None) -> list[float]:
    terms = exponentials or draw(st.sampled_from([1, 2]))
    pairs = [draw(part) for _ in range(terms) for part in (amplitudes, rates)]
    return [draw(amplitudes), *pairs, draw(delays)]


def apart(aif: InputFunction, times: Floats, tau: float, gap: float) -> bool:
    """Whether no frame meets the jump at the first sample within `gap` s."""
    return bool(np.abs(times - tau - aif.times[0]).min() > gap)


def values(
    aif: InputFunction, times: Floats, kernel: list[float], dtype: str = "float64", isa: str = ""
) -> Floats:
    found = kernel_curves(aif, times, np.array([kernel]), dtype=dtype, instruction_set=isa)
    return found[0][0]


def single_rounding(aif: InputFunction, times: Floats, kernel: list[float]) -> float:
    """Relative error granted to float32: it grows with the pieces that a curve is swept over."""
    end = float(times[-1]) - min(kernel[-1], 0.0)
    return max(5e-6, 1e-7 * len(kernel_pieces(aif, max(kernel[2:-1:2]), end)["step"]))


def slopes(aif: InputFunction, times: Floats, kernel: list[float]) -> Floats:
    jacobian = kernel_curves(aif, times, np.array([kernel]), jacobian=True)[1]
    assert jacobian is not None
    return jacobian[0]


@repeatable
@given(inputs(), frames(), kernels())
def test_double_precision_meets_the_quadrature(
    aif: InputFunction, times: Floats, kernel: list[float]
) -> None:
    assume(apart(aif, times, kernel[-1], 1e-9))
    expected = naive.curve(aif, times, kernel)
    scale = naive.size(aif, times, kernel)
    np.testing.assert_allclose(values(aif, times, kernel), expected, rtol=0, atol=1e-10 * scale)


@repeatable
@given(inputs(), frames(), kernels())
def test_single_precision_meets_the_quadrature(
    aif: InputFunction, times: Floats, kernel: list[float]
) -> None:
    assume(apart(aif, times, kernel[-1], 1e-4))
    expected = naive.curve(aif, times, kernel)
    scale = naive.size(aif, times, kernel)
    found = values(aif, times, kernel, "float32")
    tolerance = single_rounding(aif, times, kernel) * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@few
@given(inputs(), frames(), kernels())
def test_derivatives_of_amplitudes_and_rates_meet_the_quadrature(
    aif: InputFunction, times: Floats, kernel: list[float]
) -> None:
    assume(apart(aif, times, kernel[-1], 1e-9))
    x = times - kernel[-1]
    found = slopes(aif, times, kernel)
    vascular = naive.input_value(aif, x)
    np.testing.assert_allclose(found[:, 0], vascular, rtol=0, atol=1e-10 * np.abs(vascular).max())
    for i in range(1, len(kernel) - 1, 2):
        a, k = kernel[i : i + 2]
        g, h = naive.convolution(aif, x, k), naive.convolution(aif, x, k, 1)
        np.testing.assert_allclose(found[:, i], g, rtol=0, atol=1e-10 * np.abs(g).max())
        scale = abs(a) * np.abs(h).max()
        np.testing.assert_allclose(found[:, i + 1], -a * h, rtol=0, atol=1e-10 * scale)


@few
@given(inputs(), frames(), kernels(), st.floats(0.01, 1.0))
def test_derivatives_meet_central_differences(
    aif: InputFunction, times: Floats, kernel: list[float], rate: float
) -> None:
    step = 1e-4
    knots = (times - kernel[-1])[:, None] - aif.times
    assume(np.abs(knots).min() > 3 * step)  # there a linear input has no derivative
    kernel[2:-1:2] = [max(k, rate) for k in kernel[2:-1:2]]
    found = slopes(aif, times, kernel)
    for i in range(len(kernel)):

        def moved(by: float, i: int = i) -> Floats:
            return values(aif, times, [p + by * step * (i == j) for j, p in enumerate(kernel)])

        difference = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * step)
        # Its error is of order step^4 and rounding / step, relative to unit amplitudes.
        unit = [1.0] * len(kernel)
        unit[2:-1:2] = kernel[2:-1:2]
        unit[-1] = kernel[-1]
        tolerance = 1e-6 * naive.size(aif, times, unit)
        np.testing.assert_allclose(found[:, i], difference, rtol=1e-6, atol=tolerance)


@few
@given(inputs(), frames(), kernels())
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_instruction_sets_agree(
    dtype: str, aif: InputFunction, times: Floats, kernel: list[float]
) -> None:
    assume(apart(aif, times, kernel[-1], 1e-4))
    rounding = 1e-13 if dtype == "float64" else single_rounding(aif, times, kernel)
    scale = naive.size(aif, times, kernel)
    first, *others = (values(aif, times, kernel, dtype, isa) for isa in instruction_sets())
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=rounding * scale)


def test_every_processor_has_the_plain_instruction_set() -> None:
    assert instruction_sets()[-1] == "plain"


@few
@given(inputs(), frames(), kernels(), st.integers(0, 2**32 - 1))
def test_a_curve_does_not_depend_on_its_neighbours(
    aif: InputFunction, times: Floats, kernel: list[float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    others = np.tile(kernel, (40, 1)) * rng.uniform(0.1, 1.0, (40, len(kernel)))
    place = int(rng.integers(40))
    others[place] = kernel
    # The largest rate of a call decides how finely the input is cut.
    others[:, 2:-1:2] = np.minimum(others[:, 2:-1:2], max(kernel[2:-1:2]))
    for dtype in ("float64", "float32"):
        together = kernel_curves(aif, times, others, dtype=dtype)[0][place]
        np.testing.assert_array_equal(together, values(aif, times, kernel, dtype))


@few
@given(inputs(), frames(), delays)
def test_without_washout_the_tissue_keeps_the_integral_of_the_input(
    aif: InputFunction, times: Floats, tau: float
) -> None:
    found = values(aif, times, [0.0, 1.0, 0.0, tau])
    x = times - tau
    knots = np.concatenate([[0.0], np.cumsum(_areas(aif))])
    at_knots = values(aif, aif.times + tau, [0.0, 1.0, 0.0, tau])
    np.testing.assert_allclose(at_knots, knots, rtol=0, atol=1e-9 * max(knots[-1], 1.0))
    before, after = x <= aif.times[0], x >= aif.times[-1]
    assert (found[before] == 0).all()
    held = knots[-1] + aif.concentration[-1] * (x - aif.times[-1])
    np.testing.assert_allclose(found[after], held[after], rtol=1e-10)


def _areas(aif: InputFunction) -> Floats:
    """Integral of the input over each interval between samples."""
    steps = np.diff(aif.times)[:, None]
    return (aif.coefficients() * steps ** np.arange(1, 5) / np.arange(1, 5)).sum(axis=1)


@few
@given(inputs(), frames(), delays, st.floats(-12.0, -5.0))
def test_the_limit_of_no_washout_is_continuous(
    aif: InputFunction, times: Floats, tau: float, exponent: float
) -> None:
    assume(apart(aif, times, tau, 1e-9))
    k = 10.0**exponent
    limit = values(aif, times, [0.0, 1.0, 0.0, tau])
    near = values(aif, times, [0.0, 1.0, k, tau])
    slope = slopes(aif, times, [0.0, 1.0, 0.0, tau])[:, 2]
    age = max(float(np.max(times - tau - aif.times[0])), 1.0)
    scale = age * max(float(np.abs(aif.coefficients()).max()), 1.0) * age**3
    np.testing.assert_allclose(near, limit + k * slope, rtol=0, atol=(k * age) ** 2 * scale + 1e-9)


def test_fast_washout_follows_the_input() -> None:
    aif = population_input("georgiou", 300.0)
    times = np.arange(60.0, 290.0, 7.0)
    for k in (10.0, 100.0):
        found = values(aif, times, [0.0, 1.0, k, 0.0])
        # G = c / k - c' / k^2 + ..
        np.testing.assert_allclose(found * k, aif(times), rtol=0.2 / k)


@few
@given(inputs(), frames(), kernels(), st.integers(-640, 640))
def test_a_delay_is_a_shift_of_the_input_or_of_the_times(
    aif: InputFunction, times: Floats, kernel: list[float], eighths: int
) -> None:
    shift = eighths / 8
    assume(apart(aif, times, kernel[-1] + shift, 1e-9))
    moved = [*kernel[:-1], kernel[-1] + shift]
    found = values(aif, times, moved)
    tolerance = 1e-11 * naive.size(aif, times, moved)
    np.testing.assert_allclose(
        values(aif.shifted(shift), times, kernel), found, rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(values(aif, times - shift, kernel), found, rtol=0, atol=tolerance)


@few
@given(inputs(), frames(), kernels(2))
def test_terms_superpose(aif: InputFunction, times: Floats, kernel: list[float]) -> None:
    v, a1, k1, a2, k2, tau = kernel
    parts = [[v, 0.0, 0.0, tau], [0.0, a1, k1, tau], [0.0, a2, k2, tau]]
    total = sum(values(aif, times, part) for part in parts)
    scale = naive.size(aif, times, kernel)
    np.testing.assert_allclose(values(aif, times, kernel), total, rtol=0, atol=1e-12 * scale)


@few
@given(inputs(), frames(), kernels(), st.floats(1e-9, 1e9))
def test_curves_scale_with_the_input_and_the_amplitudes(
    aif: InputFunction, times: Floats, kernel: list[float], factor: float
) -> None:
    strong = InputFunction(aif.times, aif.concentration * factor, interpolation=aif.interpolation)
    found = values(aif, times, kernel) * factor
    tolerance = 1e-11 * factor * naive.size(aif, times, kernel)
    np.testing.assert_allclose(values(strong, times, kernel), found, rtol=0, atol=tolerance)
    more = [p * factor if i % 2 == 1 or i == 0 else p for i, p in enumerate(kernel)]
    more[-1] = kernel[-1]
    np.testing.assert_allclose(values(aif, times, more), found, rtol=0, atol=tolerance)


def test_a_frame_at_the_first_sample_sees_the_jump_and_none_before_it() -> None:
    aif = InputFunction([10.0, 12.0, 16.0], [2.0, 3.0, 1.0], interpolation="linear")
    for dtype, gap in (("float64", 1e-14), ("float32", 1e-6)):
        times = np.array([11.5, 12.5 - gap, 12.5, 14.5, 18.5, 30.0])
        found = values(aif, times, [1.0, 0.0, 0.0, 2.5], dtype)
        np.testing.assert_array_equal(found, [0.0, 0.0, 2.0, 3.0, 1.0, 1.0])


def test_a_long_series_loses_nothing() -> None:
    aif = population_input("parker", 3600.0, delay=30.0)
    times = np.arange(0.0, 3600.0, 2.5)
    kernel = [0.05, 0.01, 0.004, 3.25]
    expected = naive.curve(aif, times[::40], kernel)
    np.testing.assert_allclose(values(aif, times, kernel)[::40], expected, rtol=1e-10, atol=1e-12)
    single = values(aif, times, kernel, "float32")[::40]
    np.testing.assert_allclose(single, expected, rtol=5e-6, atol=5e-6 * expected.max())


def test_one_frame_and_no_voxel() -> None:
    aif = population_input("parker", 300.0)
    assert values(aif, np.array([40.0]), [0.1, 0.01, 0.01, 0.0]).shape == (1,)
    assert kernel_curves(aif, np.arange(3.0), np.zeros((0, 4)))[0].shape == (0, 3)


@pytest.mark.parametrize("kernel", [[0.1, 0.1, -1e-3, 0.0], [0.1, np.nan, 0.1, 0.0]])
def test_rates_below_zero_and_numbers_that_are_none_are_refused(kernel: list[float]) -> None:
    aif = population_input("parker", 300.0)
    with pytest.raises(KetyError, match="finite"):
        values(aif, np.arange(9.0), kernel)


def test_an_unknown_instruction_set_lists_the_valid_ones() -> None:
    aif = population_input("parker", 300.0)
    with pytest.raises(ValueError, match=r"'sse9'.*plain"):
        values(aif, np.arange(9.0), [0.1, 0.1, 0.1, 0.0], isa="sse9")


PARAMETERS = {"ktrans": 0.2, "kep": 0.6, "vb": 0.05}


def test_simulated_curves_broadcast_and_default_to_no_delay() -> None:
    aif = population_input("parker", 300.0)
    times = np.arange(0.0, 200.0, 3.0)
    many = simulate_curves({**PARAMETERS, "delay": np.array([0.0, 4.0, -3.0])}, times, aif)
    assert many.shape == (3, len(times))
    assert many.dtype == np.float64
    np.testing.assert_array_equal(simulate_curves(PARAMETERS, times, aif)[0], many[0])
    single = simulate_curves(PARAMETERS, times, aif, dtype="float32")
    np.testing.assert_allclose(single, many[:1], rtol=0, atol=5e-6 * many.max())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"ktrans": 0.2, "kep": 0.6}, "missing: vb"),
        ({**PARAMETERS, "ve": 0.2}, "unknown: ve"),
        ({**PARAMETERS, "ktrans": np.ones(2), "kep": np.ones(3)}, "shapes"),
        ({**PARAMETERS, "kep": -0.1}, "not negative"),
        ({**PARAMETERS, "vb": np.nan}, "finite"),
    ],
)
def test_simulated_curves_refuse_wrong_parameters(
    parameters: dict[str, object], message: str
) -> None:
    aif = population_input("parker", 300.0)
    with pytest.raises(KetyError, match=message):
        simulate_curves(parameters, np.arange(5.0), aif)  # type: ignore[arg-type]


def test_simulated_curves_refuse_a_short_input_wrong_times_and_unknown_names() -> None:
    aif = population_input("parker", 100.0)
    with pytest.raises(KetyError, match="input function ends"):
        simulate_curves(PARAMETERS, np.arange(0.0, 200.0, 5.0), aif)
    with pytest.raises(KetyError, match="must increase"):
        simulate_curves(PARAMETERS, [0.0, 2.0, 2.0], aif)
    with pytest.raises(KetyError, match="extended_tofts"):
        simulate_curves(PARAMETERS, np.arange(5.0), aif, "tofts2")
    with pytest.raises(KetyError, match="float64"):
        simulate_curves(PARAMETERS, np.arange(5.0), aif, dtype="float16")


def test_lanes_far_apart_in_a_fine_input_give_the_same_bits() -> None:
    """Many pieces lie between their delays, so each lane fetches its own; alone it need not."""
    times = np.arange(0.0, 120.0, 3.0)
    fine = np.arange(0.0, 130.0, 0.1)
    aif = InputFunction(fine, np.exp(-fine / 40.0) * (1.2 + np.sin(fine)))
    rng = np.random.default_rng(3)
    kernel = rng.uniform([0.0, 0.0, 0.0, -5.0], [0.3, 0.02, 0.3, 40.0], (61, 4))
    for dtype in ("float64", "float32"):
        together, slopes = kernel_curves(aif, times, kernel, dtype=dtype, jacobian=True)
        assert slopes is not None
        for v, one in enumerate(kernel):
            alone, slope = kernel_curves(aif, times, one[None], dtype=dtype, jacobian=True)
            assert slope is not None
            # Pieces are cut for the largest rate of a call.
            tolerance = {"rtol": 1e-9, "atol": 1e-12} if dtype == "float64" else {"atol": 2e-4}
            np.testing.assert_allclose(together[v], alone[0], **tolerance)
            np.testing.assert_allclose(
                slopes[v], slope[0], rtol=1e-3, atol=1e-3 * np.abs(slope).max()
            )
