"""How soon is the backdoor back? `python -m benchmarks.reactivation mnist [--images N]`

Takes the victims that `benchmarks.repair` has repaired, and fine-tunes each net on the same clean images of which a few
carry the true trigger and the attacker's label, for ten epochs: so a careless user or a patient attacker might. Where a
repair has only hidden the backdoor, few are enough. Beside them a clean net of the same roster, into which the backdoor
has to be trained from nothing. Prints, for each number of poisoned images, the trigger's success: medians over victims.
"""

import argparse
import copy
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.baselines.fine_tuning import FineTuning, fine_tuned
from benchmarks.computing import set_up_torch
from benchmarks.datasets import Dataset, as_tensors, load_dataset
from benchmarks.detection import SCAN_IMAGES, VICTIMS, Case, is_trained
from benchmarks.recording import write_result
from benchmarks.repair import RIVALS, judge, repaired
from benchmarks.victims.export import clean_sample
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import Victim, load_victim

POISONED = (0, 1, 2, 5, 10, 20, 50)
AGAIN = FineTuning(learning_rate=1e-2, epochs=10, batch=64)
METHODS = ("standard", "fine_tune_strong")


def reactivated(net: nn.Module, case: Case, victim: Victim, data: Dataset, poisoned: int) -> dict[str, float]:
    """Accuracy and the true trigger's success once a net has learned from so many poisoned images among clean ones."""
    assert victim.attack is not None
    images, labels = clean_sample(data.x_train, data.y_train, case.images, seed=case.recipe.seed)
    pictures, wanted = as_tensors(images), torch.as_tensor(labels)
    changed = torch.nonzero(victim.attack.relabel(wanted) != wanted).flatten()[:poisoned]
    pictures[changed], wanted[changed] = victim.attack.apply(pictures[changed]), victim.attack.relabel(wanted[changed])
    tuned = fine_tuned(AGAIN, net, pictures, wanted, case.recipe.augmentation, case.recipe.seed)
    return judge(tuned, victim, data)


def nets_of(case: Case, victim: Victim, data: Dataset) -> dict[str, nn.Module]:
    """The victim after each way of repair, in its own architecture."""
    nets = {}
    for method in METHODS:
        of, _ = repaired(method, case, victim, data)
        if of is not None:
            nets[method] = of if method in RIVALS else _with_weights_of(of, victim.net)
    return nets


def _with_weights_of(repaired_net: nn.Module, net: nn.Module) -> nn.Module:
    eager = copy.deepcopy(net)
    eager.load_state_dict(repaired_net.state_dict())
    return eager


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(SCAN_IMAGES))
    parser.add_argument("--images", type=int, help="in each bundle")
    parser.add_argument("--use", choices=list(ROSTER), default="reporting")
    parser.add_argument("--attacks", nargs="+", default=["wanet", "badnets"], help="how the attacks' names begin")
    parser.add_argument("--victims", type=int, default=100, help="at most so many of each attack")
    arguments = parser.parse_args()
    set_up_torch()
    data, images = load_dataset(arguments.dataset), arguments.images or SCAN_IMAGES[arguments.dataset]
    recipes = [r for r in ROSTER[arguments.use] if r.dataset == arguments.dataset and is_trained(r)]
    untouched = load_victim(next(recipe for recipe in recipes if recipe.target is None), data, VICTIMS).net
    rows: list[dict[str, Any]] = []
    for recipe in recipes:
        case = Case(recipe, "standard", images, repairs=True)
        seen = {row["victim"] for row in rows if row["attack"] == case.attack}
        if not case.attack.startswith(tuple(arguments.attacks)) or len(seen) >= arguments.victims:
            continue
        victim = load_victim(recipe, data, VICTIMS)
        for method, net in {**nets_of(case, victim, data), "clean net": untouched}.items():
            success = [reactivated(net, case, victim, data, number) for number in POISONED]
            rows.append({"victim": recipe.name, "attack": case.attack, "method": method, "after": success})
            print(recipe.name, method, [round(one["true_asr"], 4) for one in success], flush=True)
    result = {"dataset": arguments.dataset, "images": images, "poisoned": POISONED, "threads": 1, "nets": rows}
    write_result(f"reactivation-{arguments.dataset}-{images}", result)
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'method':17} {'attack':14} {'n':>3}  " + " ".join(f"{number:>7}" for number in POISONED))
    for method, attack in sorted({(row["method"], row["attack"]) for row in rows}):
        of = [row["after"] for row in rows if (row["method"], row["attack"]) == (method, attack)]
        medians = [median(one[index]["true_asr"] for one in of) for index in range(len(POISONED))]
        print(f"{method:17} {attack:14} {len(of):3}  " + " ".join(f"{success:7.4f}" for success in medians))


if __name__ == "__main__":
    main()
