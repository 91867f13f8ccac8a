"""Every cascade of the library against a formula written independently of it, on random shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from attncast.simulator import cascades
from attncast.simulator.einsum import bind, evaluate, parse, random_inputs, show

X = Mapping[str, Any]  # input arrays by name


def softmax(s: Any, axis: int = -1) -> Any:
    w = np.exp(s - s.max(axis, keepdims=True))
    return w / w.sum(axis, keepdims=True)


def attention(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """q [E, P], k [E, M], v [F, M] -> [F, P]."""
    s = q.T @ k / np.sqrt(len(q))
    return v @ softmax(s if mask is None else np.where(mask, s, -np.inf)).T


def plain(x: X) -> Any:
    return attention(x["Q"], x["K"], x["V"])


def causal(n: int, m: int) -> Any:
    return np.tri(n, m, dtype=bool)


def decayed(x: X, scale: float = 1.0) -> Any:
    n = x["Q"].shape[1]
    gap = np.subtract.outer(np.arange(n), np.arange(n))
    weight = np.where(gap >= 0, np.exp(x["LG"] * gap), 0.0)
    return x["V"] @ (x["Q"].T @ x["K"] * scale * weight).T


def running(pq: Any, pk: Any, v: Any) -> Any:
    """Causal linear attention from features [D, N], as a masked quadratic product."""
    w = np.tril(pq.T @ pk)
    return v @ (w / w.sum(1, keepdims=True)).T


def both_ways(pq: Any, pk: Any, v: Any) -> Any:
    w = pq.T @ pk
    return v @ (w / w.sum(1, keepdims=True)).T


def elu1(x: Any) -> Any:
    return np.where(x > 0, x + 1, np.exp(x))


def relay(x: X) -> Any:
    return np.stack(
        [
            attention(q, np.hstack([x["KS"], k]), np.hstack([x["VS"], v]))
            for q, k, v in zip(x["Q"], x["K"], x["V"], strict=True)
        ]
    )


def gqa(x: X) -> Any:
    return np.stack(
        [np.stack([attention(q, k, v) for q in group]) for group, k, v in zip(x["Q"], x["K"], x["V"], strict=True)]
    )


def dha(x: X) -> Any:
    values = np.repeat(x["V"], len(x["K"]) // len(x["V"]), axis=0)
    return gqa({**x, "V": values})


def mla(x: X) -> Any:
    heads = []
    for q, qr, wk, wv in zip(x["Q"], x["QR"], x["WK"], x["WV"], strict=True):
        keys = np.vstack([wk @ x["LAT"], x["KR"]])
        heads.append(attention(np.vstack([q, qr]), keys, wv @ x["LAT"]))
    return np.stack(heads)


def el(x: X) -> Any:
    total = 0.0
    for wq, wk, wv, wo in zip(x["WQ"], x["WK"], x["WV"], x["WO"], strict=True):
        total = total + wo.T @ attention(wq @ x["X"], wk @ x["H0"], wv @ x["H0"])
    return total


def cog(x: X) -> Any:
    s = x["Q"].T @ x["K"] / np.sqrt(len(x["Q"]))
    return x["V"] @ (np.sign(s) * softmax(np.abs(s))).T


def castle(x: X) -> Any:
    e, n = x["QC"].shape
    gate = 1 / (1 + np.exp(-(x["QU"].T @ x["KU"]) / np.sqrt(e)))
    out = np.zeros((len(x["VC"]), n))
    for t in range(n):
        ahead = np.array(
            [[sum(gate[s, r] * x["VU"][d, r] for r in range(s + 1, t + 1)) for s in range(t + 1)] for d in range(e)]
        )
        lookahead = x["QC"][:, t] @ ahead / np.sqrt(e)
        scores = x["QC"][:, t] @ x["KC"][:, : t + 1] / np.sqrt(e) - lookahead / (1 + np.exp(-lookahead))
        out[:, t] = x["VC"][:, : t + 1] @ softmax(scores)
    return out


def selective(x: X) -> Any:
    _, e, n = x["Q"].shape
    logits = np.einsum("hep,hem->hpm", x["Q"], x["K"]) / np.sqrt(e)
    s = np.maximum(np.where(causal(n, n), logits[0], 0), 0)
    s[:, 0] = 0
    s[np.arange(n), np.arange(n)] = 0
    f = np.cumsum(np.vstack([np.zeros(n), s[:-1]]), axis=0)
    w = softmax(np.where(causal(n, n), logits - f, -np.inf))
    return np.einsum("hpm,hfm->hfp", w, x["V"])


def efficient(x: X) -> Any:
    return (x["V"] @ softmax(x["K"], 1).T) @ softmax(x["Q"], 0)


def hedgehog(x: X) -> Any:
    def phi(y: Any, w: Any) -> Any:
        return np.vstack([softmax(w.T @ y, 0), softmax(-(w.T @ y), 0)])

    return running(phi(x["Q"], x["WQ"]), phi(x["K"], x["WK"]), x["V"])


def based(x: X) -> Any:
    s = x["Q"].T @ x["K"] / np.sqrt(len(x["Q"]))
    w = np.tril(1 + s + s * s / 2)
    return x["V"] @ (w / w.sum(1, keepdims=True)).T


def rala(x: X) -> Any:
    q, k, n = elu1(x["Q"]), elu1(x["K"]), x["Q"].shape[1]
    k = k * softmax(q.mean(1) @ k / np.sqrt(len(q))) * n
    return both_ways(q, k, x["V"]) * x["GA"]


def nalaformer(x: X) -> Any:
    def phi(y: Any, power: Any) -> Any:
        unit = y / np.linalg.norm(y, axis=0)
        return np.vstack([np.maximum(unit, 0) ** power, np.maximum(-unit, 0) ** power])

    power = 3 * (0.5 + np.tanh(np.linalg.norm(x["Q"], axis=0)))
    return both_ways(phi(x["Q"], power), phi(x["K"], 3), x["V"])


def inline(x: X) -> Any:
    w = x["Q"].T @ x["K"] / np.sqrt(len(x["Q"]))
    n = w.shape[1]
    return x["V"] @ (w / n + (1 - w.mean(1, keepdims=True)) / n).T


def gla(x: X) -> Any:
    e, n = x["Q"].shape
    state, out = np.zeros((e, len(x["V"]))), []
    for t in range(n):
        state = np.exp(x["LA"][:, t])[:, None] * state + np.outer(x["K"][:, t], x["V"][:, t])
        out.append(x["Q"][:, t] @ state / np.sqrt(e))
    return np.array(out).T


def axial(x: X) -> Any:
    out = np.zeros_like(x["V"])
    for r in range(out.shape[1]):
        out[:, r] += attention(x["Q"][:, r], x["K"][:, r], x["V"][:, r])
    for c in range(out.shape[2]):
        out[:, :, c] += attention(x["Q"][:, :, c], x["K"][:, :, c], x["V"][:, :, c])
    return out


def davit(x: X) -> Any:
    return softmax(x["K"] @ x["V"].T / np.sqrt(len(x["K"]))) @ x["Q"]


def pooled(y: Any, block: int) -> Any:
    return y.reshape(len(y), -1, block).mean(2)


def sparge(x: X, sizes: Mapping[str, int]) -> Any:
    def similarity(y: Any, block: int) -> Any:
        unit = (y / np.linalg.norm(y, axis=0)).reshape(len(y), -1, block)
        return (unit.sum(2) ** 2).sum(0) / block**2

    scores = pooled(x["Q"], sizes["P0"]).T @ pooled(x["K"], sizes["M0"]) / np.sqrt(len(x["Q"]))
    return [softmax(scores), similarity(x["Q"], sizes["P0"]), similarity(x["K"], sizes["M0"])]


def dhsa(x: X, sizes: Mapping[str, int]) -> Any:
    scale = np.sqrt(sizes["P0"] * sizes["M0"])
    return pooled(x["Q"], sizes["P0"]).T @ pooled(x["K"], sizes["M0"]) * scale


def biformer(x: X, sizes: Mapping[str, int]) -> Any:
    return pooled(x["Q"], sizes["T"]).T @ pooled(x["K"], sizes["T"])


def sage_int8(x: X, sizes: Mapping[str, int]) -> Any:
    def int8(y: Any, block: int) -> Any:
        parts = y.reshape(len(y), -1, block)
        scale = np.abs(parts).max((0, 2), keepdims=True) / 127
        return (np.round(parts / scale) * scale).reshape(y.shape)

    q = int8(x["Q"] / np.sqrt(len(x["Q"])), sizes["P0"])
    k = int8(x["K"] - x["K"].mean(1, keepdims=True), sizes["M0"])
    return x["V"] @ softmax(q.T @ k).T


def moh(x: X) -> Any:
    gates = softmax(x["RL"], 0) * x["T"]
    heads = [attention(q, k, v) for q, k, v in zip(x["Q"], x["K"], x["V"], strict=True)]
    return sum(wo.T @ (head * g) for wo, head, g in zip(x["WO"], heads, gates, strict=True))


def sigmoid(x: X) -> Any:
    s = x["Q"].T @ x["K"] / np.sqrt(len(x["Q"])) - np.log(x["K"].shape[1])
    return x["V"] @ (1 / (1 + np.exp(-s))).T


def backward(x: X) -> Any:
    torch = pytest.importorskip("torch")
    q, k, v = (torch.tensor(x[name], requires_grad=True) for name in "QKV")
    s = q.T @ k / np.sqrt(len(q))
    out = v @ torch.softmax(s, -1).T
    out.backward(torch.tensor(x["DO"]))
    return [q.grad.numpy(), k.grad.numpy(), v.grad.numpy()]


def backward_inputs(x: X) -> X:
    s = x["Q"].T @ x["K"] / np.sqrt(len(x["Q"]))
    return {**x, "O": plain(x), "LSE": np.log(np.exp(s).sum(1))}


def signs(x: X) -> X:
    return {**x, "SG": np.array([1.0, -1.0])}


def decay(x: X) -> X:
    return {**x, "LG": np.array(-0.07)}


Reference = Callable[..., Any]
DENSE = {"E": 6, "F": 5, "M": 24, "P": 7}
CHUNKED = {**DENSE, "M0": 4}
SEQUENCE = {"E": 4, "F": 3, "N": 12}
SELF = {"E": 4, "F": 3, "M": 12}

CASES: dict[str, tuple[dict[str, int], Reference]] = {
    "naive": (DENSE, plain),
    "naive_deferred": (DENSE, plain),
    "three_pass": (DENSE, plain),
    "three_pass_deferred": (DENSE, plain),
    "two_pass": (CHUNKED, plain),
    "flash_attention_2": (CHUNKED, plain),
    "fusemax": (CHUNKED, plain),
    "flash_attention_2_causal": (
        {**SELF, "M0": 4},
        lambda x: attention(x["Q"], x["K"], x["V"], causal(*[x["Q"].shape[1]] * 2)),
    ),
    "flash_attention_4": (CHUNKED, plain),
    "rabe_staats": (CHUNKED, plain),
    "split_kv": ({**DENSE, "M1": 3}, plain),
    "relay": ({"B": 3, "E": 4, "F": 3, "S": 9, "M": 5, "P": 1}, relay),
    "gqa": ({**DENSE, "J": 2, "G": 3}, gqa),
    "dha": ({**DENSE, "J": 6, "L": 3, "G": 2}, dha),
    "mla_absorbed": ({**DENSE, "H": 2, "C": 8, "R": 3}, mla),
    "el_attention": ({**DENSE, "D": 9, "H": 3, "G": 8}, el),
    "gated": ({**DENSE, "D": 4}, lambda x: plain(x) / (1 + np.exp(-(x["W"].T @ x["X"])))),
    "cog": (DENSE, cog),
    "castle": ({"E": 4, "F": 3, "N": 7}, castle),
    "selective": ({**SELF, "H": 3}, selective),
    "efficient_attention": (DENSE, efficient),
    "linear_causal": (SEQUENCE, lambda x: running(elu1(x["Q"]), elu1(x["K"]), x["V"])),
    "hedgehog": ({**SEQUENCE, "D": 5, "T": 2}, hedgehog),
    "based": (SEQUENCE, based),
    "rala": (SEQUENCE, rala),
    "nalaformer": ({**SEQUENCE, "T": 2}, nalaformer),
    "inline": (SEQUENCE, inline),
    "lightning_1": (SELF, decayed),
    "lightning_2": ({**SEQUENCE, "B": 4}, decayed),
    "retention": ({**SEQUENCE, "B": 4}, lambda x: decayed(x, 0.5)),
    "gated_linear": ({**SEQUENCE, "B": 4}, gla),
    "axial": ({"E": 4, "F": 3, "H": 5, "W": 6}, axial),
    "davit_channel": ({"C": 4, "F": 4, "N": 9}, davit),
    "spargeattn_scores": ({"E": 4, "P": 12, "M": 8, "P0": 4, "M0": 2}, sparge),
    "dhsa_scores": ({"E": 4, "P": 12, "M": 8, "P0": 4, "M0": 2}, dhsa),
    "biformer_scores": ({"E": 4, "N": 12, "T": 3}, biformer),
    "sage_int8": ({"E": 16, "F": 5, "P": 8, "M": 12, "P0": 4, "M0": 4}, sage_int8),
    "sage_fp4": ({"E": 32, "F": 6, "P": 8, "M": 64, "E0": 16, "M0": 16, "M2": 2, "P0": 4}, plain),
    "mixture_of_heads": ({**DENSE, "H": 3, "D": 4}, moh),
    "sigmoid": (DENSE, sigmoid),
    "flash_backward": (DENSE, backward),
}
TWEAKS: dict[str, Callable[[X], X]] = {
    "hedgehog": signs,
    "nalaformer": signs,
    "lightning_1": decay,
    "lightning_2": decay,
    "retention": decay,
    "gated_linear": lambda x: {**x, "LA": -np.abs(x["LA"])},
    "mixture_of_heads": lambda x: {**x, "T": (x["T"] > 0).astype(float)},
    "flash_backward": backward_inputs,
}
# FP4 rounds: its reference is unrounded attention, so only the quantisation error is bounded.
TOLERANCE = {"sage_fp4": 0.35}
SIZED = {"spargeattn_scores", "dhsa_scores", "biformer_scores", "sage_int8"}


def test_every_cascade_of_the_library_has_a_reference() -> None:
    assert set(CASES) == set(cascades.names())


@pytest.mark.parametrize("name", cascades.names())
@pytest.mark.parametrize("growth", [0, 1, 2])
def test_cascade_computes_its_algorithm(name: str, growth: int) -> None:
    cascade = cascades.load(name)
    sizes, reference = CASES[name]
    # Other shapes: sizes that no partition ties grow by themselves.
    tied = {r for whole, parts in cascade.scope.parts.items() for r in (whole, *parts)} | {"T", "C", "F"}
    sizes = {rank: size if rank in tied else size + growth * (ord(rank[0]) % 3) for rank, size in sizes.items()}
    inputs = TWEAKS.get(name, lambda x: x)(random_inputs(cascade, sizes, seed=growth))
    results = list(evaluate(cascade, inputs, sizes).values())
    expected = reference(inputs, bind(cascade, sizes)) if name in SIZED else reference(inputs)
    if not isinstance(expected, list):
        expected = [expected]
    assert len(results) == len(expected)
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=1e-9, atol=TOLERANCE.get(name, 1e-10))


@pytest.mark.parametrize("name", cascades.names())
def test_cascade_prints_back_and_cites_its_source(name: str) -> None:
    cascade = cascades.load(name)
    text = (cascades.folder() / f"{name}.cascade").read_text(encoding="utf-8")
    assert show(cascade) == text
    assert parse(show(cascade), name) == cascade
    assert "Source: " in cascade.header
    assert "Exact" in cascade.header or "Simplified" in cascade.header
