"""Where loops and trainings compute, and in which arithmetic: bfloat16 where it pays, float32 elsewhere."""

import torch

PRECISIONS = ("auto", "bf16", "float32")


def check_device(device: str) -> None:
    """Refuses "cuda" where there is none.

    Raises:
        ValueError: it is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device here; use --device cpu")


def bf16_pays(device: str) -> bool:
    """Whether bfloat16 is fast on "cpu" or "cuda".

    It is on processors with AVX-512 or Arm's BF16 extension, and on CUDA from Ampere on. Where the instructions are
    missing oneDNN convolves in bfloat16 by plain loops: a step of the enhancement takes many times as long as in
    float32 (docs/decisions.md).
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_kernels: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_kernels and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def chosen_precision(precision: str, device: str) -> str:
    """`precision` ("bf16" or "float32"); for "auto" the faster one on that device.

    Raises:
        ValueError: another word.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision must be "auto", "bf16" or "float32", got {precision!r}')
    if precision != "auto":
        return precision
    return "bf16" if bf16_pays(device) else "float32"


def autocast(device: str, precision: str = "auto") -> torch.autocast:
    """A context in which convolutions and products are made in the chosen precision."""
    return torch.autocast(device, torch.bfloat16, enabled=chosen_precision(precision, device) == "bf16")
