"""Backdoor attacks, re-implemented from their papers. A new attack is one module and one entry here.

Each entry draws an attack: `ATTACKS[name](shape_CHW, target, seed)`. Those that map labels know `num_classes`, too.
"""

from collections.abc import Callable
from functools import partial

from benchmarks.attacks.all_to_all import AllToAll
from benchmarks.attacks.badnets import BadNets
from benchmarks.attacks.base import Attack
from benchmarks.attacks.blended import Blended
from benchmarks.attacks.input_aware import InputAware
from benchmarks.attacks.source_specific import SourceSpecific
from benchmarks.attacks.wanet import WaNet

ATTACKS: dict[str, Callable[..., Attack]] = {
    "wanet": WaNet.draw,
    "badnets": BadNets.draw,
    "badnets_grid": partial(BadNets.draw, chequered=True),
    "blended": Blended.draw,
    "input_aware": InputAware.draw,
    "wanet_all_to_all": partial(AllToAll.draw, WaNet.draw),
    "badnets_all_to_all": partial(AllToAll.draw, BadNets.draw),
    "badnets_source_specific": SourceSpecific.draw,
}
