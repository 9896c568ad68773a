"""The winner as a file: a complete, commented trial config with its provenance."""

from typing import Any

import yaml
from pydantic import BaseModel

from senet.config import TrialConfig
from senet.errors import InputError
from sweeps.confirm.report import confirmation, extended_since
from sweeps.confirm.result import stored_result
from sweeps.picks import pick_trial
from sweeps.status import Status, complete_trials
from sweeps.sweep import Sweep


def trial_config(sweep: Sweep, trial: Status) -> TrialConfig:
    """The complete config of one of the sweep's trials."""
    return sweep.recipe().parsed_space("recipe").config(trial["params"], seed=trial["seed"])


def export_pick(sweep: Sweep, status: Status, wanted: str | None) -> str:
    """The config of a trial as YAML, with what is known about it.

    Args:
        wanted: what `--pick` asks for: `confirmed`, which came first on fresh seeds, or as `pick_trial` has it. None:
            `confirmed` where the sweep was, else `knee` in pareto mode, else `best`.

    Raises:
        InputError: there is no such trial, or confirm.json is damaged.
    """
    known = stored_result(sweep)
    if wanted is None:
        wanted = "confirmed" if known else "knee" if status["objective"]["mode"] == "pareto" else "best"
    asked = wanted
    if wanted == "confirmed":
        if known is None:
            raise InputError(
                f"--pick {wanted}: sweep `{sweep.name}` was not confirmed yet: sweeps confirm {sweep.name}"
            )
        asked = f"trial:{known['pick']}"
    picked = pick_trial(status, asked)
    confirmed = confirmation(known, picked["params"], sweep.name)
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in picked["metrics"].items())
    over_seeds = {name: picked[name] for name in ("n", "joint_mean", "joint_sd")}
    provenance = {
        "sweep": sweep.name,
        "sweep_id": sweep.about()["id"],
        "data_fingerprint": sweep.about()["data_fingerprint"],
        "pick": wanted,
        "trial": picked["number"],
        "seed": picked["seed"],
        "base_key": picked["base_key"],
        "mlflow_run_id": picked["mlflow_run_id"],
        **({"split": split} if (split := status["objective"]["split"]) else {}),
        "validation": picked["metrics"],
        "validation_over_seeds": over_seeds,
        "confirmation": confirmed,
        "versions": sweep.about()["versions"],
    }
    since = extended_since(known, status) if known else ""
    among = f"{_described(wanted)} of {complete_trials(status)} complete trials"
    return (
        f"# Trial {picked['number']} of the sweep `{sweep.name}`: {among}.\n"
        f"# On the validation split: {metrics}.\n"
        f"# {confirmed['said'][0].upper()}{confirmed['said'][1:]}{since}.\n"
        "# Train it in full: sweeps train FILE, or, without Ray and MLflow: senet train FILE\n\n"
        + _commented(trial_config(sweep, picked), "")
        + "\n# where this config comes from\n"
        + yaml.safe_dump({"provenance": provenance}, sort_keys=False)
    )


def _described(wanted: str) -> str:
    if wanted.startswith("trial:"):
        return "chosen by its number, one"
    words = {
        "confirmed": "first on fresh seeds, one",
        "best": "the best",
        "knee": "the knee between original and streaming accuracy",
    }
    return words.get(wanted, f"the best streaming accuracy with {wanted}")


def _commented(config: BaseModel, indent: str) -> str:
    """Every field, with its description as a comment above it."""
    lines = []
    for name, field in type(config).model_fields.items():
        value: Any = getattr(config, name)
        comment = " ".join((field.description or "").split())
        lines.append(f"{indent}# {comment}")
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:", _commented(value, indent + "  ").rstrip("\n")]
        else:
            plain = list(value) if isinstance(value, tuple) else value
            # A list stands on one line, a scalar as it is.
            style = None if isinstance(plain, list) else False
            lines.append(indent + yaml.safe_dump({name: plain}, default_flow_style=style, width=1000).strip())
    return "\n".join(lines) + "\n"
