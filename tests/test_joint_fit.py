"""`kety.fit(..., joint=...)`: what joint maps hold, and that they are right."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray

import kety
from cases import (
    GROWING,
    ONE_TERM,
    PLACES,
    TWO_PHASE,
    Floats,
    artery,
    assert_same,
    parameters,
    two_tissues,
)
from kety import MODELS, Joint, KetyError, Status, VarProLM
from kety.fitting.problem import make_problem
from kety.joint import hyper
from kety.joint.energy import checked_terms, paper_edges, value_and_gradient
from kety.joint.graph import places
from kety.models import ROLES
from kety.simulate import LesionPhantom, contrast_kept, simulate_lesions
from kety.studies.multitask.data import noisy, reference_sequence
from kety.studies.multitask.methods import estimate, same_tissue
from naive_joint import least_energy, normal_equations

FRAMES = len(TWO_PHASE)
AIF = artery("georgiou", TWO_PHASE[-1] + 5)
FREE = MODELS["extended_tofts"].names
NAMES = (*FREE, "ve", "vp")
TISSUES = {
    "ktrans": np.array([0.3, 0.6]),
    "kep": np.array([0.9, 1.9]),
    "vb": np.array([0.1, 0.05]),
    "delay": np.array([3.0, 5.0]),
}
HALF = np.repeat([0, 1], 18)
"""Tissue of each voxel of a 6 x 6 image: the first three rows, the others."""
SAME = (HALF[:, None] == HALF).astype(float)
CLEAN = kety.simulate_curves({n: v[HALF] for n, v in TISSUES.items()}, TWO_PHASE, AIF)
NOISY = CLEAN + np.random.default_rng(70).normal(0.0, 6.0, CLEAN.shape)
IMAGE = NOISY.reshape(6, 6, FRAMES)

each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])
SIMILARITIES = {
    "graph": Joint("graph", strength=16.0),
    "window": Joint("graph", strength=16.0, radius=2.0),
    "temporal": Joint("temporal", strength=2.0),
    "spatial": Joint("spatial", strength=2.0),
    "nearest": Joint("temporal", strength=2.0, neighbours=5),
    "equation 3": Joint("spatial", strength=1e5, scaled=False),
}
each_similarity = pytest.mark.parametrize("which", list(SIMILARITIES))


def fit(curves: Any = IMAGE, joint: Any = None, **options: Any) -> xarray.Dataset:
    """Maps of every voxel, unless there is a mask, with one thread."""
    shape = np.shape(curves)[:-1]
    chosen: dict[str, Any] = {"mask": np.ones(shape, bool), "threads": 1, **options}
    times, aif = chosen.pop("times", TWO_PHASE), chosen.pop("aif", AIF)
    return kety.fit(curves, times, aif, joint=joint, **chosen)


def assert_voxelwise(maps: xarray.Dataset, single: xarray.Dataset, where: Any = ...) -> None:
    """Bit for bit, the voxelwise maps where asked, and their twins everywhere."""
    for name in single.data_vars:
        np.testing.assert_array_equal(
            maps[name].values[where], single[name].values[where], err_msg=str(name)
        )
    assert_twins(maps, single)


def assert_twins(maps: xarray.Dataset, single: xarray.Dataset) -> None:
    names = [n for n in NAMES if n in single] or list(MODELS[single.attrs["model"]].names)
    for name in (*names, "cost", "status"):
        np.testing.assert_array_equal(maps[f"{name}_voxelwise"].values, single[name].values)
    for name in names:
        np.testing.assert_array_equal(
            maps[f"{name}_voxelwise_se"].values, single[f"{name}_se"].values
        )


def apart(maps: xarray.Dataset, other: xarray.Dataset, names: tuple[str, ...] = FREE) -> float:
    """Largest relative difference of the parameters."""
    return max(float(np.nanmax(np.abs(maps[n] / other[n] - 1.0))) for n in names)


# --- from nothing to everything -------------------------------------------------------------------


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "baseline": {"baseline": True},
    "weights": {"weights": np.linspace(0.2, 3.0, FRAMES)},
    "no delay": {"delay": False},
    "bounds": {"bounds": {"ktrans": (0.2, 0.5), "kep": (1.0, 1.0)}},
    "fitted": {"fitted": True},
}


@each_dtype
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("what", list(OPTIONS))
def test_strength_zero_is_voxelwise(what: str, order: Any, dtype: str) -> None:
    image = np.array(IMAGE, order=order)
    image[1, 2, 7] = np.nan
    mask = np.ones((6, 6), bool)
    mask[4, 1] = mask[0] = False
    options = {"dtype": dtype, "mask": mask, **OPTIONS[what]}
    single = fit(image, **options)
    for similarity in ("graph", "temporal", "spatial") if what == "plain" else ("graph",):
        maps = fit(image, Joint(similarity, strength=0.0), **options)
        assert_voxelwise(maps, single)
        part = mask.copy()
        part[1, 2] = False
        np.testing.assert_array_equal(np.isnan(maps.moved), ~part)
        assert (maps.moved.values[part] == 0).all()
        assert (maps.pooled.values[part] == 1).all()
        assert maps.attrs["joint_strength"] == 0
        free = sum(hi > lo for lo, hi in bounds_of(options).values())
        assert maps.attrs["joint_effective_parameters"] == free * part.sum()


def bounds_of(options: dict[str, Any]) -> dict[str, tuple[float, float]]:
    bounds = {p.name: p.bounds for p in MODELS["extended_tofts"].parameters}
    delay = {} if options.get("delay", True) else {"delay": (0.0, 0.0)}
    return bounds | options.get("bounds", {}) | delay


@each_dtype
def test_two_equal_voxels_keep_their_fit(dtype: str) -> None:
    curves = NOISY[[3, 3, 30]]
    w = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    single = fit(curves, dtype=dtype)
    for baseline in (False, True):
        # To the very end: errors are those of the last evaluation, a step before it.
        tight = VarProLM(ftol=1e-12, xtol=1e-9)
        options: dict[str, Any] = {"dtype": dtype, "baseline": baseline, "optimizer": tight}
        single = fit(curves, **options)
        maps = fit(curves, Joint(w, strength=np.inf), **options)
        assert apart(maps, single) < (2e-6 if dtype == "float32" else 1e-9)
        for name in FREE:
            ratio = maps[f"{name}_se"].values / single[f"{name}_se"].values
            np.testing.assert_allclose(ratio, [0.5**0.5, 0.5**0.5, 1.0], rtol=1e-3)
        np.testing.assert_allclose(maps.pooled, [2.0, 2.0, 1.0], rtol=1e-6)
        assert (maps.moved < 0.01).all()


@pytest.mark.parametrize("what", list(OPTIONS))
@each_dtype
def test_infinite_strength_is_the_fit_of_the_mean_curve(dtype: str, what: str) -> None:
    """Of every group that the graph connects, however it does; the others keep their own."""
    groups = [[0, 4, 7, 8, 16], [18, 20, 25]]
    w = np.zeros((36, 36))
    w[[0, 4, 7, 8], [4, 7, 8, 16]] = 2.0  # a chain
    w[np.ix_(groups[1], groups[1])] = 1.0
    joint = Joint(np.maximum(w, w.T), strength=np.inf)
    options = {"dtype": dtype, **OPTIONS[what]}
    # Voxels weigh by their noise, so that of the chain's ends may differ a little.
    maps, single = fit(NOISY, joint, **options), fit(NOISY, **options)
    equal = fit(NOISY, Joint(np.where(joint.similarity > 0, 1.0, 0.0), strength=np.inf), **options)
    for group in groups:
        mean = fit(NOISY[group].mean(axis=0)[None], **options)
        for name in FREE:
            values = maps[name].values[group]
            assert (values == values[0]).all()
            near = abs(values[0] - mean[name].values[0])
            assert near <= 0.1 * mean[f"{name}_se"].values[0] or near <= 1e-6 * values[0]
    mean = fit(NOISY[groups[1]].mean(axis=0)[None], **options)
    digits = 1e-3 if dtype == "float32" else 1e-6
    for name in FREE:
        np.testing.assert_allclose(equal[name].values[groups[1]], mean[name].values[0], rtol=digits)
    alone = np.setdiff1d(np.arange(36), np.concatenate(groups))
    assert_voxelwise(maps, single, alone)
    assert maps.attrs["joint_alone"] == len(alone)
    assert (maps.pooled.values[alone] == 1).all()


def test_errors_of_pooled_voxels_are_those_of_all_their_data() -> None:
    group = [0, 4, 7, 8, 16]
    w = np.zeros((36, 36))
    w[np.ix_(group, group)] = 1.0
    maps = fit(NOISY, Joint(w, strength=np.inf), dtype="float64")
    problem = make_problem(
        TWO_PHASE, AIF, "extended_tofts", delay=True, bounds=None, weights=None, dtype="float64",
        threads=1, find_enhancing=False,
    )  # fmt: skip
    record = problem.model

    def kernel(suffix: str) -> Floats:
        values = {n: maps[n + suffix].values[group] for n in FREE}
        return record.kernel_parameters(values, AIF, len(group))

    noise = normal_equations(problem, NOISY[group], kernel("_voxelwise"), 1.0)[0] / (FRAMES - 4)
    cost, _, _, information, _ = normal_equations(problem, NOISY[group], kernel(""), 1.0)
    np.testing.assert_allclose(maps.cost.values[group], cost, rtol=1e-6)
    covariance = noise.mean() * np.linalg.inv(information.sum(axis=0))
    for p in record.parameters:
        error = np.sqrt(covariance[ROLES.index(p.role), ROLES.index(p.role)])
        np.testing.assert_allclose(
            maps[f"{p.name}_se"].values[group], error / p.kernel_factor(AIF), rtol=1e-5
        )
    np.testing.assert_allclose(maps.pooled.values[group], 5.0)
    own = normal_equations(problem, NOISY[group], kernel("_voxelwise"), 1.0)[0]
    np.testing.assert_allclose(
        maps.moved.values[group], np.sqrt((cost - own) / noise.mean() / 4), rtol=1e-4
    )


def far_from_pooled(strengths: tuple[float, ...], dtype: str, **options: Any) -> list[float]:
    """Largest distance from the pooled estimate, in standard errors of that."""
    pooled = fit(NOISY, Joint(SAME, strength=np.inf), dtype=dtype, **options)
    assert len(np.unique(pooled.ktrans)) == 2
    found = []
    for strength in strengths:
        maps = fit(NOISY, Joint(SAME, strength=strength), dtype=dtype, **options)
        assert maps.attrs["joint_converged"] == 1
        distance = [np.abs(maps[n] - pooled[n]) / pooled[f"{n}_se"] for n in FREE]
        found.append(float(np.nanmax(distance)))
    return found


@each_dtype
@pytest.mark.parametrize("what", ["plain", "baseline", "weights"])
def test_ever_stronger_tends_to_pooled(what: str, dtype: str) -> None:
    far = far_from_pooled((0.0, 1.0, 30.0, 1e3), dtype, **OPTIONS[what])
    assert (np.diff(far) < 0).all()
    assert far[0] > 5
    assert far[-1] < 0.05
    (last,) = far_from_pooled((1e5,), dtype, **OPTIONS[what])
    assert last < (0.5 if dtype == "float32" else 1e-3)


def test_strongest_penalty_is_pooled_in_double_precision() -> None:
    (last,) = far_from_pooled((1e7,), "float64")
    assert last < 0.01


def test_strength_needs_no_unit() -> None:
    """Weights times a number change nothing, and neither does what the curves are measured in."""
    chosen = Joint(SAME, strength=8.0)
    maps = fit(NOISY, chosen, dtype="float64")
    scaled = replace(AIF, concentration=AIF.concentration * 2.0**-9)
    other = fit(NOISY * 2.0**-9, chosen, dtype="float64", aif=scaled)
    assert apart(other, maps) < 1e-9
    weights = np.linspace(0.2, 3.0, FRAMES)
    one, thrice = (fit(NOISY, chosen, dtype="float64", weights=f * weights) for f in (1.0, 3.0))
    assert apart(one, thrice) < 1e-6
    np.testing.assert_allclose(one.ktrans_se, thrice.ktrans_se, rtol=1e-5)
    assert apart(one, maps) > 1e-3


@each_dtype
@pytest.mark.parametrize("strength", [1e3, 1e5])
def test_unit_of_the_curves_changes_nothing_of_equation_3(strength: float, dtype: str) -> None:
    curves, aif = two_tissues(np.random.default_rng(71), 0.1)
    w = np.exp(-0.3 * ((PLACES[:, None] - PLACES) ** 2).sum(axis=2))
    options = {"times": GROWING, "model": "one_compartment", "delay": False, "dtype": dtype}
    found = []
    for unit in (2.0**-7, 2.0**7):
        one = replace(aif, concentration=aif.concentration * unit)
        joint = Joint(w, strength=strength * unit**2, scaled=False)
        found.append(fit(curves * unit, joint, aif=one, **options))
    assert apart(*found, names=("k1", "k2")) < (1e-3 if dtype == "float32" else 1e-4)


@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 3.0, len(GROWING))])
@pytest.mark.parametrize("strength", [10.0, 1e3, 1e5])
def test_strength_of_the_papers_penalty_is_its_lambda(strength: float, weights: Any) -> None:
    """The maps are where equation 3 has its minimum."""
    curves, aif = two_tissues(np.random.default_rng(82), 0.1)
    w = np.exp(-0.3 * ((PLACES[:, None] - PLACES) ** 2).sum(axis=2))
    options: dict[str, Any] = {"delay": False, "dtype": "float64", "weights": weights}
    model = "one_compartment"
    joint = Joint(w, strength=strength, scaled=False)
    maps = fit(curves, joint, times=GROWING, aif=aif, model=model, **options)
    problem = make_problem(
        GROWING, aif, model, bounds=None, threads=1, find_enhancing=False, **options
    )

    def kernel(suffix: str = "") -> Floats:
        values = {n: maps[n + suffix].values for n in ("k1", "k2")} | {"delay": np.zeros(36)}
        return problem.model.kernel_parameters(values, aif, 36)

    rates = np.diag([0.0, 1.0, 1.0, 0.0])
    terms = checked_terms(problem, curves, paper_edges(w, len(GROWING), strength), rates)
    least = least_energy(terms, kernel("_voxelwise"))
    assert value_and_gradient(terms, kernel())[0] == pytest.approx(least, rel=1e-5)
    assert value_and_gradient(terms, kernel("_voxelwise"))[0] > least * (1 + 1e-4)


# --- shapes and layouts ---------------------------------------------------------------------------


def test_axes_of_the_image_are_those_of_the_maps() -> None:
    joint = Joint(SAME, strength=8.0)
    flat = fit(NOISY, joint)
    assert flat.ktrans.dims == ("voxel",)
    for shape, dims in (((6, 6), ("x", "y")), ((3, 3, 4), ("x", "y", "z"))):
        maps = fit(NOISY.reshape(*shape, FRAMES), joint)
        assert maps.moved.dims == maps.ktrans_voxelwise.dims == dims
        for name in flat:
            np.testing.assert_array_equal(maps[name].values.ravel(), flat[name].values)
    deep = fit(NOISY.reshape(3, 2, 3, 2, FRAMES), joint)
    np.testing.assert_array_equal(deep.ktrans.values.ravel(), flat.ktrans.values)


@pytest.mark.parametrize("shape", [(36,), (6, 6), (1, 36), (4, 3, 3), (2, 3, 3, 2)])
@pytest.mark.parametrize("joint", [Joint("graph"), Joint("temporal", strength=2.0)])
def test_images_of_any_number_of_axes(shape: tuple[int, ...], joint: Joint) -> None:
    maps = fit(NOISY.reshape(*shape, FRAMES), joint)
    assert maps.ktrans.shape == shape
    assert np.isfinite(maps.ktrans).all()
    assert np.isfinite(maps.moved).all()
    if joint.similarity == "graph":
        truth = TISSUES["ktrans"][HALF].reshape(shape)
        error, own = (np.abs(maps[n].values - truth).mean() for n in ("ktrans", "ktrans_voxelwise"))
        assert error < 0.6 * own


def test_graph_does_not_depend_on_axes_of_length_one() -> None:
    joint = Joint("graph", strength=16.0, radius=2.0)
    flat = fit(IMAGE, joint)
    for shape in ((6, 6, 1), (1, 6, 6), (6, 1, 6)):
        maps = fit(IMAGE.reshape(*shape, FRAMES), joint)
        for name in flat:
            np.testing.assert_array_equal(maps[name].values.ravel(), flat[name].values.ravel())


def test_number_types() -> None:
    whole = np.round(IMAGE).astype(np.int16)
    for joint in (Joint("graph"), Joint("temporal", strength=2.0)):
        expected = fit(whole.astype(np.float32), joint)
        for dtype in (np.int16, np.int32, np.float64):
            assert_same(fit(whole.astype(dtype), joint), expected)
        fortran = np.asfortranarray(whole)
        assert_same(fit(fortran, joint), fit(fortran.astype(np.float32, order="F"), joint))
        wide = np.zeros((6, 12, FRAMES), np.int16)
        wide[:, ::2] = whole
        assert_same(fit(wide[:, ::2], joint), expected)


@each_similarity
def test_layout_in_memory_changes_rounding_alone(which: str) -> None:
    mask = np.ones((6, 6), bool)
    mask[2, 3] = False
    maps = fit(IMAGE, SIMILARITIES[which], dtype="float64", mask=mask)
    fortran = np.asfortranarray(IMAGE)
    assert apart(fit(fortran, SIMILARITIES[which], dtype="float64", mask=mask), maps) < 1e-4


@pytest.mark.parametrize("strength", [16.0, np.inf, "auto"])
def test_rows_of_a_matrix_do_not_depend_on_the_layout_in_memory(strength: Any) -> None:
    for shape in ((6, 6), (9, 4), (3, 4, 3)):
        image = NOISY.reshape(*shape, FRAMES)
        mask = np.ones(36, bool)
        mask[[0, 9, 22]] = False
        joint = Joint(SAME[np.ix_(mask, mask)], strength=strength)
        options: dict[str, Any] = {"dtype": "float64", "mask": mask.reshape(shape)}
        maps = fit(image, joint, **options)
        assert apart(fit(np.asfortranarray(image), joint, **options), maps) < 1e-4
        assert apart(maps, fit(image, **options)) > 0.1


# --- who takes part -------------------------------------------------------------------------------


def test_a_mask_of_one_voxel() -> None:
    mask = np.zeros((6, 6), bool)
    mask[3, 2] = True
    single = fit(mask=mask)
    for strength in (1.0, np.inf, "auto"):
        for similarity in ("graph", np.ones((1, 1))):
            maps = fit(joint=Joint(similarity, strength=strength), mask=mask)
            assert_voxelwise(maps, single)
            assert maps.attrs["joint_alone"] == 1
            assert maps.pooled.values[3, 2] == 1
            assert maps.moved.values[3, 2] == 0
            assert np.isnan(maps.pooled.values[~mask]).all()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("similarity", ["temporal", "spatial"])
def test_the_papers_similarities_of_very_few_voxels(similarity: str, count: int) -> None:
    mask = np.zeros((6, 6), bool)
    mask[3, :count] = True
    maps = fit(joint=Joint(similarity, strength=1.0), mask=mask)
    assert np.isfinite(maps.ktrans.values[mask]).all()


@each_dtype
@pytest.mark.parametrize("strength", [0.5, 1e3, np.inf, "auto"])
def test_voxels_alone_keep_every_bit(strength: Any, dtype: str) -> None:
    alone = np.arange(36) % 5 == 2
    w = SAME.copy()
    w[alone] = w[:, alone] = 0.0
    for options in ({}, {"baseline": True, "fitted": True}):
        single = fit(NOISY, dtype=dtype, **options)
        maps = fit(NOISY, Joint(w, strength=strength), dtype=dtype, **options)
        assert maps.attrs["joint_strength"] > 0
        assert_voxelwise(maps, single, alone)
        assert (maps.moved.values[alone] == 0).all()
        assert (maps.pooled.values[alone] == 1).all()
        assert (maps.ktrans.values != single.ktrans.values)[~alone].all()
        assert maps.attrs["joint_alone"] == alone.sum()


@each_similarity
@each_dtype
def test_voxels_that_are_not_finite_touch_no_other(which: str, dtype: str) -> None:
    image = IMAGE.copy()
    image[0, 3, 5] = np.nan
    image[2, 2] = np.nan
    image[5, 5, 36] = -np.inf
    good = np.isfinite(image).all(axis=2)
    joints = [SIMILARITIES[which]]
    if which in ("graph", "nearest") and dtype == "float32":
        joints.append(replace(joints[0], strength="auto"))
    for joint in joints:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            maps = fit(image, joint, dtype=dtype, fitted=True)
            masked = fit(IMAGE, joint, dtype=dtype, mask=good, fitted=True)
        for name in maps:
            np.testing.assert_array_equal(maps[name].values[good], masked[name].values[good])
        assert (maps.status.values[~good] == Status.NOT_FINITE).all()
        for name in (*FREE, "moved", "pooled", "cost", "ktrans_voxelwise", "fitted"):
            assert maps[name].isnull().values[~good].all()
        assert maps.attrs["joint_free_parameters"] == 4 * good.sum()


def test_rows_of_a_matrix_that_take_no_part_are_left_out() -> None:
    """The rows are the voxels that are fitted; those of no use among them pull no other."""
    curves = NOISY.copy()
    curves[[4, 20]] = np.nan
    good = np.isfinite(curves).all(axis=1)
    w = SAME * np.random.default_rng(72).uniform(0.2, 1.0, (36, 36))
    w = 0.5 * (w + w.T)
    for strength in (4.0, np.inf, "auto"):
        maps = fit(curves, Joint(w, strength=strength))
        less = fit(NOISY, Joint(w[np.ix_(good, good)], strength=strength), mask=good)
        for name in maps:
            np.testing.assert_array_equal(maps[name].values[good], less[name].values[good])


@each_dtype
def test_voxels_that_do_not_enhance_are_left_out(dtype: str) -> None:
    image = IMAGE.copy()
    rng = np.random.default_rng(73)
    image[1, :4] = rng.normal(0.0, 6.0, (4, FRAMES))
    image[4, 4] = 0.0
    for joint in (Joint("graph"), Joint("spatial", strength=2.0), Joint("graph", strength=np.inf)):
        maps = fit(image, joint, dtype=dtype, mask=None)
        left_out = maps.status.values == Status.NOT_ENHANCING
        assert left_out[1, :4].all()
        assert left_out[4, 4]
        assert left_out.sum() == 5
        for name in ("ktrans", "moved", "pooled", "ktrans_se"):
            np.testing.assert_array_equal(maps[name].isnull(), left_out)
        masked = fit(image, joint, dtype=dtype, mask=~left_out)
        for name in maps:
            np.testing.assert_array_equal(
                maps[name].values[~left_out], masked[name].values[~left_out]
            )


@each_dtype
@pytest.mark.parametrize("joint", [Joint("graph"), Joint("temporal", strength=1.0), Joint(SAME)])
@pytest.mark.parametrize("value", [0.0, np.nan, 41.0])
def test_nothing_to_estimate(value: float, joint: Joint, dtype: str) -> None:
    image = np.full((6, 6, FRAMES), value)
    masks = [None, np.ones((6, 6), bool)]
    if isinstance(joint.similarity, str):  # a matrix has a row for every voxel of the mask
        masks.append(np.zeros((6, 6), bool))
    for mask in masks:
        single = fit(image, dtype=dtype, mask=mask, fitted=True)
        maps = fit(image, joint, dtype=dtype, mask=mask, fitted=True)
        assert_voxelwise(maps, single)
        assert maps.ktrans.isnull().all()
        assert maps.moved.isnull().all()
        assert maps.attrs["joint_free_parameters"] == 0


def test_some_curves_of_zeros_among_others() -> None:
    image = IMAGE.copy()
    image[0, :2] = 0.0
    for which, joint in SIMILARITIES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            maps = fit(image, joint)
        rest = np.ones((6, 6), bool)
        rest[0, :2] = False
        assert np.isfinite(maps.ktrans.values[rest]).all(), which


@pytest.mark.parametrize("level", [1e10, 1e25, 1e39, 1e160])
@each_dtype
def test_numbers_beyond_the_precision_touch_no_other(level: float, dtype: str) -> None:
    image = IMAGE.copy()
    image[[1, 4], [2, 4]] *= level
    rest = np.ones((6, 6), bool)
    rest[[1, 4], [2, 4]] = False
    joint = Joint("graph", strength=16.0, radius=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = fit(image, joint, dtype=dtype)
        masked = fit(IMAGE, joint, dtype=dtype, mask=rest)
    for name in FREE:
        np.testing.assert_allclose(maps[name].values[rest], masked[name].values[rest], rtol=0.02)


# --- options of the fit ---------------------------------------------------------------------------


def test_a_fixed_delay_stays() -> None:
    for delay in (False, 2.5):
        maps = fit(joint=Joint("graph", strength=16.0), delay=delay)
        assert (maps.delay == float(delay)).all()
        assert apart(maps, fit(delay=delay), ("ktrans",)) > 0.01
        assert maps.attrs["joint_free_parameters"] == 3 * 36


@pytest.mark.parametrize(
    ("strength", "dtype"),
    [
        (2.0, "float32"),
        (2.0, "float64"),
        (200.0, "float32"),
        (200.0, "float64"),
        (np.inf, "float64"),
        pytest.param(
            np.inf,
            "float32",
        ),
    ],
)
def test_bounds_are_honoured_exactly_and_told(strength: float, dtype: str) -> None:
    """In units whose bounds single precision cannot hold."""
    hit = 0
    for top in (0.37, 0.41, 0.43, 0.47, 0.53):
        bounds = {"ktrans": (0.31, top), "kep": (0.9, 1.7), "vb": (0.07, 0.2)}
        maps = fit(joint=Joint(SAME, strength=strength), bounds=bounds, dtype=dtype)
        at = np.zeros((6, 6), bool)
        for name, pair in bounds.items():
            lo, hi = (np.array(b, dtype) for b in pair)
            values = maps[name].values
            assert ((values >= lo) & (values <= hi)).all()
            held = (values == lo) | (values == hi)
            np.testing.assert_array_equal(np.isnan(maps[f"{name}_se"].values), held, err_msg=name)
            at |= held
        np.testing.assert_array_equal(maps.status == Status.AT_BOUND, at)
        hit += int(at.sum())
    assert hit > 18


def test_equal_bounds_fix_a_parameter() -> None:
    for joint in (Joint(SAME, strength=2.0), Joint(SAME, strength=np.inf), Joint("graph")):
        maps = fit(joint=joint, bounds={"vb": (0.08, 0.08), "kep": (1.25, 1.25)})
        assert (maps.vb == np.float32(0.08)).all()
        assert (maps.kep == np.float32(1.25)).all()
        assert (maps.status == Status.CONVERGED).all()
        assert maps.attrs["joint_free_parameters"] == 2 * 36


@each_dtype
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("model", ONE_TERM)
def test_every_model(model: str, scaled: bool, dtype: str) -> None:
    record = MODELS[model]
    drawn = parameters(np.random.default_rng(74), 2, model)
    truth = {n: v[HALF] for n, v in drawn.items()}
    clean = kety.simulate_curves(truth, TWO_PHASE, AIF, model)
    noise = 0.05 * clean.max()
    curves = clean + np.random.default_rng(75).normal(0.0, noise, clean.shape)
    joint = Joint(SAME, strength=64.0) if scaled else Joint(SAME, scaled=False)
    maps = fit(curves.reshape(6, 6, FRAMES), joint, model=model, dtype=dtype)
    assert maps.attrs["joint_converged"] == 1
    assert maps.attrs["joint_strength"] > 0
    assert np.isin(maps.status, [Status.CONVERGED, Status.AT_BOUND]).all()
    gains = []
    for name in record.names:
        joined, own = (maps[n].values.ravel() - truth[name] for n in (name, f"{name}_voxelwise"))
        gains.append(np.sqrt(np.mean(joined**2) / np.mean(own**2)))
    assert np.mean(gains) < (0.5 if scaled else 0.9), dict(zip(record.names, gains, strict=True))
    for derived in record.derived:
        values = derived.value(*(maps[n].values for n in derived.of), AIF.hematocrit)
        np.testing.assert_allclose(maps[derived.name], values, rtol=1e-5)
        assert (maps[f"{derived.name}_se"] < maps[f"{derived.name}_voxelwise_se"]).mean() > 0.8


@each_dtype
@pytest.mark.parametrize("strength", [4.0, np.inf, "auto"])
def test_frames_without_weight_do_not_matter(strength: Any, dtype: str) -> None:
    weights = np.linspace(0.5, 2.0, FRAMES)
    unused = [0, 7, 20, 36]
    weights[unused] = 0.0
    image = IMAGE.copy()
    image[..., unused] = np.random.default_rng(76).normal(0.0, 1e3, (6, 6, len(unused)))
    for similarity in ("graph", SAME):
        joint = Joint(similarity, strength=strength)
        one, other = (fit(c, joint, weights=weights, dtype=dtype) for c in (IMAGE, image))
        assert one.attrs["joint_strength"] == other.attrs["joint_strength"]
        assert apart(one, other) < (2e-3 if dtype == "float32" else 1e-6)
        if strength == "auto":
            continue
        # Nor does it matter whether they are there at all.
        kept = np.setdiff1d(np.arange(FRAMES), unused)
        less = fit(
            IMAGE[..., kept], joint, weights=weights[kept], dtype=dtype, times=TWO_PHASE[kept]
        )
        assert apart(one, less) < (5e-3 if dtype == "float32" else 1e-3)


def test_weights_say_whom_to_believe() -> None:
    deviation = np.where(np.arange(FRAMES) % 3 == 0, 40.0, 4.0)
    rng = np.random.default_rng(77)
    curves = CLEAN + rng.normal(0.0, 1.0, CLEAN.shape) * deviation
    truth = TISSUES["ktrans"][HALF]
    joint = Joint(SAME, strength=16.0)
    weighted, plain = (
        np.sqrt(np.mean((fit(curves, joint, weights=w).ktrans.values - truth) ** 2))
        for w in (deviation**-2.0, None)
    )
    assert weighted < 0.6 * plain


def test_left_out_error_is_in_units_of_the_noise_of_each_frame() -> None:
    deviation = np.where(np.arange(FRAMES) % 3 == 0, 40.0, 4.0)
    curves = CLEAN + np.random.default_rng(78).normal(0.0, 1.0, CLEAN.shape) * deviation
    found = [fit(curves, Joint(SAME), weights=f * deviation**-2.0).attrs for f in (1.0, 3.0)]
    for attrs in found:
        assert 0.9 < attrs["joint_left_out_error"] < 1.2
    assert found[0]["joint_left_out_error"] == pytest.approx(
        found[1]["joint_left_out_error"], rel=1e-3
    )


@each_dtype
@pytest.mark.parametrize("joint", [Joint("graph", strength=16.0), Joint(SAME, strength=np.inf)])
def test_a_fitted_constant_does_not_count_as_a_difference(joint: Joint, dtype: str) -> None:
    shift = np.random.default_rng(79).normal(0.0, 50.0, 36).reshape(6, 6)
    one = fit(joint=joint, baseline=True, dtype=dtype)
    other = fit(IMAGE + shift[..., None], joint, baseline=True, dtype=dtype)
    assert apart(other, one) < (1e-2 if dtype == "float32" else 1e-5)
    digits = 0.05 if dtype == "float32" else 1e-4
    np.testing.assert_allclose(other.baseline - one.baseline, shift, rtol=0, atol=digits)
    assert (other.baseline_se > 0).all()
    # A constant of every voxel stays: the mean of what is left is none.
    fitted = fit(IMAGE + shift[..., None], joint, baseline=True, dtype=dtype, fitted=True)
    np.testing.assert_allclose(fitted.residual.mean("time"), 0.0, atol=digits)


@each_dtype
@pytest.mark.parametrize(
    "options", [{}, {"baseline": True}, {"weights": np.linspace(0.2, 3.0, 37)}]
)
def test_fitted_curves_are_the_joint_ones(options: dict[str, Any], dtype: str) -> None:
    maps = fit(joint=Joint("graph", strength=16.0), dtype=dtype, fitted=True, **options)
    values = {n: maps[n].values.ravel().astype(float) for n in FREE}
    expected = kety.simulate_curves(values, TWO_PHASE, AIF).reshape(IMAGE.shape)
    if "baseline" in maps:
        expected += maps.baseline.values[..., None]
    digits = 2e-2 if dtype == "float32" else 1e-8
    np.testing.assert_allclose(maps.fitted, expected, rtol=0, atol=digits)
    np.testing.assert_allclose(maps.residual, IMAGE - maps.fitted.values, rtol=0, atol=1e-4)
    np.testing.assert_allclose((maps.residual**2).sum("time"), maps.cost, rtol=1e-3)
    total = ((IMAGE - IMAGE.mean(axis=2, keepdims=True)) ** 2).sum(axis=2)
    np.testing.assert_allclose(maps.r2, 1.0 - maps.cost / total, rtol=0, atol=1e-4)
    # The voxelwise fit explains every voxel at least as well in what it minimises.
    if "weights" not in options:
        assert (maps.cost >= maps.cost_voxelwise * (1 - 1e-5)).all()


@pytest.mark.parametrize(
    ("shape", "similarity"),
    [((6, 6), "graph"), ((36,), "graph"), ((3, 3, 4), "graph"), ((6, 6), SAME), ((36,), SAME)],
)
def test_strength_is_chosen_from_some_of_many_voxels(
    shape: tuple[int, ...], similarity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = NOISY.reshape(*shape, FRAMES)
    whole = fit(image, Joint(similarity))
    for name, value in (("ENOUGH", 16), ("TILE", 2), ("DEEP_TILE", 2)):
        monkeypatch.setattr(hyper, name, value)
    maps = fit(image, Joint(similarity))
    assert whole.attrs["joint_left_out_voxels"] == 36
    assert 16 <= maps.attrs["joint_left_out_voxels"] < 24
    assert maps.attrs["joint_strength"] > 0
    assert np.isfinite(maps.moved).all()
    # Rows of the matrix go with their voxels: with others' there would be nothing to gain.
    gain, least = (
        1 - m.attrs["joint_left_out_error"] / m.attrs["joint_left_out_error_voxelwise"]
        for m in (maps, whole)
    )
    assert gain > 0.4 * least > 0.0


def test_tiles_of_voxels_are_taken_whole() -> None:
    inside = np.random.default_rng(81).random((200, 180)) < 0.8
    where = places(inside.shape, np.flatnonzero(inside))
    chosen = hyper.sample(len(where.indices), where, 0)
    assert hyper.ENOUGH <= len(chosen) < hyper.ENOUGH + hyper.TILE**2
    assert (np.diff(chosen) > 0).all()
    tile = where.indices // hyper.TILE
    number = tile[:, 0] * 100 + tile[:, 1]
    for k in np.unique(number[chosen]):
        assert (number[chosen] == k).sum() == (number == k).sum()
    np.testing.assert_array_equal(hyper.sample(len(where.indices), where, 0), chosen)
    assert not np.array_equal(hyper.sample(len(where.indices), where, 1), chosen)
    row = hyper.sample(50_000, None, 0)
    assert len(np.unique(row)) == hyper.ENOUGH
    np.testing.assert_array_equal(hyper.sample(hyper.ENOUGH, None, 0), np.arange(hyper.ENOUGH))


# --- threads, chance ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantom() -> LesionPhantom:
    """More voxels than one partial sum of the core has."""
    return simulate_lesions((72, 72, 1), noise=8.0, seed=5)


@pytest.mark.parametrize(
    "joint",
    [
        Joint("graph", strength=16.0),
        Joint("graph", strength=400.0),
        Joint("temporal", strength=4.0),
        Joint("spatial", strength=1e3, scaled=False),
        Joint("graph", strength=np.inf),
    ],
    ids=["graph", "multigrid", "temporal", "equation 3", "pooled"],
)
def test_threads_change_no_bit(phantom: LesionPhantom, joint: Joint) -> None:
    options: dict[str, Any] = {"times": phantom.times, "aif": phantom.aif}
    one = fit(phantom.curves, joint, **options)
    for threads in (2, 5) if joint.strength == 16.0 else (3,):
        assert_same(fit(phantom.curves, joint, threads=threads, **options), one)


@each_similarity
def test_the_same_twice(which: str) -> None:
    joints = [SIMILARITIES[which]]
    if which == "graph":
        joints.append(replace(joints[0], strength="auto"))
    for joint in joints:
        one, other = fit(joint=joint), fit(joint=joint, threads=2)
        assert_same(other, one)
        kept = [k for k in one.attrs if k.startswith("joint")]
        assert {k: one.attrs[k] for k in kept} == {k: other.attrs[k] for k in kept}


def test_seeds_move_no_estimate_of_a_given_graph() -> None:
    one, other = (fit(joint=Joint(SAME, strength=4.0, seed=s)) for s in (0, 1))
    for name in FREE:
        np.testing.assert_array_equal(one[name], other[name])
    assert apart(one, other, ("ktrans_se",)) < 0.5


# --- maps and what they say -----------------------------------------------------------------------


@each_dtype
def test_maps_have_units_and_words(dtype: str) -> None:
    single, maps = fit(dtype=dtype, baseline=True), fit(joint="graph", dtype=dtype, baseline=True)
    twins = {f"{n}_voxelwise" for n in (*NAMES, "cost", "status")}
    assert set(maps) == {*single, *twins, *(f"{n}_voxelwise_se" for n in NAMES), "moved", "pooled"}
    for name in maps:
        assert maps[name].attrs["units"], name
        assert maps[name].attrs["long_name"], name
        assert "osipi" in maps[name].attrs, name
    for name in single:
        assert maps[name].attrs.keys() == single[name].attrs.keys()
        assert maps[name].dtype == single[name].dtype
        assert maps[name].attrs["long_name"] == single[name].attrs["long_name"]
    for name in NAMES:
        twin, words = maps[f"{name}_voxelwise"], maps[name].attrs
        assert twin.attrs["units"] == words["units"]
        assert words["long_name"] in twin.attrs["long_name"]
        assert "voxelwise" in twin.attrs["long_name"]
        assert not twin.attrs["osipi"]
        assert twin.dtype == dtype
    assert maps.moved.attrs["units"] == maps.pooled.attrs["units"] == "1"
    assert maps.moved.dtype == maps.pooled.dtype == dtype
    np.testing.assert_array_equal(
        maps.status_voxelwise.attrs["flag_values"], [s.value for s in Status]
    )
    assert (maps.evaluations == single.evaluations).all()


def test_a_joint_fit_says_what_it_did() -> None:
    given = fit(joint=Joint(SAME, strength=4.0)).attrs
    assert given["joint"] == "given matrix"
    assert given["joint_strength"] == 4.0
    assert given["joint_strength_from"] == "given"
    assert given["joint_neighbours"] == 17.0
    assert given["joint_free_parameters"] == 144
    assert 144 / 18 < given["joint_effective_parameters"] < 144
    assert given["joint_converged"] == 1
    assert given["joint_steps"] >= 1
    assert given["joint_beyond_noise"] <= 2
    assert "joint_left_out_error" not in given
    chosen = fit(joint="graph").attrs
    assert chosen["joint"] == "graph"
    assert chosen["joint_strength_from"] == "left-out frames"
    tried = [float(s) for s in chosen["joint_strengths_tried"].split(", ")]
    errors = [float(e) for e in chosen["joint_errors_tried"].split(", ")]
    assert tried == sorted(tried)
    assert tried[0] == 0.0
    assert len(tried) == len(errors) > 3
    assert chosen["joint_left_out_error_voxelwise"] == pytest.approx(errors[0], rel=1e-5)
    nearest = int(np.argmin([abs(t - chosen["joint_strength"]) for t in tried]))
    assert chosen["joint_left_out_error"] == pytest.approx(errors[nearest], rel=1e-5)
    assert chosen["joint_left_out_error"] < chosen["joint_left_out_error_voxelwise"]
    assert chosen["joint_left_out_voxels"] == 36
    assert not [k for k in fit().attrs if k.startswith("joint")]
    for attrs in (given, chosen):
        assert all(isinstance(v, str | int | float) for v in attrs.values())


def test_smoothing_beyond_noise_is_told() -> None:
    """One estimate for both tissues fits hardly a voxel."""
    maps = fit(joint=Joint(np.ones((36, 36)), strength=np.inf), dtype="float64")
    assert maps.attrs["joint_beyond_noise"] > 10
    assert np.sqrt((maps.moved**2).mean()) > 1.8
    right = fit(joint=Joint(SAME, strength=np.inf), dtype="float64")
    assert right.attrs["joint_beyond_noise"] <= 1
    assert 0.7 < np.sqrt((right.moved**2).mean()) < 1.3


# --- extremes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [6, 7])
def test_too_few_frames_to_leave_some_out(frames: int) -> None:
    kept = np.linspace(2, FRAMES - 1, frames).astype(int)
    image, times = IMAGE[..., kept], TWO_PHASE[kept]
    with pytest.raises(KetyError, match=f"{frames} frames are too few to leave out 2.*strength"):
        fit(image, "graph", times=times)
    maps = fit(image, Joint("graph", strength=4.0), times=times)
    assert np.isfinite(maps.moved).all()
    # Frames without weight are none.
    weights = np.zeros(FRAMES)
    weights[kept] = 1.0
    with pytest.raises(KetyError, match=f"{frames} frames are too few"):
        fit(joint="graph", weights=weights)


@each_dtype
@pytest.mark.parametrize("strength", [4.0, np.inf, "auto"])
@pytest.mark.parametrize("which", ["graph", "temporal", "equation 3"])
def test_curves_without_noise(which: str, strength: Any, dtype: str) -> None:
    joint = replace(SIMILARITIES[which], strength=strength)
    truth = TISSUES["ktrans"][HALF].reshape(6, 6)
    for unit in (1.0, 1e-5) if strength == 4.0 else (1.0,):
        scaled = replace(AIF, concentration=AIF.concentration * unit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            maps = fit(CLEAN.reshape(6, 6, -1) * unit, joint, dtype=dtype, fitted=True, aif=scaled)
        assert np.isfinite(maps.ktrans).all()
        assert not any(np.isinf(maps[name].values).any() for name in maps)
        np.testing.assert_allclose(maps.ktrans_voxelwise, truth, rtol=1e-3)
        if which == "graph":  # it joins nothing that differs
            np.testing.assert_allclose(maps.ktrans, truth, rtol=1e-3)


@each_dtype
@pytest.mark.parametrize("strength", [4.0, 0.0])
def test_curves_without_noise_and_a_constant(strength: float, dtype: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = fit(
            CLEAN.reshape(6, 6, -1), Joint("graph", strength=strength), dtype=dtype, baseline=True
        )
    assert np.isfinite(maps.ktrans).all()
    assert (maps.r2 > 0.999).all()


# --- statistics -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lesions() -> list[tuple[LesionPhantom, xarray.Dataset]]:
    """Joint maps of four repetitions of the lesion phantom."""
    found = []
    for seed in range(4):
        one = simulate_lesions((64, 64, 1), noise=8.0, seed=seed)
        joint = Joint("graph", strength=16.0)
        found.append((one, fit(one.curves, joint, times=one.times, aif=one.aif)))
    return found


def test_errors_fall_to_less_than_a_third(
    lesions: list[tuple[LesionPhantom, xarray.Dataset]],
) -> None:
    for one, maps in lesions:
        for name in FREE:
            truth = one.truth[name]
            error, own = (
                np.sqrt(np.mean((maps[n].values - truth) ** 2)) for n in (name, f"{name}_voxelwise")
            )
            assert 3.0 * error < own, name


@pytest.mark.parametrize("name", FREE)
def test_small_lesions_keep_their_contrast(
    lesions: list[tuple[LesionPhantom, xarray.Dataset]], name: str
) -> None:
    kept = [contrast_kept(m[name].values, one.truth[name], one, 4) for one, m in lesions]
    assert 0.9 < np.mean(kept) < 1.1


@pytest.mark.parametrize("name", FREE)
def test_standard_errors_cover_the_truth(
    lesions: list[tuple[LesionPhantom, xarray.Dataset]], name: str
) -> None:
    """With the bias of smoothing allowed for, on the average over voxels."""
    shares = []
    for one, maps in lesions:
        error, known = np.abs(maps[name].values - one.truth[name]), maps[f"{name}_se"].values
        shares.append((error <= known)[np.isfinite(known)].mean())
        assert np.nanmedian(known / maps[f"{name}_voxelwise_se"].values) < 0.4
    assert 0.66 < np.mean(shares) < 0.98


@pytest.mark.parametrize("strength", [4.0, 16.0])
@pytest.mark.parametrize("options", [{}, {"baseline": True}])
def test_standard_errors_of_a_uniform_tissue(options: dict[str, Any], strength: float) -> None:
    truth = {n: float(v[0]) for n, v in TISSUES.items()}
    clean = kety.simulate_curves(truth, TWO_PHASE, AIF)
    image = clean + np.random.default_rng(80).normal(0.0, 6.0, (32, 32, FRAMES))
    maps = fit(image, Joint("graph", strength=strength), **options)
    for name in FREE:
        error, known = maps[name].values - truth[name], maps[f"{name}_se"].values
        assert np.isfinite(known).mean() > 0.99
        # It has no bias to be allowed for, so they are on the safe side.
        assert np.mean(np.abs(error) <= known) > 0.66, name
        ratio = np.nanmedian(known / maps[f"{name}_voxelwise_se"].values)
        assert ratio == pytest.approx(float(maps.pooled.median()) ** -0.5, rel=0.1)
        assert ratio < (0.5 if strength == 4.0 else 0.3)


def mean_errors(sd: float, count: int) -> dict[str, Floats]:
    """Mean relative error of both parameters over instances of the 6 x 6 sequence."""
    sequence = reference_sequence()
    methods = {
        "voxelwise": None,
        "chosen": Joint("graph"),
        "known": Joint(same_tissue(sequence), strength=np.inf),
    }
    found = {name: np.zeros(2) for name in methods}
    for instance in range(count):
        curves = noisy(sequence, sd, instance)
        for name, joint in methods.items():
            theta = estimate(sequence, curves, joint)
            found[name] += np.mean(np.abs(theta - sequence.theta) / sequence.theta, axis=0) / count
    return found


@pytest.mark.parametrize(("sd", "oracle"), [(0.1, 1.25), (0.01, 1.25)])
def test_chosen_strength_comes_near_known_tissues(sd: float, oracle: float) -> None:
    errors = mean_errors(sd, 12)
    assert errors["chosen"][1] <= oracle * errors["known"][1]
    assert (errors["chosen"] < 0.5 * errors["voxelwise"]).all()


def test_a_harmful_graph_is_not_used() -> None:
    """One that joins tissues which differ, where there is hardly any noise."""
    sequence = reference_sequence()
    across = 1.0 - same_tissue(sequence)
    for instance in range(3):
        curves = noisy(sequence, 0.001, instance).reshape(6, 6, -1)
        options = {"times": sequence.times, "aif": sequence.aif, "model": "one_compartment"}
        maps = fit(curves, Joint(across), delay=False, dtype="float64", **options)
        assert maps.attrs["joint_strength"] == 0.0
        assert_voxelwise(maps, fit(curves, delay=False, dtype="float64", **options))
        right = fit(curves, Joint(1.0 - across), delay=False, dtype="float64", **options)
        assert right.attrs["joint_strength"] > 0.0


def test_strength_of_equation_3_chosen_from_a_part_serves_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The penalty is divided by the number of voxels, so a part of them takes a smaller lambda."""
    one = simulate_lesions((48, 48, 1), noise=12.0, seed=5, keep_clean=True)
    assert one.clean is not None
    noise = np.random.default_rng(5).normal(0.0, 12.0, (36, 36, len(one.times)))
    curves = one.clean[10, 10, 0] + noise
    joint = Joint("spatial", neighbours=8, scaled=False)

    def chosen() -> float:
        maps = fit(curves, joint, times=one.times, aif=one.aif, delay=False)
        return float(maps.attrs["joint_strength"])

    whole = chosen()
    monkeypatch.setattr(hyper, "ENOUGH", 324)
    part = chosen()
    assert 0 < whole < np.inf
    assert 0.5 * whole <= part <= 2.0 * whole


@pytest.mark.parametrize("factor", [1e3, 1e18])
def test_a_wild_curve_warns_of_nothing_and_does_not_spread(factor: float) -> None:
    """Within its own noise it agrees with any other."""
    rng = np.random.default_rng(91)
    curves = (CLEAN + rng.normal(0.0, 5.0, CLEAN.shape)).reshape(6, 6, -1)
    mask = np.ones((6, 6), bool)
    mask[2, 2] = False
    alone = fit(curves, Joint(strength=4.0), mask=mask)
    curves[2, 2] = factor * rng.normal(0.0, 5.0, FRAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = fit(curves, Joint(strength=4.0))
    for name in ("ktrans", "kep", "vb"):
        others = [np.delete(m[name].values.ravel(), 14) for m in (maps, alone)]
        np.testing.assert_allclose(*others, rtol=0.1, err_msg=name)


def test_strength_is_told_as_asked_where_no_voxel_takes_part() -> None:
    maps = fit(np.full((3, 3, FRAMES), np.nan), Joint(strength=5.0))
    assert maps.attrs["joint_strength"] == 5.0
