"""The arithmetic of the GPU checklist against numbers worked out by hand, and against the models themselves."""

import pytest

from benchmarks.gpu.checks import memory_needs, training_bytes
from benchmarks.gpu.random_models import published
from vision_zero.plan import cost as floors
from vision_zero.plan.cost import Card, Tokens
from vision_zero.plan.shape import ModelShape, VisionShape

SMALL_VISION = VisionShape(
    depth=2,
    hidden=8,
    intermediate=10,
    gated=True,
    patch=14,
    inputs=3 * 2 * 14**2,
    merge=2,
    projector=((32, 32), (32, 4)),
    small=0,
    window=112,
    full_blocks=1,
)
# One layer, width 4, two heads of 2 with one for keys and values: q 16, k 8, v 8, o 16, MLP 3 x 4 x 6 = 72 weights.
SMALL = ModelShape(
    vocab=10,
    hidden=4,
    layers=1,
    heads=2,
    kv_heads=1,
    head_size=2,
    intermediate=6,
    tied=False,
    vision=SMALL_VISION,
    qkv_bias=True,
)


def test_weights_of_a_layer() -> None:
    assert SMALL.kv_width == 2
    assert SMALL.layer_weights == 16 + 8 + 8 + 16 + 72
    # biases of q, k, v: 4 + 2 + 2; two norms of 4; the last norm 4; embedding and head of 10 x 4
    assert SMALL.language_parameters == 120 + 8 + 8 + 4 + 40 + 40
    token = floors.decode_seconds(SMALL, [[Tokens(0, 2)]], Card(flops=1e99, bandwidth=1.0))
    assert token == 2 * 180 + SMALL.kv_bytes()  # the embedding is not read as a whole
    assert SMALL.kv_bytes() == 2 * 1 * 2 * 2
    # rank 2: in + out of q 8, k 6, v 6, o 8, gate 10, up 10, down 10
    assert SMALL.adapter_parameters(2) == 2 * 58


def test_image_of_the_benchmarks() -> None:
    """320x240 is resized to 308x252: 18 x 22 patches of 14, merged by 2 x 2 to 99 tokens."""
    assert SMALL_VISION.grid(320, 240) == (18, 22)
    assert SMALL_VISION.image_tokens(320, 240) == 99


def test_flops_of_an_image() -> None:
    """56 x 56: 16 patches. Patch embedding 8 x 1176 weights; a block 4 x 64 + 3 x 80; merger 32 x 32 + 32 x 4."""
    matrices = 2 * 16 * (8 * 1176 + 2 * 496)
    merger = 2 * 4 * (1024 + 128)
    attention = 4 * 8 * (16**2 + 16**2)  # one full block, one of a single window of 4 x 4 patches
    assert SMALL_VISION.forward_flops(56, 56) == matrices + merger + attention


def test_windows_are_cut_at_the_border() -> None:
    """140 x 112: 8 x 10 patches, windows of 8 x 8 and 8 x 2 in the block that is not full."""
    with_windows = SMALL_VISION.forward_flops(140, 112)
    all_full = VisionShape(**{**vars(SMALL_VISION), "full_blocks": 2}).forward_flops(140, 112)
    assert all_full - with_windows == 4 * 8 * (80**2 - 64**2 - 16**2)


def test_flops_of_a_token() -> None:
    assert SMALL.token_flops(5, head=False) == 2 * 120 + 4 * 4 * 5
    assert SMALL.token_flops(5, head=True) == 2 * (120 + 40) + 4 * 4 * 5
    assert SMALL.attention_flops(3) == 4 * 4 * (1 + 2 + 3)


def test_flops_of_an_update() -> None:
    rows = [Tokens(3, 2), Tokens(1, 1)]
    image = SMALL_VISION.forward_flops(56, 56)
    attention = SMALL.attention_flops(5) + SMALL.attention_flops(2)
    matrices = 2 * 120 * 7 + 2 * 40 * 3
    assert floors.forward_flops(SMALL, rows, 2, (56, 56)) == matrices + attention + 2 * image
    assert floors.update_flops(SMALL, rows, 2, (56, 56), "full") == 3 * (matrices + attention + 2 * image)
    lora = floors.update_flops(SMALL, rows, 2, (56, 56), "lora", rank=2)
    assert lora == 2 * matrices + 3 * attention + 2 * image + 6 * 7 * 116


def test_tokens_that_rows_share_are_counted_once() -> None:
    """Two rows of 4 tokens, half of which are the same: as one row and the head of both."""
    rows, image = [Tokens(3, 1), Tokens(3, 1)], SMALL_VISION.forward_flops(56, 56)
    rest = 2 * 120 * 4 + SMALL.attention_flops(4)
    head = 2 * 40 * 2
    assert floors.forward_flops(SMALL, rows, 1, (56, 56), shared=0.5) == rest + head + image
    assert floors.update_flops(SMALL, rows, 1, (56, 56), "full", shared=0.5) == 3 * (rest + head + image)
    lora = floors.update_flops(SMALL, rows, 1, (56, 56), "lora", rank=2, shared=0.5)
    matrices = 2 * 120 * 4 + head
    assert lora == 2 * matrices + 3 * SMALL.attention_flops(4) + image + 6 * 4 * 116


def test_decoding_reads_weights_and_caches() -> None:
    """Two completions of 3 and 2 tokens after prompts of 4: two steps, the second with one completion."""
    calls = [[Tokens(4, 3), Tokens(4, 2)]]
    fast = Card(flops=1e12, bandwidth=100.0)
    bytes_read = (2 * 180 + 8 * (5 + 5)) + (2 * 180 + 8 * 6)
    assert floors.decode_seconds(SMALL, calls, fast) == pytest.approx(bytes_read / 100)
    assert floors.decode_seconds(SMALL, calls, fast, adapter_bytes=50) == pytest.approx((bytes_read + 100) / 100)


def test_decoding_is_bound_by_flops_where_these_take_longer() -> None:
    slow = Card(flops=1.0, bandwidth=1e12)
    assert floors.decode_seconds(SMALL, [[Tokens(4, 2)]], slow) == SMALL.token_flops(5, head=True)


def test_prefill_counts_what_was_computed() -> None:
    image = SMALL_VISION.forward_flops(56, 56)
    assert floors.prefill_flops(SMALL, 10, 6.0, 1, (56, 56)) == 10 * (2 * 120 + 4 * 4 * 3) + image


def test_memory_of_training() -> None:
    n = SMALL.parameters
    assert training_bytes(SMALL, "full") == {
        "weights": 2 * n,
        "gradients": 2 * n,
        "optimizer": 4 * n,
        "reference": 2 * n,
    }
    assert training_bytes(SMALL, "full", float32_masters=True, reference=False)["optimizer"] == 12 * n
    assert sum(training_bytes(SMALL, "lora", rank=2).values()) == 2 * n + 16 * 116


def test_what_fits_an_80_gb_card() -> None:
    """7B: 8.29e9 parameters x 18 bytes are 149e9 bytes, 139 GiB."""
    shapes = {size: ModelShape.of(published(size)) for size in ("3b", "7b")}
    needs = {need.name: need for need in memory_needs(shapes, rank=32)}
    seven = needs["7B full, AdamW and masters in float32"]
    assert seven.gib == pytest.approx(18 * 8_292_166_656 / 2**30)
    assert seven.verdict(79.6) == "needs 139 GiB, does not fit: lacks 59 GiB for activations"
    assert needs["3B full, AdamW in bfloat16"].verdict(79.6) == "needs 35 GiB, leaves 45 GiB for activations"
    assert needs["7B lora, rank 32"].verdict(None) == "needs 17 GiB and activations"


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA H100 80GB HBM3", Card(989e12, 3.35e12)),
        ("NVIDIA H100 PCIe", Card(756e12, 2.0e12)),
        ("NVIDIA H200", Card(989e12, 4.8e12)),
        ("NVIDIA A100-SXM4-80GB", Card(312e12, 2.0e12)),
        ("NVIDIA A100-SXM4-40GB", Card(312e12, 1.555e12)),
        ("NVIDIA GeForce RTX 4090", Card(165e12, 1.008e12)),
        ("24", Card(165e12, 1.008e12)),
        ("80", Card(312e12, 2.0e12)),
        ("Tesla T4", None),
    ],
)
def test_cards_by_name(name: str, card: Card | None) -> None:
    found = floors.card_of(name)
    assert (found and Card(found.flops, found.bandwidth)) == card
