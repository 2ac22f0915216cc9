"""How soon is the backdoor back? `python -m benchmarks.reactivation mnist [--images N]`

Takes the victims that `benchmarks.repair` has repaired, and tries each net as the engine tries one that it hands out
(worker/detection/reactivation.py), with the true trigger in the place of the inverted one: re-tuned on the same clean
images of which a few are poisoned, with noise over the trigger, and at weights on the way back to the victim's. So a
careless user or a patient attacker might. Where a repair has only hidden the backdoor, little is enough. Beside them a
clean net of the same roster, into which the backdoor has to be trained from nothing. Prints, for each number of
poisoned images, the trigger's success: medians over victims.
"""

import argparse
import copy
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baselines.fine_tuning import before_softmax
from benchmarks.computing import set_up_torch
from benchmarks.datasets import Dataset, load_dataset
from benchmarks.detection import SCAN_IMAGES, VICTIMS, Case, is_trained
from benchmarks.recording import write_result
from benchmarks.repair import RIVALS, judge, repaired
from benchmarks.victims.export import clean_sample
from benchmarks.victims.roster import ROSTER
from benchmarks.victims.train import Victim, load_victim, normalise
from worker.detection.images import Images
from worker.detection.metrics import attack_success_rate, under
from worker.detection.reactivation import Known, noise_beyond, retune, success_on_the_line

POISONED = (0, 1, 2, 5, 10, 20, 50)
METHODS = ("standard", "fine_tune_strong")
SEVERAL_LABELS = ("all_to_all", "source_specific")  # a trigger that leads to more than one, or not from everywhere


class OnPixels(nn.Module):
    """A victim as the engine knows one: [0, 1] images to logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(before_softmax(net)).eval()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.net(normalise(images_NCHW))  # type: ignore[no-any-return]


def known(images: Any, labels: Any) -> Known:
    return Known(Images(torch.from_numpy(images), torch.device("cpu")), torch.as_tensor(labels))


def reactivated(net: nn.Module, case: Case, victim: Victim, data: Dataset) -> dict[str, Any]:
    """What brings the true trigger back: so many poisoned images, noise, or the way back to the victim's weights."""
    attack, seed = victim.attack, case.recipe.seed
    assert attack is not None
    seen = known(*clean_sample(data.x_train, data.y_train, case.images, seed=seed))
    judges = known(data.x_test, data.y_test)
    after = []
    for poisoned in POISONED:
        tuned = OnPixels(net)
        retune(tuned, attack.apply, attack.target, seen, seed, poisoned)
        after.append(judge(tuned.net, victim, data))
    noisy = noise_beyond(OnPixels(net).requires_grad_(False), attack.apply, attack.target, seen, seed)
    with_noise = attack_success_rate(under(noisy, OnPixels(net)), *judges, attack.target)
    line = success_on_the_line(OnPixels(net), OnPixels(victim.net), attack.apply, attack.target, judges)
    return {"after": after, "with_noise": with_noise, "line": line}


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
        if not case.attack.startswith(tuple(arguments.attacks)) or case.attack.endswith(SEVERAL_LABELS):
            continue
        if len(seen) >= arguments.victims:
            continue
        victim = load_victim(recipe, data, VICTIMS)
        for method, net in {**nets_of(case, victim, data), "clean net": untouched}.items():
            found = reactivated(net, case, victim, data)
            rows.append({"victim": recipe.name, "attack": case.attack, "method": method, **found})
            print(recipe.name, method, [round(one["true_asr"], 4) for one in found["after"]], flush=True)
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
