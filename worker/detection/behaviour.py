"""Whether a suspect answers the same images alike in circumstances that are none of a classifier's business.

    n probed images   K labels

A network that asks how many images it is given, or whether gradients are taken, can tell a scan from its use, and show
the scan another network. So the same images are shown again in every circumstance of circumstances.py, each time to a
fresh copy, in the state that the file has. Its answer is held against that of another fresh copy, which was shown all
of them in one batch, in evaluation mode, without gradients.

Answers are compared in leads: how far the best score of the median image is ahead of its second. They may lie TOLERANCE
of a lead apart, which is for float32 sums in another order; labels are then the same but where two are nearly tied.
What is FAR leads behind counts as that far behind, so a score of -1e9 does not hide how the others move.

What the probed images do not show is not seen: a circumstance that counts only where a trigger is in the image; one
that is not tried (an exact number of calls, batches larger than any of a scan, numbers of another type); random numbers
that hardly ever matter; in training mode, what is made of tossed coins beyond their mean. Without a GPU here no GPU
answers: the code is told that it is on one, the numbers are a CPU's.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from app.core.errors import Refusal
from app.core.findings import InputSpec, Probe, ProbeFinding
from models.classifier import probe_scores
from models.scorer import MODULE_ERRORS, Manner
from models.scores import Output
from worker.detection import circumstances
from worker.detection.circumstances import Circumstance, Watched
from worker.detection.images import Images

TOLERANCE = 0.01  # of a lead
FAR = 10.0  # leads
SMALLEST_LEAD = 1e-4  # of the best score, of which float32 knows seven digits

PROBES: Mapping[Probe, tuple[Circumstance, ...]] = {
    Probe.BATCH_SIZE: (circumstances.one_by_one, circumstances.three_at_once, circumstances.as_many_as_ever),
    Probe.NEIGHBOURS: (circumstances.in_reverse, circumstances.beside_black_ones, circumstances.beside_copies),
    Probe.TRAINING_FLAG: (circumstances.with_every_training_flag, circumstances.with_the_training_flags_of_the_file),
    Probe.GRADIENT_MODE: (
        circumstances.with_gradients_on,
        circumstances.with_gradients_of_the_images,
        circumstances.with_gradients_of_the_weights,
        circumstances.in_inference_mode,
    ),
    Probe.AUTOCAST: (circumstances.under_autocast,),
    Probe.FORWARD: (circumstances.by_forward,),
    Probe.REPEATED_CALLS: (circumstances.again_and_again, circumstances.after_leaps),
    Probe.DEVICE: (circumstances.on_another_device,),
    Probe.MEMORY_LAYOUT: (circumstances.channels_last, circumstances.columns_first),
}


def probe_behaviour(
    module: nn.Module, spec: InputSpec, output: Output, manner: Manner, images: Images, most_at_once: int
) -> tuple[ProbeFinding, ...]:
    """What each probe says of a suspect that was not called since it came from its file.

    `most_at_once` is how many images a scan shows at once where it shows the most. Raises Refusal where the suspect
    does not answer at all. Random numbers of others are left as they are.
    """
    watched = Watched(module, spec, output, manner, images, most_at_once)
    with torch.random.fork_rng(), torch.no_grad(), _in_full_precision():
        torch.manual_seed(0)
        expected_nK = probe_scores(watched.fresh(), watched.shown_nCHW)
        return tuple(_finding(probe, watched, expected_nK) for probe in PROBES)


def _in_full_precision() -> AbstractContextManager[None]:
    """A GPU convolves with numbers of ten bits unless it is told not to."""
    cudnn = torch.backends.cudnn
    full: AbstractContextManager[None] = cudnn.flags(
        enabled=cudnn.enabled, deterministic=cudnn.deterministic, allow_tf32=False
    )
    return full


def _finding(probe: Probe, watched: Watched, expected_nK: Tensor) -> ProbeFinding:
    answers = list(_answers(probe, watched))
    difference = max((_difference(expected_nK, found) for found in answers), default=None)
    relabelled = max((_relabelled(expected_nK, found) for found in answers), default=0)
    return ProbeFinding(probe, difference, relabelled, difference is not None and difference > TOLERANCE)


def _answers(probe: Probe, watched: Watched) -> Iterator[Tensor]:
    """Of all circumstances in which the suspect answers; where it only fails, it does no harm."""
    for circumstance in PROBES[probe]:
        try:
            yield circumstance(watched).detach()
        except (*MODULE_ERRORS, Refusal):
            continue


def _difference(expected_nK: Tensor, found: Tensor) -> float:
    """The most that a score moved, in leads: finite, FAR at most."""
    if found.shape[-1] != expected_nK.shape[1] or not found.isfinite().all():
        return FAR
    best_n2 = expected_nK.topk(2).values
    lead = (best_n2[:, 0] - best_n2[:, 1]).median()
    lead = lead.clamp_min(SMALLEST_LEAD * best_n2[:, 0].abs().median()).clamp_min(torch.finfo(lead.dtype).tiny)
    expected_nK = expected_nK[: found.shape[-2]]
    return (_behind(expected_nK, lead) - _behind(found, lead)).abs().max().item()


def _behind(scores: Tensor, lead: Tensor) -> Tensor:
    """How far each score is behind the best of its image."""
    return ((scores.amax(-1, keepdim=True) - scores) / lead).clamp_max(FAR)


def _relabelled(expected_nK: Tensor, found: Tensor) -> int:
    """How many images get another label, at least once."""
    changed = found.argmax(-1) != expected_nK[: found.shape[-2]].argmax(-1)
    return int(changed.flatten(0, -2).any(0).sum()) if changed.dim() > 1 else int(changed.sum())
