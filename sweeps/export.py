"""The winner as a file: a complete, commented trial config with its provenance."""

from typing import Any

import yaml
from pydantic import BaseModel

from senet.config import TrialConfig
from senet.errors import InputError
from sweeps.status import Status
from sweeps.sweep import Sweep, versions


def trial_config(sweep: Sweep, trial: Status) -> TrialConfig:
    """The complete config of one of the sweep's trials."""
    return sweep.recipe().parsed_space("recipe").config(trial["params"], seed=trial["seed"])


def export_best(sweep: Sweep, status: Status) -> str:
    """The best trial's config as YAML. Raises InputError where no trial is complete."""
    best = status["best"]
    if best is None:
        raise InputError(f"sweep `{sweep.name}` has no complete trial yet; look at it: sweeps status {sweep.name}")
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in best["metrics"].items())
    provenance = {
        "sweep": sweep.name,
        "sweep_id": sweep.about()["id"],
        "data_fingerprint": sweep.about()["data_fingerprint"],
        "trial": best["number"],
        "seed": best["seed"],
        "base_key": best["base_key"],
        "mlflow_run_id": best["mlflow_run_id"],
        **({"split": split} if (split := status["objective"]["split"]) else {}),
        "validation": best["metrics"],
        "versions": versions(),
    }
    return (
        f"# The best of {sum(t['state'] == 'complete' for t in status['trials'])} complete trials of the sweep "
        f"`{sweep.name}`: trial {best['number']}.\n# On the validation split: {metrics}.\n"
        "# Train it in full: sweeps train FILE, or, without Ray and MLflow: senet train FILE\n\n"
        + _commented(trial_config(sweep, best), "")
        + "\n# where this config comes from\n"
        + yaml.safe_dump({"provenance": provenance}, sort_keys=False)
    )


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
