"""Tokens followed through a forward pass: where they are at every attention call, or an error that says what broke."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad, scaled_dot_product_attention

from attrib_plugin.capture import CaptureSession, token_to_token
from attrib_plugin.errors import UnsupportedAttentionError

Step = Callable[[Tensor], Tensor]


def keep(tokens: Tensor) -> Tensor:
    return tokens


def to_windows(tokens: Tensor) -> Tensor:
    """Tokens (B,4,6,C) in windows of 2 x 3."""
    return tokens.reshape(-1, 2, 2, 2, 3, tokens.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(-1, 6, tokens.shape[-1])


def to_grid(windows: Tensor) -> Tensor:
    return windows.reshape(-1, 2, 2, 2, 3, windows.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, 6, 8)


class Attention(nn.Module):
    """Self-attention of two heads over whatever tokens it is given."""

    def __init__(self, is_fused: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.is_fused = is_fused

    def forward(self, tokens: Tensor) -> Tensor:
        heads = self.qkv(tokens).reshape(*tokens.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        if self.is_fused:
            mixed = scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(tokens.shape))


class Model(nn.Module):
    """Patches of 2 x 2 pixels on a grid, attention in windows twice, and what a test puts in between."""

    def __init__(
        self,
        cut: Step = to_windows,
        put_back: Step = to_grid,
        between: Step = keep,
        last: Step = keep,
        is_fused: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, 2)
        self.first, self.second = Attention(is_fused), Attention(is_fused)
        self.cut, self.put_back, self.between, self.last = cut, put_back, between, last
        self.wide = nn.ModuleDict({str(width): nn.Linear(width, 8) for width in (16, 24, 96)})

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).permute(0, 2, 3, 1)
        tokens = tokens + self.put_back(self.first(self.cut(tokens)))
        tokens = self.between(tokens).flatten(1, -2)
        if tokens.shape[-1] != 8:
            tokens = self.wide[str(tokens.shape[-1])](tokens)
        tokens = self.last(tokens + self.second(tokens))
        return (self.wide[str(tokens.shape[-1])](tokens) if tokens.shape[-1] != 8 else tokens).mean(1)


def followed(model: Model, batch_size: int = 3) -> CaptureSession:
    images = torch.randn(batch_size, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    with CaptureSession(model, gradients=False, follow_positions=True) as session:
        session.batch_size = batch_size
        model(images)
    return session


def assert_refused(model: Model, reason: str) -> None:
    with pytest.raises(UnsupportedAttentionError, match=reason):
        _ = followed(model).calls


# What is known.


@pytest.mark.parametrize("is_fused", [True, False])
def test_tokens_of_windows_are_numbered_row_by_row_on_the_grid(is_fused):
    windowed, whole = followed(Model(is_fused=is_fused)).calls

    expected = [
        [row * 6 + column for row in rows for column in columns]
        for rows in ((0, 1), (2, 3))
        for columns in ((0, 1, 2), (3, 4, 5))
    ]
    assert windowed.placement.windows.tolist() == expected
    assert whole.placement.windows.tolist() == [list(range(24))]
    for call, n_windows in ((windowed, 12), (whole, 3)):
        assert (call.placement.n_tokens, call.placement.input_grid, call.placement.mergings) == (24, (4, 6), ())
        assert call.batch_size == n_windows
    assert token_to_token((windowed, whole), allow_pooling=False) == (windowed, whole)


def test_padding_of_the_model_is_no_token():
    model = Model(
        cut=lambda tokens: pad(tokens, (0, 0, 0, 1, 0, 1)).flatten(1, 2),
        put_back=lambda tokens: tokens.reshape(-1, 5, 7, 8)[:, :4, :6],
    )

    placement = followed(model).calls[0].placement

    grid = placement.windows.reshape(5, 7)
    assert grid[:4, :6].flatten().tolist() == list(range(24))
    assert (grid[4] == -1).all()
    assert (grid[:, 6] == -1).all()


def test_a_merging_has_the_tokens_side_by_side_with_the_shares_of_the_features_that_they_fill():
    # Two tokens fill 8 features each, and the right neighbour the other 8 twice.
    model = Model(
        between=lambda tokens: torch.cat([tokens[:, 0::2], tokens[:, 1::2], tokens[:, 1::2]], -1)  # (B, 2, 6, 24)
    )

    call = followed(model).calls[1]

    (merging,) = call.placement.mergings
    assert (call.placement.n_tokens, merging.n_below, call.placement.n_below) == (12, 24, 24)
    expected = torch.tensor([[row * 12 + column, row * 12 + 6 + column] for row in (0, 1) for column in range(6)])
    assert torch.equal(merging.sources, expected)
    shares = torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64).expand(12, 2)
    torch.testing.assert_close(merging.shares, shares, rtol=0, atol=1e-15)


def test_a_padded_place_has_no_share_in_a_merging():
    def merge(tokens: Tensor) -> Tensor:
        padded = pad(tokens[:, :3], (0, 0, 0, 0, 0, 1))
        return torch.cat([padded[:, 0::2], padded[:, 1::2]], -1)

    (merging,) = followed(Model(between=merge)).calls[1].placement.mergings

    assert merging.sources[:6].tolist() == [[column, 6 + column] for column in range(6)]
    dense = torch.zeros(12, 24, dtype=torch.float64)
    for token, (sources, shares) in enumerate(zip(merging.sources.tolist(), merging.shares.tolist(), strict=True)):
        for source, share in zip(sources, shares, strict=True):
            if share:
                dense[token, source] += share
    assert dense[6:, 12:18].equal(torch.eye(6, dtype=torch.float64))
    assert dense.sum(-1).eq(1).all()


def test_calls_have_no_placement_unless_tokens_are_followed():
    model = Model()
    with CaptureSession(model, gradients=False) as session:
        session.batch_size = 3
        model(torch.randn(3, 3, 8, 12))

    assert [call.placement for call in session.calls] == [None, None]
    assert [call.batch_size for call in session.calls] == [3, 3]
    with pytest.raises(UnsupportedAttentionError, match=r"number of tokens changes|no family of windowed models"):
        token_to_token(session.calls, allow_pooling=False)


def test_following_tokens_keeps_no_tensor_alive():
    model, seen = Model(), []
    model.embed.register_forward_hook(lambda module, arguments, output: seen.append(weakref.ref(output)))

    session = followed(model)

    gc.collect()
    assert session.calls
    assert [reference() for reference in seen] == [None]


# What breaks.


def test_windows_that_are_put_back_elsewhere_are_noticed():
    assert_refused(
        Model(put_back=lambda windows: to_grid(windows).roll(1, 2)), "first: add joins tokens of different positions"
    )


def test_windows_put_back_elsewhere_by_the_last_layer_are_noticed_too():
    class Rolls(Attention):
        def forward(self, tokens: Tensor) -> Tensor:
            return super().forward(tokens).roll(1, 1)

    model = Model()
    model.second = Rolls(True)

    assert_refused(model, "first: add joins tokens of different positions")


@pytest.mark.parametrize(
    ("between", "operation"),
    [
        (lambda tokens: tokens.sort(1).values, "sort"),
        (lambda tokens: tokens.cumsum(1), "cumsum"),
        (lambda tokens: tokens[:, torch.randperm(4)].mean(2, keepdim=True), "mean"),
        (lambda tokens: layer_norm(tokens, tokens.shape[-2:]), "layer_norm"),
        (lambda tokens: pad(tokens.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="reflect").permute(0, 2, 3, 1), "pad"),
        (lambda tokens: pad(tokens.permute(0, 3, 1, 2), (1, 1, 0, 0), "circular").permute(0, 2, 3, 1), "pad"),
        (lambda tokens: tokens.square(), "square"),
        (lambda tokens: tokens.view(torch.int32).view(torch.float32), "view"),
        (lambda tokens: torch.cat([tokens[:, :2], torch.zeros(3, 2, 6, 8)], 1), "cat"),
    ],
)
def test_an_operation_without_a_rule_is_named(between, operation):
    assert_refused(Model(between=between), f"{operation} has no rule|{operation} changed")


def test_windows_that_overlap_are_refused():
    model = Model(
        cut=lambda tokens: torch.cat([tokens[:, :3], tokens[:, 1:]], 1).flatten(1, 2),
        put_back=lambda tokens: tokens.reshape(-1, 6, 6, 8)[:, [0, 1, 2, 5]],
    )

    assert_refused(model, "windows overlap, or leave tokens out")


def test_windows_across_samples_are_refused():
    model = Model(
        cut=lambda tokens: tokens.flatten(1, 2).transpose(0, 1),
        put_back=lambda t: t.transpose(0, 1).reshape(-1, 4, 6, 8),
    )

    assert_refused(model, "not those of one sample after another")


def test_windows_in_an_order_of_their_own_in_each_sample_are_refused():
    model = Model(
        cut=lambda tokens: torch.cat([to_windows(tokens[:1]), to_windows(tokens[1:]).flip(0)]),
        put_back=lambda windows: torch.cat([to_grid(windows[:4]), to_grid(windows[4:].flip(0))]),
    )

    assert_refused(model, "not those of one sample after another")


def test_heads_over_different_tokens_are_refused():
    class Axial(Attention):
        def forward(self, tokens: Tensor) -> Tensor:
            heads = self.qkv(tokens).reshape(-1, 24, 3, 2, 4).permute(2, 0, 3, 1, 4)
            query, key, value = (torch.cat([one[:, :1], one[:, 1:].roll(1, 2)], 1) for one in heads.unbind(0))
            mixed = scaled_dot_product_attention(query, key, value)
            mixed = torch.cat([mixed[:, :1], mixed[:, 1:].roll(-1, 2)], 1)
            return self.proj(mixed.transpose(1, 2).reshape(tokens.shape))

    model = Model()
    model.second = Axial(True)

    assert_refused(model, "its heads, hold different tokens")


def test_values_in_another_order_than_keys_are_refused():
    class Shuffled(Attention):
        def forward(self, tokens: Tensor) -> Tensor:
            query, key, value = self.qkv(tokens).reshape(-1, 24, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = scaled_dot_product_attention(query, key, value.roll(1, 2))
            return self.proj(mixed.transpose(1, 2).reshape(tokens.shape))

    model = Model()
    model.second = Shuffled(True)

    assert_refused(model, "its queries, keys and values, or its heads, hold different tokens")


def test_tokens_merged_after_the_last_attention_are_refused():
    model = Model(last=lambda tokens: torch.cat([tokens[:, :12], tokens[:, 12:]], -1))

    assert_refused(model, "merged after the last attention")


def test_a_model_that_makes_more_images_than_it_was_given_is_refused():
    model = Model()
    with CaptureSession(model, gradients=False, follow_positions=True) as session:
        session.batch_size = 2
        model(torch.randn(4, 3, 8, 12))

    with pytest.raises(UnsupportedAttentionError, match="patches of 4 images from 2 samples"):
        _ = session.calls


def test_attention_over_something_else_than_patches_is_refused():
    class Queries(Attention):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens + super().forward(torch.zeros(3, 24, 8)).mean()

    model = Model()
    model.second = Queries(True)

    assert_refused(model, "do not come from the patches of the image")
