"""The products of main.rs in PyTorch: forward with bias, input gradient and weight gradient, all in bf16."""

import time

import torch
import torch.nn.functional as F

LAYERS = [
    (200960, 768, 2304),
    (200960, 768, 768),
    (200960, 768, 3072),
    (200960, 3072, 768),
    (114800, 1024, 3072),
    (114800, 1024, 1024),
    (114800, 1024, 4096),
    (114800, 4096, 1024),
]


def noise(*shape):
    return (torch.rand(*shape, device="cuda") * 2 - 1).bfloat16()


def measure(call, seconds=0.1):
    def run(calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    call()
    rough = min(run(1), run(3))
    return run(max(5, int(seconds / rough)))


totals = [0.0, 0.0]
with torch.no_grad():
    for i, (rows, inputs, outputs) in enumerate(LAYERS):
        x, w, dy, bias = noise(rows, inputs), noise(outputs, inputs), noise(rows, outputs), noise(outputs)
        products = [("forward, bias", lambda: F.linear(x, w, bias))]
        if inputs >= outputs:
            products.append(("forward, bias, residual", lambda: dy + F.linear(x, w, bias)))
        products.append(("input gradient", lambda: dy @ w))
        products.append(("weight gradient", lambda: dy.t() @ x))
        for name, call in products:
            seconds = measure(call)
            rate = 2 * rows * inputs * outputs / seconds / 1e12
            print(f"{rows:7} {inputs:4} -> {outputs:4} {name:24} {seconds * 1e3:7.3f} ms {rate:6.1f} TFLOP/s", flush=True)
            if "residual" not in name:
                totals[i // 4] += seconds
print(f"all of ViT-B/16 {totals[0] * 1e3:.3f} ms, ViT-L/14 {totals[1] * 1e3:.3f} ms (without the residual forms)")
