"""There and back: a rebuilt module is trained, and its archive with the changed records is that module."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from app.core.intake.torchscript.archive.walk import walk
from app.core.intake.torchscript.code.program import Class, Function, Name, Parameter, Program, Return, Type
from app.core.intake.torchscript.gate import Understood, understand
from app.core.intake.torchscript.surgery import replace_records
from app.core.intake.torchscript.values import ITEM_BYTES, ObjectValue, Storage, TensorValue
from models.rebuilt import RebuiltModule, rebuild
from models.rebuilt.records import UnwritableError, changed_records
from tests.core.intake.torchscript.differences import differs_elsewhere
from tests.corpus.benign import BenignCase, large_scripts, small
from tests.corpus.committed import OlderArchive, older_archives
from tests.corpus.truth import load, scores_in

MOST_BYTES = 1 << 30
ARCHIVES: list[BenignCase | OlderArchive] = [*small(), *large_scripts(), *older_archives()]
QUICK = (
    *("conv_net", "conv_net_half", "conv_net_bfloat16", "half_inside", "tied", "one_storage", "channels_last"),
    *("batch_norm_training", "saved_on_cuda", "plain-scripted", "plain-frozen", "plain_half-scripted"),
)


def is_quick(case: BenignCase | OlderArchive) -> bool:
    return (case.stem if isinstance(case, OlderArchive) else case.family) in QUICK


CASES = [pytest.param(case, id=case.name, marks=[] if is_quick(case) else [pytest.mark.slow]) for case in ARCHIVES]


def rebuilt(known: Understood) -> RebuiltModule:
    with walk(known.path, MOST_BYTES) as walked:
        return rebuild(known.module, known.constants, known.program, lambda name: walked.read(name, MOST_BYTES))


def changes(module: RebuiltModule, path: Path) -> dict[str, bytes]:
    with walk(path, MOST_BYTES) as walked:
        return changed_records(module, lambda name: walked.read(name, MOST_BYTES))


def scores(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return scores_in(module(images)).float()


def train(module: RebuiltModule, images: Tensor) -> None:
    """One step of gradient descent, so long that it should lower a weighted sum of the scores by one."""
    parameters = [parameter.requires_grad_(True) for parameter in module.parameters()]
    scores_NK = scores_in(module(images)).float()
    loss = (scores_NK * torch.linspace(-1.0, 1.0, scores_NK.shape[1])).sum()
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    steepness = sum(gradient.float().square().sum() for gradient in gradients if gradient is not None)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= gradient / steepness
            parameter.requires_grad_(False)


def state(module: RebuiltModule) -> dict[str, Tensor]:
    return dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])


# Whole archives


@pytest.mark.parametrize("case", CASES)
def test_an_archive_with_the_changed_records_is_the_changed_module(
    tmp_path: Path, case: BenignCase | OlderArchive
) -> None:
    original, repaired, images = case.path(), tmp_path / "repaired.pt", case.example()
    known = understand(original, MOST_BYTES)
    module = rebuilt(known)
    before = scores(rebuilt(known), images)
    if images.dtype is not torch.float32:
        module.float()
    assert changes(module, original) == {}
    train(module, images.float())
    records = changes(module, original)
    replace_records(original, records, repaired, MOST_BYTES)

    assert not differs_elsewhere(original.read_bytes(), repaired.read_bytes(), records)
    again, trained = rebuilt(understand(repaired, MOST_BYTES)), state(module)
    for name, tensor in state(again).items():
        assert torch.equal(tensor, trained[name].to(tensor.dtype)), name
    found = scores(again, images)
    assert (found - before).abs().max() > case.tolerance
    if images.dtype is not torch.float32:
        module.to(images.dtype)
    torch.testing.assert_close(found, scores(module, images), rtol=0, atol=1e-4)
    if case.jit_agrees:
        torch.testing.assert_close(found, scores(load(repaired).eval(), images), rtol=0, atol=1e-4)


# Single records


def numbers(*items: float, dtype: torch.dtype = torch.float32) -> bytes:
    return torch.tensor(items, dtype=dtype).view(torch.uint8).numpy().tobytes()


def storage(record: bytes, dtype: str = "float32") -> Storage:
    """As if the record were data/0."""
    return Storage("data/0", dtype, len(record) // ITEM_BYTES[dtype], "cpu")


def view(of: Storage, shape: tuple[int, ...], strides: tuple[int, ...] = (1,), offset: int = 0) -> TensorValue:
    return TensorValue(of, offset, shape, strides, requires_grad=True)


def module_of(record: bytes, *parameters: TensorValue, buffer: TensorValue | None = None) -> RebuiltModule:
    """A module whose parameters p0, p1, ... and whose buffer are views of one record."""
    named = {f"p{number}": value for number, value in enumerate(parameters)}
    buffers = {} if buffer is None else {"buffer": buffer}
    forward = Function(
        name="forward",
        parameters=(Parameter("self", Type("__torch__.Net")), Parameter("x", Type("Tensor"))),
        returns=Type("Tensor"),
        body=(Return(Name("x", 2), 2),),
        member="code/__torch__.py",
        line=1,
    )
    kinds = dict.fromkeys([*named, *buffers], Type("Tensor"))
    net = Class("__torch__.Net", "Module", (*named,), (*buffers,), kinds, {}, {"forward": forward}, forward.member, 1)
    program = Program({net.name: net})
    return rebuild(ObjectValue(net.name, {**named, **buffers}), (), program, lambda _: record)


def written(module: RebuiltModule, record: bytes) -> bytes:
    """What has become of the only record."""
    changed = changed_records(module, lambda _: record)
    assert set(changed) <= {"data/0"}
    return changed.get("data/0", record)


def test_a_view_is_written_where_it_lies_and_nowhere_else() -> None:
    record = numbers(0, 1, 2, 3, 4, 5, 6, 7) + b"beyond"
    module = module_of(record, view(storage(record), (2, 2), (1, 3), offset=2), view(storage(record), (1,)))
    module.p0.mul_(10)
    assert written(module, record) == numbers(0, 1, 20, 30, 4, 50, 60, 7) + b"beyond"


def test_tensors_that_share_items_are_written_together() -> None:
    record = numbers(0, 1, 2, 3)
    shared = storage(record)
    module = module_of(record, view(shared, (3,)), view(shared, (3,), offset=1))
    module.p0.add_(10)
    assert module.p1.tolist() == [11, 12, 3]
    assert written(module, record) == numbers(10, 11, 12, 3)


@pytest.mark.parametrize("changed", ["p0", "p1"])
def test_tensors_that_no_longer_agree_on_what_they_share_are_refused(changed: str) -> None:
    record = numbers(0, 1, 2, 3)
    shared = storage(record)
    module = module_of(record, view(shared, (3,)), view(shared, (3,), offset=1)).double()
    assert written(module, record) == record
    module.get_parameter(changed).add_(10)
    with pytest.raises(UnwritableError, match=r"`p0` shares numbers of `data/0` .*Change them on the CPU"):
        changed_records(module, lambda _: record)


def test_an_expanded_tensor_is_written_once() -> None:
    record = numbers(1, 2)
    module = module_of(record, view(storage(record), (3, 2, 4), (0, 1, 0)))
    assert written(module, record) == record
    module.p0.data = module.p0 * 5
    assert written(module, record) == numbers(5, 10)
    module.p0.data[2, 1, 3] += 1
    with pytest.raises(UnwritableError, match="`p0` shares numbers of `data/0`"):
        changed_records(module, lambda _: record)


def test_whole_numbers_and_booleans_are_written_as_they_are() -> None:
    record = numbers(3, dtype=torch.int64)
    module = module_of(record, buffer=view(storage(record, "int64"), (), ()))
    module.buffer.add_(2**40)
    assert written(module, record) == numbers(3 + 2**40, dtype=torch.int64)
    record = numbers(True, False, dtype=torch.bool)
    module = module_of(record, buffer=view(storage(record, "bool"), (2,)))
    module.buffer.logical_not_()
    assert written(module, record) == numbers(False, True, dtype=torch.bool)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_trained_in_full_and_rounded(dtype: str) -> None:
    half: torch.dtype = getattr(torch, dtype)
    record = numbers(0.1, 0.2, 0.3, dtype=half)
    module = module_of(record, view(storage(record, dtype), (3,))).float()
    module.p0[1] += 0.0123456
    expected = torch.tensor([0.1, 0.2, 0.3], dtype=half).float() + torch.tensor([0, 0.0123456, 0])
    assert written(module, record) == numbers(*expected, dtype=half) != record


def test_in_less_precision_only_the_items_that_changed_are_rounded() -> None:
    record = numbers(0.1, 0.2, 1e30)
    module = module_of(record, view(storage(record), (3,))).half()
    module.p0[1] = 0.5
    assert written(module, record) == numbers(0.1, 0.5, 1e30)


def test_items_that_are_no_numbers_keep_their_bits() -> None:
    record = bytes.fromhex("017d 007c 00fe 0080 ff7f".replace(" ", ""))  # of half precision: NaNs, infinity, minus zero
    module = module_of(record, view(storage(record, "float16"), (5,))).float()
    assert written(module, record) == record


def test_a_number_beyond_half_precision_is_refused_by_the_name_of_its_tensor() -> None:
    record = numbers(1, 2, dtype=torch.float16)
    module = module_of(record, view(storage(record, "float16"), (2,))).float()
    module.p0[1] = -65_504
    assert written(module, record) == numbers(1, -65_504, dtype=torch.float16)
    module.p0[1] = -70_000
    with pytest.raises(UnwritableError, match=r"`p0` holds 70000, which is beyond torch.float16"):
        changed_records(module, lambda _: record)


@pytest.mark.parametrize(
    ("became", "said"),
    [
        (torch.zeros(3), r"torch.float32 of shape \(3,\)"),
        (torch.zeros(2, dtype=torch.int32), r"torch.int32 of shape \(2,\)"),
        (None, "gone"),
    ],
)
def test_a_tensor_that_is_another_one_is_refused(became: Tensor | None, said: str) -> None:
    record = numbers(1, 2)
    module = module_of(record, buffer=view(storage(record), (2,)))
    module._buffers["buffer"] = became
    with pytest.raises(UnwritableError, match=rf"`buffer` was torch.float32 of shape \(2,\) and is now {said}"):
        changed_records(module, lambda _: record)


ITEMS = 24


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape, strides and offset of some view of a record, which may overlap itself."""
    dimensions = draw(st.integers(0, 3))
    shape = draw(st.tuples(*[st.integers(0, 3)] * dimensions))
    strides = draw(st.tuples(*[st.integers(0, 4)] * dimensions))
    return shape, strides, draw(st.integers(0, 3))


@given(st.lists(views(), min_size=1, max_size=4), st.integers(0, 2**32))
def test_what_views_reach_is_new_and_the_rest_is_old(places: list[tuple[tuple[int, ...], ...]], seed: int) -> None:
    old, new = np.random.default_rng(seed).standard_normal((2, ITEMS), np.float32)
    record = old.tobytes()
    shared = storage(record)
    module = module_of(record, *(view(shared, *place) for place in places))
    reached = np.zeros(ITEMS, bool)
    for parameter, place in zip(module.parameters(), places, strict=True):
        parameter.data = torch.from_numpy(new).as_strided(*place)
        reached[torch.arange(ITEMS).as_strided(*place).flatten()] = True
    assert written(module, record) == np.where(reached, new, old).tobytes()
