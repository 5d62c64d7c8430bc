"""transformers with bitsandbytes reads our 4-bit folders.

job: {"out", "threads", "planted", "cases": [{"name", "folder", "rows"}]}

Weights are decoded by bitsandbytes' portable functions: its kernels for AVX-512 are wrong where a row of the weight is not
a multiple of the block (0.50.2). They are used as well, where it is.
"""
import bitsandbytes as bnb
import peers
import torch
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

JOB = peers.job()
TENSORS = {}


def decoded(linear):
    """The values of a 4-bit linear in f32, by the portable functions."""
    state = linear.weight.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = bnb.functional.dequantize_blockwise(absmax, state.state2) + state.offset
    packed = linear.weight.data.reshape(-1)
    return _dequantize_4bit_compute(packed, absmax.float(), state.code, state.blocksize, tuple(state.shape), torch.float32)


def four_bit_linears(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}


def plain(model):
    """Puts plain linears of the same values in the place of the 4-bit ones."""
    for name, linear in four_bit_linears(model).items():
        new = torch.nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
        new.weight = torch.nn.Parameter(decoded(linear), requires_grad=False)
        if linear.bias is not None:
            new.bias = torch.nn.Parameter(linear.bias.data, requires_grad=False)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, new)
    return model


def check(case):
    name, data = case["name"], peers.rows(case["rows"])
    model = peers.load(case["folder"], device_map={"": "cpu"})
    linears = four_bit_linears(model)
    if not linears:
        raise ValueError("no linear is in 4 bits")
    weights = {n: decoded(m) for n, m in linears.items()}
    if JOB["planted"]:
        next(iter(weights.values()))[0, 0] += 1e-3
    TENSORS.update({f"{name}/weight/{n}": w for n, w in weights.items()})
    states = [m.weight.quant_state for m in linears.values()]
    whole = all(s.shape[1] % s.blocksize == 0 for s in states)
    results = {"linears": len(linears), "whole": whole, "kind": states[0].quant_type, "block": states[0].blocksize,
               "double": states[0].nested}
    if whole:
        own = [bnb.functional.dequantize_4bit(m.weight.data, m.weight.quant_state).float() for m in linears.values()]
        results["own_decode"] = max(float((a - b).abs().max()) for a, b in zip(own, weights.values()))
        # In training mode it multiplies in f32; in evaluation, on some CPUs, in bf16.
        logits, _ = peers.evaluate(model.train(), data)
        TENSORS.update({f"{name}/own/{i}": row for i, row in enumerate(logits)})
    logits, results["loss"] = peers.evaluate(plain(model).eval(), data)
    TENSORS.update({f"{name}/plain/{i}": row for i, row in enumerate(logits)})
    return results


if __name__ == "__main__":
    peers.write(JOB["out"], peers.each(JOB["cases"], check), TENSORS)
