"""Labels and probabilities of image files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from senet.data.pictures import decode_pictures
from senet.device import Runtime, reproducible
from senet.errors import InputError
from senet.modelfolder import Model

_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image."""

    file: Path
    probabilities: dict[str, float]
    """by label, the likeliest first"""

    def labels(self) -> list[str]:
        """The labels of probability above one half."""
        return [label for label, probability in self.probabilities.items() if probability > 0.5]


@torch.inference_mode()
def predict_files(model: Model, files: list[Path], runtime: Runtime) -> list[Prediction]:
    """Predict image files, in their order.

    Raises:
        InputError: a file is missing, a folder or no image.
    """
    network = model.network().to(runtime.device)
    mean = 255 * torch.tensor(model.mean).view(1, 3, 1, 1)
    std = 255 * torch.tensor(model.std).view(1, 3, 1, 1)
    predictions = []
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        pixels = np.empty((len(batch), model.size, model.size, 3), np.uint8)
        folder = next((file for file in batch if file.is_dir()), None)
        if folder is not None:
            raise InputError(f"{folder}: is a folder; name its images: {folder}/*")
        for file, problem in zip(batch, decode_pictures(batch, pixels, model.policy), strict=True):
            if problem:
                raise InputError(f"{file}: cannot be read as an image: {problem}")
        images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - mean) / std
        with runtime.autocast(), reproducible():
            logits = network(images.to(runtime.device)).float().cpu()
        for file, row in zip(batch, model.calibration.probabilities(logits), strict=True):
            order = row.argsort(descending=True, stable=True).tolist()
            predictions.append(Prediction(file, {model.classes[i]: float(row[i]) for i in order}))
    return predictions
