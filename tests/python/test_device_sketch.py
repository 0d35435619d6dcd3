"""Sketches that PyTorch makes where a tensor lies, against their definition, and what they take of the memory."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from sketch_definition import SEED, drawn, place, value

from conftest import FIXTURES
from lpa import device_sketch
from lpa.device_sketch import PIECE, DeviceSketch, products

EXPECTED = json.loads((FIXTURES / "sketch.json").read_text())
ELEMENTS, DEALT = EXPECTED["elements"], EXPECTED["dealt"][0]["dealt"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=["cpu", *["cuda"] * torch.cuda.is_available()])
def device(request):
    return request.param


def integers(vector, tensor, device, dtype=torch.float32):
    """A tensor of the expected sketches; its elements are numbers of every type."""
    elements = [value(vector, tensor, i) for i in range(ELEMENTS[tensor])]
    return torch.tensor(elements, dtype=dtype, device=device)


def uneven(count, device="cpu", dtype=torch.float32, seed=0):
    """Values of many sizes, of which few sums are exact."""
    random = np.random.default_rng(seed)
    values = (random.standard_normal(count) * 2.0 ** random.uniform(-6, 6, count)).astype(np.float32)
    return torch.tensor(values, device=device).to(dtype)


def placed(values, number, k, seed=SEED, begin=0):
    """The terms of each dimension, in order."""
    key, terms = drawn(seed, number), [[] for _ in range(k)]
    for i, v in enumerate(values.flatten().tolist(), begin):
        at, sign = place(key, k, i)
        terms[at].append((i, sign * v))
    return terms


def by_definition(*args, **kwargs):
    return [math.fsum(v for _, v in terms) for terms in placed(*args, **kwargs)]


def off(found, expected):
    """The distance as a share of the norm."""
    found, expected = found.cpu().numpy(), np.array(expected)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def peak(device, path, run):
    """The most bytes that are there at once beyond those that were before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_stats()["requested_bytes.all.current"]
        run()
        return torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    profile.export_chrome_trace(str(path))
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    events = [e["args"] for e in sorted(events, key=lambda e: e["ts"])]
    return max(e["Total Allocated"] for e in events) - events[0]["Total Allocated"] + events[0]["Bytes"]


def test_numbers_are_drawn_as_splitmix64_has_them(device):
    n, mask = torch.arange(4, device=device), (1 << 64) - 1
    assert [str(v & mask) for v in device_sketch.drawn(1234567, n).tolist()] == EXPECTED["drawn"]
    keys = [0, 1, 2**63 - 1, 2**63, 2**64 - 1]
    of_keys = torch.tensor([k - 2**64 if k >> 63 else k for k in keys], device=device)
    for number in (0, 77):
        made = device_sketch.drawn(of_keys, torch.full((5,), number, device=device))
        assert [v & mask for v in made.tolist()] == [drawn(k, number) for k in keys]


@pytest.mark.parametrize("by", [1, 3, 51, 1000, 2**31 - 1])
def test_turns_are_the_upper_half_of_a_product(device, by):
    # The last of these is where the lower half of the number decides.
    numbers = [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(-(by // 2 + 1) * 2**64 // by)]
    numbers = [z for z in numbers if z < 2**64]
    z = torch.tensor([z - 2**64 if z >> 63 else z for z in numbers], device=device)
    assert device_sketch._high_product(z, by).tolist() == [z * by >> 64 for z in numbers]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [1, 5000, PIECE])
def test_sketches_are_those_of_the_definition(device, dtype, piece):
    made = DeviceSketch(ELEMENTS, DEALT, SEED, piece)
    for vector, expected in enumerate(EXPECTED["sketches"]):
        tensors = [made.tensor(t, integers(vector, t, device, dtype)) for t in range(len(ELEMENTS))]
        assert all(t.dtype == torch.float64 and t.device.type == device for t in tensors)
        assert torch.cat(tensors).tolist() == expected


@pytest.mark.parametrize("cuts", [[1, 64], [63, 65_537], [100, 257], [4999, 65_536], [128, 69_999], [0, 0]])
@pytest.mark.parametrize("piece", [3000, PIECE])
def test_slices_add_up_to_the_whole(device, piece, cuts):
    made = DeviceSketch(ELEMENTS, DEALT, SEED, piece)
    for t, n in enumerate(ELEMENTS):
        whole = integers(1, t, device)
        bounds = [0, *(min(cut, n) for cut in cuts), n]
        slices = [made.tensor(t, whole[a:b], a) for a, b in itertools.pairwise(bounds)]
        assert torch.equal(sum(slices), made.tensor(t, whole))


@pytest.mark.parametrize("k, n, begin, seed", [
    (64, 5000, 0, 0), (192, 385, 0, 7), (768, 20_000, 0, 2**63), (3840, 9000, 0, 2**64 - 1), (5120, 30_000, 0, SEED),
    (7 << 10, 3 << 40, (3 << 40) - 3000, SEED), (1 << 21, 1 << 33, (1 << 33) - 5000, 1), (64, 1 << 40, 1 << 39, 2),
])
def test_every_width_and_number_of_blocks(device, k, n, begin, seed):
    values = uneven(min(n - begin, 30_000), device)
    made = DeviceSketch([1, 2, n], [1, 2, k], seed, 4096).tensor(2, values, begin)
    assert off(made, by_definition(values, 2, k, seed, begin)) < 2**-50


def test_the_librarys_differs_by_rounding(device):
    n, k, span = 200_000, 1280, 65_536
    values = uneven(n, device)
    made = DeviceSketch([n], [k], SEED).tensor(0, values)
    terms = placed(values, 0, k)
    assert off(made, [math.fsum(v for _, v in of) for of in terms]) < 2**-50
    library = np.zeros(k)
    for at, of in enumerate(terms):
        of_span = np.zeros(-(-n // span), np.float32)
        for i, v in of:
            of_span[i // span] += np.float32(v)
        library[at] = of_span.astype(np.float64).sum()
    assert 0 < off(made, library) < 2**-20


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_type_is_widened(device, dtype):
    values = uneven(70_000, device, dtype)
    made = DeviceSketch(ELEMENTS, DEALT, SEED)
    assert torch.equal(made.tensor(3, values), made.tensor(3, values.float()))
    assert torch.equal(made.tensor(0, values[:100]), values[:100].double())
    assert torch.equal(products(values), products(values.float()))


def test_values_need_not_be_contiguous(device):
    made = DeviceSketch(ELEMENTS, DEALT, SEED, 3000)
    flat = uneven(70_000, device)
    for values in (flat.view(250, 280).T, flat[:69_984].view(18, 3888, 1, 1).expand(-1, -1, 2, 2)[:4],
                   flat[:62_208].view(48, 144, 3, 3).to(memory_format=torch.channels_last),
                   flat[::7], flat.view(1, 700, 100).transpose(1, 2), flat.view(250, 280).requires_grad_()):
        plain, begin = values.detach().contiguous(), 77
        found = made.tensor(3, values, begin)
        assert torch.equal(found, made.tensor(3, plain, begin)) and not found.requires_grad
        assert torch.equal(products(values, plain, 1000), products(plain, plain, 1000))
    assert torch.equal(made.tensor(0, flat[:200:2]), flat[:200:2].double())


def test_what_is_not_finite_stays_where_it_belongs(device):
    values = uneven(70_000, device)
    made = DeviceSketch(ELEMENTS, DEALT, SEED)
    whole = made.tensor(3, values)
    for odd in (math.inf, math.nan):
        values[12_345] = odd
        at, _ = place(drawn(SEED, 3), DEALT[3], 12_345)
        found = made.tensor(3, values)
        assert (found != whole).nonzero().tolist() == [[at]] and not found[at].isfinite()


def test_the_same_comes_out_each_time(device):
    values, made = uneven(1 << 20, device), DeviceSketch([1 << 20], [4096], SEED, 1 << 18)
    torch.use_deterministic_algorithms(True)
    try:
        found = [(made.tensor(0, values), products(values, values.flip(0))) for _ in range(5)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for other in found for a, b in zip(other, found[0], strict=True))


def test_products_are_exact(device):
    for dtype in DTYPES:
        g, x = uneven(50_000, device, dtype), uneven(50_000, device, torch.float32, 1)
        pairs = list(zip(g.tolist(), x.tolist(), strict=True))
        expected = [math.fsum(a * a for a, _ in pairs), math.fsum(a * b for a, b in pairs)]
        scale = [expected[0], math.fsum(abs(a * b) for a, b in pairs)]
        for piece in (777, PIECE):
            found = products(g, x, piece)
            assert found.dtype == torch.float64 and torch.equal(products(g, piece=piece), found[:1])
            assert all(abs(f - e) < 1e-14 * s for f, e, s in zip(found.tolist(), expected, scale, strict=True))
    wide = g.double()
    assert torch.equal(products(wide), products(g)) and torch.equal(wide, g.double())
    assert products(g[:0]).tolist() == [0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [64, 4096, 5 << 18])
def test_memory_is_bounded(device, tmp_path, dtype, k):
    piece, n = 1 << 20, 1 << 23
    values, made = torch.ones(n, dtype=dtype, device=device), DeviceSketch([n], [k], SEED, piece)
    bound = 13 * max(piece, k) + 16 * k + (1 << 18)
    trace = tmp_path / "trace.json"
    assert peak(device, trace, lambda: made.tensor(0, values)) < bound
    across = values.view(1 << 12, 1 << 11).T
    copied = (max(piece, k) + 2 * across.shape[1]) * values.element_size()
    assert peak(device, trace, lambda: made.tensor(0, across, 5)) < bound + copied
    assert peak(device, trace, lambda: products(values, values, piece)) < 16 * piece + (1 << 18)
