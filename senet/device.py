"""Where and how numbers are computed: device, precision, how many share the work, and what makes two machines the same
kind."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from senet.errors import InputError

# What a process takes of a GPU besides its tensors, its context and its kernels: a few hundred MiB, which torch neither
# counts nor limits.
CONTEXT_BYTES = 800 * 2**20


@dataclass(frozen=True)
class Runtime:
    """A device and the precision of the forward pass on it."""

    device: torch.device
    bf16: bool
    rank: int = 0
    """number of this process among those that train together"""
    workers: int = 1
    """processes that train together (`senet.parallel`)"""

    def part(self, count: int) -> slice:
        """Which of `count` images this process takes."""
        return slice(self.rank * count // self.workers, (self.rank + 1) * count // self.workers)

    def autocast(self) -> AbstractContextManager[None]:
        """bf16 autocast, or nothing in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def hold_to(self, share: float) -> None:
        """Let this process have no more than a share of its GPU's memory, its context included, and measure anew how
        much it uses.

        Whoever gives out shares only counts them: they keep nobody from the others' memory. On a CPU nothing is done.

        Raises:
            InputError: the share has no room for tensors.
        """
        if self.device.type == "cuda":
            # What an earlier trial in this process has left.
            torch.cuda.empty_cache()
            context = CONTEXT_BYTES / torch.cuda.get_device_properties(self.device).total_memory
            if share <= context:
                raise InputError(
                    f"a share of {share:g} of this GPU holds no more than a CUDA context: it must be more than "
                    f"{context:.2f}"
                )
            fraction = 1.0 if share >= 1 else share - context
            torch.cuda.set_per_process_memory_fraction(fraction, self.device.index)
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_memory(self) -> dict[str, float] | None:
        """The most that this process's tensors took of its GPU since `hold_to`: bytes, and together with its context as
        a fraction of all it has. None on a CPU.
        """
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(self.device)
        total = torch.cuda.get_device_properties(self.device).total_memory
        return {"bytes": peak, "fraction": min(1.0, (peak + CONTEXT_BYTES) / total)}

    def identity(self) -> dict[str, str | int]:
        """What besides the config decides the bits of a result.

        On a CPU the number of threads and the instruction set change the order of sums, on a GPU its libraries do.
        Where a GPU's memory is short, a convolution is computed in another way, and may round otherwise.
        """
        if self.device.type == "cuda":
            libraries = f"cuda {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
            kind = f"{torch.cuda.get_device_name(self.device)}, {libraries}"
        else:
            kind = f"{self.device.type} {torch.backends.cpu.get_cpu_capability()} × {torch.get_num_threads()}"
        version = ".".join(torch.__version__.split(".")[:2])
        return {
            "device": kind,
            "precision": "bf16" if self.bf16 else "fp32",
            "torch": version,
            "byteorder": sys.byteorder,
            **({"workers": self.workers} if self.workers > 1 else {}),
        }


def reproducible() -> AbstractContextManager[None]:
    """Convolutions that repeat to the bit, and where they are asked for in fp32 are not computed in TF32."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False, allow_tf32=False)


def make_runtime(device: str, precision: str, rank: int = 0, workers: int = 1) -> Runtime:
    """A runtime for `device` (`auto`, `cpu`, `cuda`, `cuda:1`, …) and the config's `precision`.

    Args:
        rank, workers: of several processes that train together, which this is, and how many there are.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    return Runtime(place, precision == "bf16" or (precision == "auto" and _computes_in_bf16(place)), rank, workers)


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # AVX2 machines emulate bf16, which is slower than fp32.
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
