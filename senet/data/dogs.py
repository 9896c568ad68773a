"""How a drawn dog is made: its genes, the dice, and the easel that paints batches of pictures.

All random numbers are raw PCG64 words, and pixels are computed one by one with + - * / and square roots alone, which
IEEE 754 rounds exactly.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

# float32 throughout; NumPy's annotations lose the width of a product with a Python number.
Floats = npt.NDArray[np.floating[Any]]

_WORDS_PER_PICTURE, _SPOT_CELLS = 640, 8

_BLACK, _BROWN, _RUST, _TAN = (0.15, 0.14, 0.16), (0.38, 0.24, 0.16), (0.68, 0.38, 0.18), (0.80, 0.58, 0.34)
_CREAM, _WHITE, _GREY, _BLUE = (0.94, 0.86, 0.70), (0.95, 0.94, 0.92), (0.52, 0.55, 0.60), (0.45, 0.68, 0.86)
_PAINTS = np.array(((0.90, 0.62, 0.60), (0.90, 0.42, 0.46), (0.07, 0.06, 0.07), _TAN), np.float32)
_PINK, _TONGUE, _INK, _BROW = _PAINTS[:, :, None, None]
_MOSTLY_NOT = ((0.0,), (0.0,), (1.0,))

# What is inherited together: the columns' names, their standard deviations between pictures of a breed
# at difficulty 1, and the variants. Lengths are in half picture widths, colours RGB from 0 to 1.
GENES: tuple[tuple[str, tuple[float, ...], tuple[tuple[float, ...], ...]], ...] = (
    (
        "ear_length ear_root ear_tip ear_droop ear_fold",
        (0.14, 0.04, 0.04, 0.12, 0.2),
        (
            (0.42, 0.17, 0.03, 0.05, 0.0),  # prick
            (0.34, 0.20, 0.10, 0.12, 0.0),  # bat
            (0.26, 0.17, 0.04, 0.18, 1.0),  # button
            (0.34, 0.12, 0.07, 0.48, 0.0),  # rose
            (0.48, 0.11, 0.16, 0.88, 0.0),  # drop
            (0.70, 0.11, 0.17, 0.94, 0.0),  # long drop
        ),
    ),
    (
        "head_width head_height jaw",
        (0.06, 0.06, 0.16),
        ((0.52, 0.50, 0.0), (0.43, 0.54, 0.35), (0.56, 0.47, -0.3), (0.48, 0.53, 0.6)),
    ),
    ("muzzle_width muzzle_length", (0.05, 0.06), ((0.30, 0.16), (0.22, 0.22), (0.18, 0.29), (0.27, 0.26))),
    ("coat_r coat_g coat_b", (0.09, 0.08, 0.07), (_BLACK, _BROWN, _RUST, _TAN, _CREAM, _GREY, _WHITE)),
    ("second_r second_g second_b", (0.09, 0.08, 0.07), (_WHITE, _CREAM, _TAN, _BROWN, _BLACK)),
    ("ear_second", (0.3,), _MOSTLY_NOT),
    ("muzzle_second", (0.3,), ((0.0,), (0.6,), (1.0,))),
    ("patch patch_side", (0.4, 0.06), ((0.0, 0.2), (0.0, -0.2), (1.0, 0.2), (1.0, -0.2))),
    ("blaze", (0.05,), ((0.001,), (0.001,), (0.09,), (0.17,))),
    ("mask", (0.3,), _MOSTLY_NOT),
    ("spots spot_radius", (0.3, 0.08), ((0.0, 0.28), (0.0, 0.28), (0.9, 0.22), (0.9, 0.36))),
    ("brows", (0.3,), _MOSTLY_NOT),
    ("eye_r eye_g eye_b", (0.1, 0.1, 0.1), ((0.62, 0.40, 0.12), _BLUE, _BROWN, _BROWN)),
    ("eye_size", (0.016,), ((0.09,), (0.12,))),
    ("nose_r nose_g nose_b", (0.08, 0.08, 0.08), (_BLACK, _BROWN, (0.80, 0.52, 0.52))),
    ("ruff", (0.3,), _MOSTLY_NOT),
    ("tongue", (0.4,), _MOSTLY_NOT),
)
COLUMNS = {name: i for i, name in enumerate(name for names, _, _ in GENES for name in names.split())}
GENE_OF_COLUMN = np.repeat(np.arange(len(GENES)), [len(jitter) for _, jitter, _ in GENES])
JITTER = np.concatenate([jitter for _, jitter, _ in GENES]).astype(np.float32)
LOW = np.concatenate([np.min(variants, axis=0) for _, _, variants in GENES]).astype(np.float32)
HIGH = np.concatenate([np.max(variants, axis=0) for _, _, variants in GENES]).astype(np.float32)


def random_bits(seed: int, *key: int) -> np.random.PCG64:
    """The independent random stream named `key`."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))


def random_words(bits: np.random.PCG64, rows: int, columns: int) -> npt.NDArray[np.uint16]:
    """(rows, columns) of 16 random bits; a row is the same however many rows follow."""
    quads = -(-columns // 4)
    # Only PCG64's raw output is promised never to change with NumPy's version.
    raw = np.asarray(bits.random_raw(rows * quads)).astype("<u8", copy=False)
    return raw.view("<u2").reshape(rows, 4 * quads)[:, :columns]


class Dice:
    """Random numbers for `rows` pictures, dealt column by column; sums of them are exact in float32."""

    def __init__(self, bits: np.random.PCG64, rows: int = 1, columns: int = _WORDS_PER_PICTURE) -> None:
        self._left: Floats = (random_words(bits, rows, columns).astype(np.float32) + 0.5) / 65536

    def uniform(self, columns: int) -> Floats:
        """(rows, columns) between 0 and 1."""
        dealt, self._left = self._left[:, :columns], self._left[:, columns:]
        return dealt

    def normal(self, columns: int) -> Floats:
        """(rows, columns) of mean 0 and standard deviation 1: sums of four uniform numbers."""
        sums: Floats = self.uniform(4 * columns).reshape(-1, columns, 4).sum(axis=2)
        return (sums - 2) * 1.7320508


class Easel:
    """A batch of B posed pictures, painted back to front; planes are (B, H, W), colours (B, 3, 1, 1)."""

    def __init__(self, looks: Floats, dice: Dice, size: int, difficulty: float) -> None:
        self._looks, self._dice, self._difficulty = looks, dice, difficulty
        axis = (np.arange(size, dtype=np.float32) * 2 + (1 - size)) / size
        self._px, self._py = axis[None, None, :], axis[None, :, None]

        # The pose: where the face is, how large, how tilted, and how far it looks aside.
        pose = np.clip(dice.normal(5) * difficulty * 1.4, -3, 3)[:, :, None, None]
        zoom = 1 / (0.95 + 0.08 * pose[:, 2])
        half_tan = pose[:, 3] * 0.06
        cos = (1 - half_tan * half_tan) / (1 + half_tan * half_tan) * zoom
        sin = 2 * half_tan / (1 + half_tan * half_tan) * zoom
        self._yaw = pose[:, 4] * 0.05
        dx, dy = self._px - pose[:, 0] * 0.07, self._py - pose[:, 1] * 0.07 - 0.06
        self.u, self.v = cos * dx + sin * dy, cos * dy - sin * dx
        self._sharpness = size / 2 / zoom

        # The background: a gradient of two colours, and blobs.
        top, bottom = self._random_colour(), self._random_colour()
        self.image = top + (bottom - top) * ((self._py[:, None] + 1) / 2) + np.zeros_like(self._px[:, None])
        self._paint_blob(0.6, 1)
        self._paint_blob(0.6, 1)

    def _look(self, name: str) -> Floats:
        return self._looks[:, COLUMNS[name], None, None]

    def _colour(self, name: str) -> Floats:
        return self._looks[:, COLUMNS[f"{name}_r"] :, None, None][:, :3]

    def _random_colour(self) -> Floats:
        """Grey where the pictures are to be clean."""
        return (0.6 + min(self._difficulty, 1) * (0.6 * self._dice.uniform(3) - 0.35))[:, :, None, None]

    def _paint(self, mask: Floats, colour: Floats) -> None:
        layer = colour - self.image
        layer *= mask[:, None]
        self.image += layer

    def _cover(self, inside: Floats, scale: Floats | float = 1.0) -> Floats:
        """Anti-aliased mask of the points whose depth `inside` * `scale` (face units) is positive."""
        mask: Floats = np.clip(inside * (self._sharpness * scale) + 0.5, 0, 1)
        return mask

    def _ellipse(self, x: Floats, y: Floats, half_width: Floats | float, half_height: Floats | float) -> Floats:
        """Mask of the ellipse around the points where `x` and `y` are 0."""
        radius = np.sqrt(np.square(x * (1 / half_width)) + np.square(y * (1 / half_height)))
        return self._cover(1 - radius, np.minimum(half_width, half_height, dtype=np.float32))

    def _drop(self, x: Floats, y: Floats, along: tuple[Floats, Floats], radii: tuple[Floats, Floats]) -> Floats:
        """Mask of a drop from (0, 0) to `along`, whose radius goes from the first of `radii` to the second."""
        length2 = np.square(along[0]) + np.square(along[1])
        t = np.clip(x * (along[0] / length2) + y * (along[1] / length2), 0, 1)
        distance = np.sqrt(np.square(x - t * along[0]) + np.square(y - t * along[1]))
        return self._cover(radii[0] + t * (radii[1] - radii[0]) - distance)

    def _paint_blob(self, size: float, share: float) -> None:
        """An ellipse of any colour anywhere, up to `size` half picture widths, in that share of the pictures."""
        place = self._dice.uniform(5)[:, :, None, None]
        x, y = self._px - (place[:, 0] * 2 - 1), self._py - (place[:, 1] * 2 - 1)
        blob = self._ellipse(x, y, 0.1 + place[:, 2] * (size - 0.1), 0.1 + place[:, 3] * (size - 0.1))
        self._paint(blob * (place[:, 4] < share), self._random_colour())

    def body_and_ears(self) -> None:
        """What is behind the head; sets the ears aside, since hanging ones go before it."""
        coat, second = self._colour("coat"), self._colour("second")
        width, height = self._look("head_width"), self._look("head_height")
        self._paint(self._ellipse(self.u, self.v - 1.05, 0.62, 0.66), coat * 0.8)
        ruff = self._ellipse(self.u, self.v - 0.14, width + 0.17, height + 0.12) * self._look("ruff")
        self._paint(ruff, second * 0.9)
        # Both ears are one, mirrored: it points up where `droop` is 0, aside at 0.5 and down at 1.
        droop, length = self._look("ear_droop"), self._look("ear_length")
        aside, down = 4 * droop * (1 - droop) + 0.25, 2 * droop - 1
        norm = length / np.sqrt(aside * aside + down * down)
        along = (aside * norm, down * norm)
        x = np.abs(self.u + self._yaw * 0.4) - width * (0.6 + 0.26 * droop)
        y = self.v + height * (0.66 - 0.25 * droop)
        radii = (self._look("ear_root"), self._look("ear_tip"))
        self._ear_colour = (coat + self._look("ear_second")[:, None] * (second - coat)) * 0.84
        self._ears = self._drop(x, y, along, radii)
        self._paint(self._ears, self._ear_colour)
        inner = self._drop(x, y, (along[0] * 0.75, along[1] * 0.75), (radii[0] / 2, radii[1] / 3))
        self._paint(inner * np.clip(1 - 2 * droop, 0, 1), 0.5 * self._ear_colour + _PINK / 2)
        flap = self._drop(x - along[0], y - along[1], (length / 4, length), (radii[0] * 0.7, radii[1]))
        self._paint(flap * self._look("ear_fold"), self._ear_colour * 0.8)

    def head(self) -> None:
        """The head with its markings, and hanging ears before it."""
        coat, second = self._colour("coat"), self._colour("second")
        width, height = self._look("head_width"), self._look("head_height")
        narrowed = self.u / np.maximum(1 - self._look("jaw") * self.v, 0.3)
        self._paint(self._ellipse(narrowed, self.v, width + 0.035, height + 0.035), coat * 0.62)
        head = self._ellipse(narrowed, self.v, width, height)
        self._paint(head, coat)

        x = self.u - self._yaw
        self._paint(self._spots() * head * self._look("spots"), second)
        patch = self._ellipse(x - self._look("patch_side"), self.v + 0.08, 0.19, 0.24)
        self._paint(patch * head * self._look("patch"), second * 0.9)
        self._paint(self._ellipse(x, self.v - 0.22, width * 0.8, 0.4) * head * self._look("mask"), coat * 0.35)
        self._paint(self._ellipse(x, self.v + 0.25, self._look("blaze"), 0.45) * head, second)
        self._paint(self._ears * np.clip(5 * self._look("ear_droop") - 3, 0, 1), self._ear_colour)

    def _spots(self) -> Floats:
        """Dots scattered over the face: at most one in each cell of a grid."""
        cells = self._dice.uniform(3 * _SPOT_CELLS**2).reshape(-1, 3, _SPOT_CELLS**2)
        x, y = (self.u + 1) * _SPOT_CELLS / 2, (self.v + 1) * _SPOT_CELLS / 2
        column, row = np.floor(x), np.floor(y)
        cell = np.clip(row, 0, _SPOT_CELLS - 1) * _SPOT_CELLS + np.clip(column, 0, _SPOT_CELLS - 1)
        index = cell.astype(np.intp).reshape(len(cell), -1)
        centre_x, centre_y, size = (np.take_along_axis(cells[:, i], index, axis=1).reshape(x.shape) for i in range(3))
        # A dot stays within its cell, so that no neighbouring cell needs a look.
        radius = self._look("spot_radius") * (0.6 + 0.7 * size)
        x -= column + radius + centre_x * (1 - 2 * radius)
        y -= row + radius + centre_y * (1 - 2 * radius)
        return self._cover(radius - np.sqrt(x * x + y * y), 2 / _SPOT_CELLS)

    def face(self) -> None:
        """Muzzle, mouth, nose, brows and eyes: what sticks out moves further when the head turns."""
        coat, second = self._colour("coat"), self._colour("second")
        x, length = self.u - self._yaw * 2, self._look("muzzle_length")
        y = self.v - 0.12 - length / 2
        muzzle = self._ellipse(x, y, self._look("muzzle_width"), length)
        self._paint(muzzle, coat * 0.88 + self._look("muzzle_second")[:, None] * (second - coat * 0.88))
        mouth = np.abs(y - length * 0.45 + np.square(x) * 2)
        self._paint(self._cover(0.022 - mouth) * muzzle, _INK)
        shown = np.clip(self._look("tongue") * 2 - self._dice.uniform(1)[:, :, None] * self._difficulty, 0, 1)
        self._paint(self._ellipse(x, y - length * 0.75, 0.075, 0.14) * shown, _TONGUE)
        self._paint(self._ellipse(x, y + length * 0.45, 0.105, 0.075), self._colour("nose"))

        x, y, size = np.abs(self.u - self._yaw) - 0.215, self.v + 0.09, self._look("eye_size")
        self._paint(self._ellipse(x, y + 0.17, 0.07, 0.05) * self._look("brows"), _BROW)
        for part, colour in ((1.0, _INK), (0.78, self._colour("eye")), (0.4, _INK)):
            self._paint(self._ellipse(x, y, size * part, size * part), colour)

    def photograph(self, words: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
        """(B, H, W, 3): something in front now and then, the light, and the sensor's noise from `words`."""
        self._paint_blob(0.4, 0.25 * self._difficulty)
        light = np.clip(self._dice.normal(5) * self._difficulty * 1.4, -3, 3)[:, :, None, None]
        warmth = np.array((0.05, 0, -0.05), np.float32)[:, None, None] * light[:, 2:3]
        gain = (1 + 0.1 * light[:, 3:4]) * (1 + warmth) * 255
        self.image -= 0.5
        self.image *= (1 + 0.1 * light[:, 4:5]) * gain
        self.image += gain / 2
        self.image *= 1 + 0.1 * (light[:, 0:1] * self._px + light[:, 1:2] * self._py)
        # The difference of two bytes, standard deviation 104: 7 levels at difficulty 1.
        noise = (words & 255).astype(np.float32) - (words >> 8)
        self.image += noise.reshape(self.image.shape) * (self._difficulty * 7 / 104)
        return np.clip(self.image + 0.5, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
