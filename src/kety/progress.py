"""Progress of long work on stderr: voxels done, their rate and the time left."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Given (voxels done, voxels in all) after each block."""


def teller(progress: bool | Progress) -> Callable[[str], None]:
    """Shows the stage of joint estimation and the time since its start; empty closes the line."""
    if progress is not True:
        return lambda stage: None
    from tqdm import tqdm

    line = tqdm(bar_format="joint: {desc} [{elapsed}]", dynamic_ncols=True)

    def show(stage: str) -> None:
        if stage:
            line.set_description_str(stage)
        else:
            line.close()

    return show


def reporter(progress: bool | Progress, total: int) -> Progress:
    """Tells how many of the voxels are done; a negative number closes the line."""
    if callable(progress):
        tell = progress
        return lambda done, of: tell(done, of) if done >= 0 else None
    if not progress:
        return lambda done, of: None
    from tqdm import tqdm

    bar = tqdm(total=total, unit=" voxels", unit_scale=True, desc="fit", dynamic_ncols=True)

    def show(done: int, of: int) -> None:
        if done < 0:
            bar.close()
        else:
            bar.update(done - bar.n)

    return show
