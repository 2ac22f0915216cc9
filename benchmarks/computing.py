"""How torch computes in the benchmarks."""

import torch


def set_up_torch(threads: int = 1) -> None:
    """So many threads, and no denormal numbers: on dark images they would slow training twenty times."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
