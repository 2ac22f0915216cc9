"""Code that a search could not see through is found, with its line; honest code is not, and nothing takes for ever."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from app.core.errors import Refusal
from app.core.findings import Reason
from app.core.intake.torchscript.code.operators import allowlist
from app.core.intake.torchscript.gate import understand
from app.core.intake.torchscript.structure import knowledge, rules
from app.core.intake.torchscript.structure.examine import structure_findings
from app.core.intake.torchscript.structure.rules import Finding, StructureRule
from app.core.report.structure_rules import STRUCTURE_RULES, structure_page
from tests.core.intake.torchscript.hostile_code import HOSTILE
from tests.core.intake.torchscript.pickle_assembler import an_object, dict_of, number, op, pickled
from tests.core.intake.torchscript.zips import Entry, write_zip
from tests.corpus.benign import BenignCase, large, small
from tests.corpus.committed import OlderArchive, older_archives
from tests.corpus.nets import plain
from tests.evasive_nets import EVASIVE, EVASIVE_TRACED, Detaches, DropsOut, Hiding, TurnsTooOften

DOCS = Path(__file__).parents[4] / "docs"
MOST_BYTES = 1 << 31
IMAGES = torch.zeros(2, 3, 16, 16)
QUICK = [pytest.param(case, id=case.name) for case in (*small(), *older_archives())]
LARGE = [pytest.param(case, id=case.name, marks=pytest.mark.slow) for case in large()]

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.jit, which is deprecated, and of its tracer


def found_in(module: torch.jit.ScriptModule, folder: Path) -> tuple[Finding, ...]:
    path = folder / "net.pt"
    module.save(str(path))
    return structure_findings(understand(path, MOST_BYTES))


def found_in_code(forward: str, folder: Path) -> tuple[Finding, ...]:
    """In a network whose `forward` has these lines; `self.part` is one more object with a number `n`."""
    lines = "\n".join(f"    {line}" for line in forward.splitlines())
    code = f"""\
class Part(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  n : int
class Net(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  part : __torch__.Part
  n : int
  def forward(self: __torch__.Net,
    x: Tensor) -> Tensor:
{lines}
"""
    plain_state = {"training": op("NEWFALSE"), "n": number(3)}
    part = an_object("__torch__.Part", dict_of(plain_state))
    net = an_object("__torch__.Net", dict_of({"training": op("NEWFALSE"), "part": part, "n": number(3)}))
    members = {
        "data.pkl": pickled(net),
        "constants.pkl": pickled(op("EMPTY_TUPLE")),
        "version": b"3\n",
        "byteorder": b"little",
        "code/__torch__.py": code.encode(),
    }
    path = folder / "net.pt"
    path.write_bytes(write_zip([Entry(f"net/{name}", content) for name, content in members.items()]))
    return structure_findings(understand(path, MOST_BYTES))


# What hides


@pytest.mark.parametrize("kind", EVASIVE, ids=lambda kind: kind.__name__)
def test_what_hides_in_code_is_found_with_its_line(kind: type[Hiding], tmp_path: Path) -> None:
    rule, words = EVASIVE[kind]
    found = found_in(torch.jit.script(kind(plain()).eval()), tmp_path)
    assert any((one.rule.id, one.blocks) == (rule, True) and words in one.text for one in found), found
    assert all(one.line and one.member and one.text for one in found if one.blocks)


@pytest.mark.parametrize("kind", EVASIVE_TRACED, ids=lambda kind: kind.__name__)
def test_what_a_trace_keeps_of_it_is_found_too(kind: type[Hiding], tmp_path: Path) -> None:
    rule, words = EVASIVE[kind]
    found = found_in(torch.jit.trace(kind(plain()).eval(), IMAGES, check_trace=False), tmp_path)
    assert any((one.rule.id, one.blocks) == (rule, True) and words in one.text for one in found), found


# Freezing drops `detach`, fixes the mode of a dropout as tracing does, and writes eight turns of a loop as one.
@pytest.mark.parametrize(
    "kind",
    [kind for kind in EVASIVE if kind not in (Detaches, DropsOut, TurnsTooOften)],
    ids=lambda kind: kind.__name__,
)
def test_freezing_hides_nothing(kind: type[Hiding], tmp_path: Path) -> None:
    found = found_in(torch.jit.freeze(torch.jit.script(kind(plain()).eval())), tmp_path)
    assert any(one.blocks for one in found)


# What does not


@pytest.mark.parametrize("case", [*QUICK, *LARGE])
def test_nothing_in_an_honest_archive_blocks_a_verdict(case: BenignCase | OlderArchive) -> None:
    understood = understand(case.path(), MOST_BYTES)
    started = time.process_time()
    found = structure_findings(understood)
    assert time.process_time() - started < 1  # .1 seconds for the largest
    assert [one for one in found if one.blocks] == []


class Asserts(nn.Module):
    """Refuses images that are out of bounds, which no answer depends on."""

    def forward(self, x: Tensor) -> Tensor:
        assert bool(x.max() <= 1.0), "expected images in [0, 1]"
        if bool(x.min() < 0.0):
            raise ValueError("expected images in [0, 1]")
        return x.mean((2, 3))


class LogsTheAnswer(nn.Module):
    """Returns the label beside the scores: a step, but not one that the scores depend on."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = x.mean((2, 3))
        return scores, scores.argmax(1)


class AsksForSizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if height % 2 == 1:
            x = functional.pad(x, [0, 0, 0, 1])
        x = x.permute(0, 2, 3, 1).reshape(batch, -1, channels).transpose(1, 2)
        if channels == 1:
            x = x.expand(batch, 3, -1)
        return x.mean(2) / float(width)


class TellsWhatItDoes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("ballast", torch.zeros(300_000))

    def forward(self, x: Tensor) -> Tensor:
        print("seen", x.size(0))
        mask = torch.zeros([1000, 1000, 1000])
        with torch.no_grad():
            x = x * 2.0
        if self.training:
            x = functional.interpolate(x, scale_factor=2.0)
        return (x.mean((2, 3)) + mask[0, 0, :3]) * self.weight


@pytest.mark.parametrize("net", [Asserts(), LogsTheAnswer(), AsksForSizes()], ids=lambda net: type(net).__name__)
def test_what_no_answer_depends_on_is_no_finding(net: nn.Module, tmp_path: Path) -> None:
    assert found_in(torch.jit.script(net.eval()), tmp_path) == ()


def test_what_people_should_know_is_a_note(tmp_path: Path) -> None:
    found = found_in(torch.jit.script(TellsWhatItDoes().eval()), tmp_path)
    wanted = {rules.PRINT, rules.ALLOCATION, rules.NO_GRAD, rules.TRAINING, rules.UNUSED}
    assert {one.rule for one in found} == wanted and not any(one.blocks for one in found)


def test_a_training_side_blocks_where_the_network_was_saved_in_training_mode(tmp_path: Path) -> None:
    found = found_in(torch.jit.script(TellsWhatItDoes().train()), tmp_path)
    assert [one.rule for one in found if one.blocks] == [rules.TRAINING]


class SwitchesToFused(nn.Module):
    """What torch's attention does where gradients are off, with other weights than its parts."""

    def __init__(self, honest: bool) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 12), nn.Linear(4, 4)
        self.other = self.inner if honest else nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)[:, :, :4]
        if torch.is_grad_enabled():
            q, k, v = functional.linear(x, self.inner.weight, self.inner.bias).chunk(3, -1)
            return self.outer(functional.scaled_dot_product_attention(q, k, v)).mean(1)
        return torch._native_multi_head_attention(
            x, x, x, 4, 1, self.other.weight, self.other.bias, self.outer.weight, self.outer.bias
        )[0].mean(1)


def test_a_fused_operator_with_other_weights_than_its_parts_is_a_switch(tmp_path: Path) -> None:
    found = found_in(torch.jit.script(SwitchesToFused(honest=False).eval()), tmp_path)
    assert {one.rule for one in found if one.blocks} == {rules.GRAD_MODE}


# What is hostile


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_code_is_refused_before_it_is_followed(what: str, tmp_path: Path) -> None:
    make, _, _ = HOSTILE[what]
    members = make()
    path = tmp_path / "net.pt"
    path.write_bytes(write_zip([Entry(f"net/{name}", text.encode()) for name, text in members.items()]))
    with pytest.raises(Refusal):
        structure_findings(understand(path, MOST_BYTES))


NESTED = "\n".join(f"{'  ' * depth}for i{depth} in range(torch.size(x, 0)):" for depth in range(14))
ENTANGLED: dict[str, str] = {
    "loops in loops": f"y = x\n{NESTED}\n{'  ' * 14}y = torch.add(y, x)\nreturn y",
    "pairs of pairs": "\n".join(
        ["p = (x, x)", "p0 = (p, p)", *(f"p{n} = (p{n - 1}, p{n - 1})" for n in range(1, 60)), "l = [p59]"]
    )
    + "\ny = torch.len(l)\nreturn torch.add(x, y)",
    "many branches": "\n".join(["y = x", *["if bool(torch.gt(y, 0)):\n  y = torch.add(y, 1)"] * 2000, "return y"]),
    "a loop of a million turns over a long body": "\n".join(
        ["y = x", "for i in range(60):", *["  y = torch.add(y, 1)"] * 10_000, "return y"]
    ),
    "only an exception": 'ops.prim.RaiseException("no", "builtins.ValueError")\nreturn x',
    "a number that grows": "n = 1\nwhile torch.gt(n, 0):\n  n = torch.mul(n, 3)\nreturn torch.add(x, n)",
    "a list that grows": "l = [1]\nwhile torch.gt(torch.len(l), 0):\n  _0 = torch.append(l, 2)\n"
    "return torch.add(x, torch.len(l))",
    "a list that may be another": "a = [1]\nb = [2]\nif bool(torch.max(x)):\n  c = a\nelse:\n  c = b\n"
    "_0 = torch.append(c, 3)\nreturn torch.add(x, torch.len(a))",
    "an attribute that is set before it is read": "part = self.part\nself.n = torch.add(part.n, 1)\n"
    "return torch.add(x, self.n)",
}


@pytest.mark.parametrize("what", ENTANGLED)
def test_entangled_code_is_followed_or_given_up_in_time(what: str, tmp_path: Path) -> None:
    started = time.process_time()
    found = found_in_code(ENTANGLED[what], tmp_path)
    assert time.process_time() - started < 15  # 2 seconds, most of them to read the code
    harmless = ("pairs of pairs", "an attribute that is set before it is read")
    assert any(one.blocks for one in found) == (what not in harmless)


OPERATORS = sorted(allowlist())
ARGUMENTS = ("x", "y", "n", "l", "t", "d", "0", "1", "-1", "1.5", "None", "True", '"a"', "[1, 2]", "[x, y]", "self.n")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_program_that_the_gate_takes_breaks_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    lines = ["y = torch.relu(x)", "n = torch.size(x, 0)", "l = [x, y]", "t = (x, 1)", 'd = {"a": x, }']
    depth = 0
    for place in range(data.draw(st.integers(1, 12))):
        name = data.draw(st.sampled_from(OPERATORS))
        arguments = data.draw(st.lists(st.sampled_from(ARGUMENTS), max_size=5))
        namespace, _, operator = name.partition("::")
        head = "torch" if namespace == "aten" else "ops.prim"
        call = f"{head}.{operator}({', '.join(arguments)})"
        indent = "  " * depth
        target = data.draw(st.sampled_from(("x", "y", "n", "l", f"v{place}")))
        lines.append(f"{indent}{target} = {call}")
        block = data.draw(st.sampled_from(("", "", "if", "for", "while")))
        if block and depth < 3:
            condition = data.draw(st.sampled_from(("x", "n", "True", "bool(y)", "torch.gt(n, 1)")))
            lines.append(f"{indent}if {condition}:" if block == "if" else f"{indent}while {condition}:")
            if block == "for":
                lines[-1] = f"{indent}for i{place} in range({data.draw(st.sampled_from(('n', '3', '100')))}):"
            depth += 1
            lines.append("  " * depth + "_0 = torch.append(l, x)")
    folder = tmp_path_factory.mktemp("net")
    try:
        found = found_in_code("\n".join([*lines, "return x"]), folder)
    except Refusal:
        return
    assert all(isinstance(one, Finding) for one in found)


# What is said


def rules_in_code() -> set[StructureRule]:
    return {value for value in vars(rules).values() if isinstance(value, StructureRule)}


def test_every_rule_has_its_words_and_the_page_tells_them() -> None:
    assert rules_in_code() == STRUCTURE_RULES.keys()
    assert (DOCS / "structure.md").read_text("utf-8") == structure_page(), (
        "run python -m app.core.report.structure_rules"
    )


@pytest.mark.parametrize("rule", STRUCTURE_RULES, ids=lambda rule: rule.id)
def test_a_rule_is_told_in_whole_sentences_with_advice(rule: StructureRule) -> None:
    words = STRUCTURE_RULES[rule]
    for told in (words.broken_if, words.because, rule.advice):
        starts_well = told[0].isupper() or told[0] == "`"
        assert starts_well and told.endswith(".") and told.count("`") % 2 == 0
    assert rule.reason in (Reason.DATA_DEPENDENT_CONTROL_FLOW, Reason.ENVIRONMENT_SENSITIVE_MODEL)


def test_every_operator_that_is_spoken_of_is_on_the_allowlist() -> None:
    tables = [value for value in vars(knowledge).values() if isinstance(value, frozenset)]
    named = {name.rstrip("_") if not name.endswith("__") else name for table in tables for name in table}
    assert {name for name in named if not {name, f"{name}_"} & allowlist()} == set()


def test_torch_is_not_imported(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(plain().eval()).save(str(path))
    code = "import sys; from pathlib import Path; from app.core.intake.torchscript.gate import understand; "
    code += "from app.core.intake.torchscript.structure.examine import structure_findings; "
    code += "structure_findings(understand(Path(sys.argv[1]), 1 << 30)); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
