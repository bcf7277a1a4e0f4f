"""How sure the maps of a study are, beyond the standard errors of a fit: on request."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kety.errors import KetyError
from kety.pipeline.telling import Tell, count, silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray

    from kety.bootstrapping import Bootstrap
    from kety.pipeline.study import Study
    from kety.profiles import Profile
    from kety.propagation import Convert
    from kety.uncertain import Uncertain


@dataclass(frozen=True)
class Certainty:
    """What to find beside a fit of one model; None is left out.

    Attributes
    ----------
    bootstrap
        Residual bootstrap, see `kety.bootstrap`.
    profile
        Profile-likelihood intervals, see `kety.profile`.
    uncertain
        Standard deviations of what the fit takes for known, see `kety.propagate`.
    draws, seed
        Of the propagation.
    """

    bootstrap: Bootstrap | None = None
    profile: Profile | None = None
    uncertain: Uncertain | None = None
    draws: int = 50
    seed: int = 0

    def __bool__(self) -> bool:
        return any(one is not None for one in (self.bootstrap, self.profile, self.uncertain))

    def check(self, study: Study, model: Any, options: Mapping[str, Any]) -> None:
        """Refuse, before the fit, what cannot be found."""
        from kety.bootstrapping import refuse
        from kety.profiles import check

        refused = {k: v for k, v in options.items() if k != "fitted"}
        for one, what in (
            (self.bootstrap, "the bootstrap"),
            (self.uncertain, "propagation of uncertainty"),
        ):
            if one is not None:
                refuse(model, refused, what)
        if self.profile is not None:
            check(self.profile, model, refused)
        if self.uncertain is not None and study.series.slice_times is not None:
            raise KetyError(
                "propagation of uncertainty is of slices that were acquired together, but these "
                "have times of their own; crop to slices of one time, or leave it out"
            )
        if self.uncertain is not None:
            from kety.propagation import check as check_propagated

            t10 = self.uncertain.t10 or self.uncertain.t10_voxel
            convert = converter(study) if t10 else None
            check_propagated(self.uncertain, study.aif, options["delay"], self.draws, convert)


def converter(study: Study) -> Convert:
    """Gives the curves of an MR study for T10 times a factor; the input stays as it is.

    Raises
    ------
    KetyError
        If the curves do not come from an MR signal, or were denoised after their conversion.
    """
    scan, baseline = study.scan, study.baseline
    if scan is None or baseline is None:
        raise KetyError(
            f"{study.series.source}: T10 converts an MR signal, which this series does not hold; "
            "leave t10 out of what is uncertain"
        )
    if "denoised" in study.facts:
        raise KetyError(
            "curves that were denoised after their conversion do not follow T10 exactly; leave the "
            "denoising out, or t10 out of what is uncertain"
        )
    series = study.series

    def convert(factor: Any) -> NDArray[Any]:
        changed = replace(scan, t10=np.asarray(scan.t10) * factor)
        return changed.concentration(series.data, baseline, mask=series.mask)[0]

    return convert


def add_certainty(
    study: Study,
    maps: xarray.Dataset,
    certainty: Certainty,
    options: Mapping[str, Any],
    *,
    region: NDArray[np.bool_] | None = None,
    progress: bool = False,
    tell: Tell = silent,
) -> xarray.Dataset:
    """The maps of a fit with what was asked for beside them.

    ``options`` are those of the fit; ``region`` is what propagated errors are summarised over.
    """
    if study.series.slice_times is not None:
        return _by_slice(study, maps, certainty, options, progress=progress, tell=tell)
    times, aif = study.series.times, study.aif
    settings: dict[str, Any] = {k: v for k, v in options.items() if k not in ("joint", "select")}
    settings["progress"] = progress
    fitted = int(np.isfinite(maps["cost"].values).sum())
    if certainty.bootstrap is not None:
        from kety.bootstrapping import add_bootstrap

        how = certainty.bootstrap
        started = time.perf_counter()
        maps = add_bootstrap(maps, study.curves, times, aif, how, **settings)
        words = f"{count(how.samples, 'refit')} of {count(fitted, 'voxel')}, {how.residuals}"
        tell("bootstrap", f"{words} residuals, in {time.perf_counter() - started:.2f} s")
    if certainty.profile is not None:
        from kety.profiles import add_profiles

        started = time.perf_counter()
        maps = add_profiles(maps, study.curves, times, aif, certainty.profile, **settings)
        names = ", ".join(certainty.profile.parameters) or "all quantities"
        words = f"{names} of {count(fitted, 'voxel')} in {time.perf_counter() - started:.2f} s"
        tell("profile", words)
    if certainty.uncertain is not None:
        from kety.propagation import add_propagated

        started = time.perf_counter()
        t10 = certainty.uncertain.t10 or certainty.uncertain.t10_voxel
        maps = add_propagated(
            maps,
            study.curves,
            times,
            aif,
            certainty.uncertain,
            draws=certainty.draws,
            seed=certainty.seed,
            region=region,
            convert=converter(study) if t10 else None,
            **settings,
        )
        words = f"{certainty.uncertain.in_words()}: {count(certainty.draws, 'draw')}"
        tell("uncertain", f"{words} in {time.perf_counter() - started:.2f} s")
    return maps


def _by_slice(
    study: Study,
    maps: xarray.Dataset,
    certainty: Certainty,
    options: Mapping[str, Any],
    *,
    progress: bool,
    tell: Tell,
) -> xarray.Dataset:
    """As `add_certainty`, for slices with times of their own: each group by itself."""
    from kety.slices import Slices
    from kety.slicewise import by_slice

    lines: dict[str, int] = {}

    def one(curves: NDArray[Any], mask: NDArray[np.bool_] | None, slices: Slices) -> xarray.Dataset:
        series = replace(
            study.series,
            data=study.series.data[slices.key(1)],
            times=slices.times,
            mask=mask,
            slice_times=None,
        )
        part = replace(study, series=series, curves=curves)
        own = {**options, "mask": mask}
        return add_certainty(
            part, maps.isel(z=slices.index), certainty, own, progress=progress, tell=hear
        )

    def hear(label: str, text: str) -> None:
        lines[label] = lines.get(label, 0) + 1

    joined = by_slice(one, study.curves, study.times, study.series.mask)
    for label, groups in lines.items():
        tell(label, f"of the fitted voxels, in {count(groups, 'group')} of slices")
    return joined
