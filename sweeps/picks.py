"""Which configuration of a sweep is wanted: the best, the knee, the best under a condition, or a given trial's."""

import math
import re
from collections.abc import Sequence

from senet.errors import InputError
from sweeps.analysis import Configuration, Trial, configuration_key, configurations, knee
from sweeps.space import is_reference
from sweeps.status import Status

_TRIAL = re.compile(r"trial:(\d+)")
_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=)\s*(\S+)\s*")


def pick_trial(status: Status, wanted: str) -> Trial:
    """The trial that is asked for, with `n`, `joint_mean` and `joint_sd` of its configuration.

    Args:
        status: of the sweep (`sweep_status`).
        wanted: `best`: the highest mean joint over seeds. `knee`: on the Pareto front of original against streaming
            accuracy, the point farthest beyond the line between its ends. `METRIC>=NUMBER` or `METRIC<=NUMBER`: the
            best streaming accuracy of those whose mean is so. `trial:N`: that trial.

    Raises:
        InputError: there is no such trial, metric or configuration, or `wanted` is none of these.
    """
    given, condition = _TRIAL.fullmatch(wanted), _CONDITION.fullmatch(wanted)
    if wanted not in ("best", "knee") and given is None and condition is None:
        raise InputError(
            f"--pick {wanted}: must be confirmed, best, knee, trial:N or a condition, such as 'original_topk>=0.85' "
            "(in quotes)"
        )
    ranking = configurations(status["trials"])
    if not ranking:
        raise InputError(
            f"sweep `{status['name']}` has no complete trial yet; look at it: sweeps status {status['name']}"
        )
    if given is not None:
        return _numbered(status, ranking, int(given[1]))
    if condition is not None:
        return _under(ranking, condition, f"--pick {wanted}").described()
    return (knee(ranking) if wanted == "knee" else ranking[0]).described()


def _numbered(status: Status, ranking: Sequence[Configuration], number: int) -> Trial:
    """Trial `number`, with what its configuration comes to."""
    trials: dict[int, Trial] = {trial["number"]: trial for trial in status["trials"]}
    if number not in trials:
        raise InputError(f"--pick trial:{number}: no such trial; there are 0 to {max(trials)}")
    trial = trials[number]
    if trial["state"] != "complete":
        raise InputError(f"--pick trial:{number}: is {trial['state']}; a complete trial is needed")
    if is_reference(trial["params"]):
        raise InputError(f"--pick trial:{number}: sees the old images again (`streaming.replay`): it is a reference")
    (found,) = (one for one in ranking if one.key == configuration_key(trial["params"]))
    return found.described() | trial


def _under(ranking: Sequence[Configuration], condition: re.Match[str], source: str) -> Configuration:
    """The best streaming accuracy under a condition; of two alike the higher joint."""
    metric, sign, text = condition.groups()
    known = sorted({name for one in ranking for name in one.metrics})
    if metric not in known:
        raise InputError(f"{source}: no metric `{metric}`; there are: {', '.join(known)}")
    bound = _number(text, source)
    having = [one for one in ranking if metric in one.metrics]
    fitting = [one for one in having if (one.mean(metric) >= bound if sign == ">=" else one.mean(metric) <= bound)]
    if not fitting:
        means = [one.mean(metric) for one in having]
        raise InputError(f"{source}: none is so; {metric} goes from {min(means):.4f} to {max(means):.4f}")
    return max(fitting, key=lambda one: one.mean("streaming_topk"))


def _number(text: str, source: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{source}: `{text}` must be a number, such as 0.85 for 85 percent")
    return number
