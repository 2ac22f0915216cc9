"""The tour: a service is started, scans a poisoned and a clean network, and repairs one; the repair is put to the test.

`make demo` runs this. The scans know nothing but the two files that a user would have; only at the end the demo uses
what an attacker knows, the true WaNet trigger, and test images that no scan has seen.
"""

import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.attacks.wanet import WaNet  # noqa: E402
from benchmarks.datasets import as_tensors  # noqa: E402
from benchmarks.victims.train import accuracy, attack_success  # noqa: E402

EXAMPLES = Path(__file__).resolve().parent
OUT = REPOSITORY / "demo-output"
TRIGGERLENS = Path(sys.executable).with_name("triggerlens")
BACKDOORED, NOTHING_FOUND = 1, 0
warnings.filterwarnings("ignore", ".*torch.jit.*", FutureWarning)  # deprecated since torch 2.11, and what people have
console = Console(stderr=True, highlight=False)


@contextmanager
def service() -> Iterator[str]:
    """A service of its own on a free port, and its address; ended when the block ends."""
    data = OUT / "service"
    shutil.rmtree(data, ignore_errors=True)  # it would remember the scans of the last tour
    data.mkdir(parents=True)
    command = ["serve", "--port", "0", "--data-dir", "demo-output/service"]
    console.rule(f"[bold]triggerlens {' '.join(command)}")
    with (data / "service.log").open("w") as log:
        asked = [TRIGGERLENS, *command]
        process = subprocess.Popen(asked, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def scan(server: str, model: str, *options: str) -> int:
    """The command line a user would type, with its exit code: upload, scan, follow, fetch the results."""
    command = ["scan", f"examples/{model}.pt", "examples/digits_bundle.npz", "--out", f"demo-output/{model}", *options]
    console.rule(f"[bold]triggerlens {' '.join(command)} --server {server}")
    return subprocess.run([TRIGGERLENS, *command, "--server", server], cwd=REPOSITORY, check=False).returncode


def measure(model: Path) -> tuple[float, float]:
    """Accuracy on the test images, and success of the true trigger on those of other labels."""
    net = torch.jit.load(str(model)).eval()
    with np.load(EXAMPLES / "digits_test.npz") as test:
        images, labels = as_tensors(test["images"]), torch.as_tensor(test["labels"])
    with np.load(EXAMPLES / "digits_wanet_trigger.npz") as trigger:
        attack = WaNet(torch.as_tensor(trigger["field"]), int(trigger["target"]), float(trigger["strength"]))
    return accuracy(net, images, labels), attack_success(net, attack, images, labels)


def main() -> int:
    started = time.monotonic()
    with service() as server:
        poisoned = scan(server, "digits_wanet", "--repair")
        clean = scan(server, "digits_clean")
    console.rule("[bold]What only the attacker could check: the true trigger, on 400 unseen digits")
    table = Table(box=None, header_style="dim", padding=(0, 3, 0, 0))
    for name in ("", "before", "after repair"):
        table.add_column(name, justify="left" if not name else "right")
    before = measure(EXAMPLES / "digits_wanet.pt")
    repaired = OUT / "digits_wanet" / "repaired.pt"
    after = measure(repaired) if repaired.exists() else (float("nan"), float("nan"))
    table.add_row("clean accuracy", f"{before[0]:.1%}", f"{after[0]:.1%}")
    table.add_row("success of the true WaNet trigger", f"{before[1]:.1%}", f"{after[1]:.1%}")
    console.print(table)
    console.print("\nReports: demo-output/digits_wanet/report.html and demo-output/digits_clean/report.html")
    console.print(f"[dim]{time.monotonic() - started:.0f} s[/]")
    expected = (poisoned, clean) == (BACKDOORED, NOTHING_FOUND) and repaired.exists()
    if not expected:
        console.print("[bold red]This is not how the demo should end.[/]")
    return 0 if expected else 1


if __name__ == "__main__":
    sys.exit(main())
