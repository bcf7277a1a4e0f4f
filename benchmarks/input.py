"""The input found in the series against the true one, and what is found where there is none."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.common import Table, run
from kety.errors import KetyError
from kety.inputs import find_artery, find_vein, vein_factor
from kety.simulate import simulate_abdomen, simulate_brain

NOISES = (10.0, 15.0, 20.0, 25.0)
SEEDS, QUICK_SEEDS = 20, 2
SHARES = (1.0, 0.8, 0.6)
WITHOUT: dict[str, tuple[str, ...]] = {
    "all but the aorta": (),
    "all but aorta and kidneys": ("kidney cortex", "kidney medulla"),
    "liver and tumour": ("liver", "tumour rim", "necrotic core", "satellite lesion"),
}


def errors(noise: float, seed: int) -> tuple[float, float, float, int, float]:
    """Errors of peak and area in %, share of the mask in the aorta, its voxels, seconds."""
    phantom = simulate_abdomen(noise=noise, seed=seed, rounded=True)
    times = phantom.series.times
    start = time.perf_counter()
    artery = find_artery(phantom.series.data, times)
    seconds = time.perf_counter() - start
    truth, curve = phantom.aif(times), artery.curve.concentration
    inside = float((artery.mask & phantom.mask("aorta")).sum() / artery.mask.sum())
    area = np.trapezoid(curve, times) / np.trapezoid(truth, times)
    return (
        100 * (curve.max() / truth.max() - 1),
        100 * (float(area) - 1),
        inside,
        int(artery.mask.sum()),
        seconds,
    )


def abdomen(seeds: Sequence[int]) -> tuple[Table, dict[str, Any]]:
    """Peak and area on the simulated CT abdomen."""
    rows, figures = [], {}
    for noise in NOISES:
        every = np.array([errors(noise, seed) for seed in seeds])
        worst = np.abs(every[:, :2]).max(axis=0)
        rows.append(
            [
                f"{noise:g}",
                f"{every[:, 0].mean():+.2f}",
                f"{worst[0]:.2f}",
                f"{every[:, 1].mean():+.2f}",
                f"{worst[1]:.2f}",
                f"{100 * every[:, 2].min():.0f}",
                f"{every[:, 3].min():.0f} to {every[:, 3].max():.0f}",
                f"{every[:, 4].mean():.2f}",
            ]
        )
        figures[f"{noise:g} HU"] = {"peak": every[:, 0].tolist(), "area": every[:, 1].tolist()}
    return Table(
        "Artery found in the simulated CT abdomen",
        [
            "noise, HU",
            "peak, mean error in %",
            "worst",
            "area, mean error in %",
            "worst",
            "in the aorta, % (least)",
            "voxels",
            "s",
        ],
        rows,
        f"Seeds {seeds[0]} to {seeds[-1]}; 96 x 80 x 12 voxels of 4 mm, 66 frames; noise of a "
        "single voxel and frame. Peak: largest sample; area: over all 300 s; both against the true "
        "curve at the frames.",
    ), figures


def nothing_there(seeds: Sequence[int]) -> tuple[Table, dict[str, Any]]:
    """How often an artery is invented."""
    rows, figures = [], {}
    for name, tissues in WITHOUT.items():
        found = 0
        for noise in (0.0, *NOISES):
            for seed in seeds:
                phantom = simulate_abdomen(noise=noise, seed=seed)
                mask = ~phantom.mask("aorta", *tissues)
                if name.startswith("liver"):
                    mask = phantom.mask(*tissues)
                found += _is_found(phantom.series.data, phantom.series.times, mask)
        total = len(seeds) * (1 + len(NOISES))
        rows.append([name, f"{found} of {total}"])
        figures[name] = found
    found = 0
    for seed in seeds:
        data = np.random.default_rng(seed).normal(40.0, 25.0, (64, 64, 6, 60))
        found += _is_found(data, 2.0 * np.arange(60.0), None)
    rows.append(["noise alone", f"{found} of {len(seeds)}"])
    for amplitude in (2.0, 4.0):
        found = 0
        for seed in seeds:
            phantom = simulate_abdomen((96, 80, 5), noise=10.0, seed=seed)
            found += _is_found(_moved(phantom.series.data, amplitude, seed), phantom.series.times)
        rows.append([f"frames displaced by {amplitude:g} voxels (SD)", f"{found} of {len(seeds)}"])
        figures[f"moved {amplitude:g}"] = found
    return Table("Series without a usable artery", ["series", "artery found"], rows), figures


def _moved(data: Any, amplitude: float, seed: int) -> Any:
    from scipy.ndimage import shift

    rng = np.random.default_rng(seed)
    return np.stack(
        [
            shift(data[..., frame], (*rng.normal(0.0, amplitude, 2), 0.0), order=1, mode="nearest")
            for frame in range(data.shape[-1])
        ],
        axis=-1,
    )


def _is_found(data: Any, times: Any, mask: Any = None) -> bool:
    try:
        find_artery(data, times, mask=mask)
    except KetyError:
        return False
    return True


def veins(seeds: Sequence[int]) -> tuple[Table, dict[str, Any]]:
    """Partial volume of the arteries, corrected by the venous sinus."""
    rows, figures = [], {}
    for share in SHARES:
        factors = []
        for seed in seeds:
            phantom = simulate_brain(
                noise=6.0, seed=seed, arrival=10.0, times=np.arange(0.0, 60.0, 1.5)
            )
            data, inside = phantom.series.data.copy(), phantom.mask("artery")
            before = phantom.baseline[inside][:, None]
            data[inside] = before + share * (data[inside] - before)
            artery = find_artery(data, phantom.series.times)
            vein = find_vein(data, phantom.series.times, artery)
            factors.append(vein_factor(artery.curve, vein.curve) * share)
        rows.append(
            [f"{share:g}", f"{np.mean(factors):.3f}", f"{min(factors):.3f} to {max(factors):.3f}"]
        )
        figures[f"{share:g}"] = factors
    note = f"Simulated brain, 6 HU, 1.5 s, seeds {seeds[0]} to {seeds[-1]}."
    head = ["arteries fill their voxels by", "artery after correction over the truth", "range"]
    return Table("Correction by a vein", head, rows, note), figures


def measure(options: argparse.Namespace) -> tuple[list[Table], dict[str, Any]]:
    """All three."""
    count = QUICK_SEEDS if options.quick else SEEDS
    seeds = range(options.seed, options.seed + count)
    few = seeds[: max(2, count // 4)]
    parts = {"abdomen": abdomen(seeds), "nothing": nothing_there(few), "veins": veins(few)}
    return [table for table, _ in parts.values()], {n: f for n, (_, f) in parts.items()}


def main(argv: Sequence[str] | None = None) -> None:
    run("input", measure, __doc__ or "", argv)


if __name__ == "__main__":
    main()
