"""The CNN of the NIR paper (Pedersen et al. 2024), for events on 34 x 34 pixels, here with seeded weights; and sinabs's
run of it, in an environment that has sinabs:

    python benchmarks/nir_cnn.py FILE.nir EVENTS.npy SPIKES.npz

EVENTS: (inputs, steps, 2, 34, 34). Every line of standard input is one run, after which the seconds of processor time
that it took are printed. SPIKES gets, at the end, what each neuron layer sent: (inputs, steps, …), by name.
"""

import sys
import time
import warnings
from itertools import pairwise

import nir
import numpy as np

SHAPE, STEPS = (2, 34, 34), 300
RATE = 0.006
"""Events of an element in a step: about 4200 in 300 ms, as in N-MNIST's recordings (Orchard et al. 2015)."""


def cnn(seed: int = 0) -> nir.NIRGraph:
    """Three convolutions, two pools and two linear layers with IF neurons, as paper/02_cnn of the NIR repository."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0.05, 2.0, shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]), dtype=np.float32)

    def convolution(plane: int, out: int, inside: int, kernel: int, stride: int) -> nir.Conv2d:
        weights = weight(out, inside, kernel, kernel)
        return nir.Conv2d((plane, plane), weights, stride, 1, 1, 1, np.zeros(out, np.float32))

    def neurons(*shape: int) -> nir.IF:
        return nir.IF(r=np.ones(shape, np.float32), v_threshold=np.ones(shape, np.float32))

    def pool() -> nir.SumPool2d:
        return nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))

    def affine(out: int, inside: int) -> nir.Affine:
        return nir.Affine(weight(out, inside), np.zeros(out, np.float32))

    layers = [
        *(convolution(34, 16, 2, 5, 2), neurons(16, 16, 16)),
        *(convolution(16, 16, 16, 3, 1), neurons(16, 16, 16), pool()),
        *(convolution(8, 8, 16, 3, 1), neurons(8, 8, 8), pool()),
        nir.Flatten({"input": np.array([8, 4, 4])}, 0, -1),
        *(affine(256, 128), neurons(256)),
        *(affine(10, 256), neurons(10)),
    ]
    names = ["input", *map(str, range(len(layers))), "output"]
    ends = nir.Input({"input": np.array(SHAPE)}), nir.Output({"output": np.array([10])})
    nodes = dict(zip(names, [ends[0], *layers, ends[1]], strict=True))
    return nir.NIRGraph(nodes, list(pairwise(names)))


def events(inputs: int, steps: int = STEPS, rate: float = RATE, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((inputs, steps, *SHAPE)) < rate).astype(np.float32)


def main(file: str, given: str, out: str) -> None:
    import torch
    from sinabs.layers import IAFSqueeze
    from sinabs.nir import from_nir

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    x = torch.from_numpy(np.load(given))
    net = from_nir(nir.read(file), batch_size=len(x))
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, IAFSqueeze)}

    @torch.inference_mode()
    def run() -> None:
        for layer in layers.values():
            layer.reset_states()
        net(x.flatten(0, 1))

    for _ in sys.stdin:
        start = time.process_time()
        run()
        print(time.process_time() - start, flush=True)
    spikes: dict[str, np.ndarray] = {}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, read, sent, name=name: spikes.update({name: sent.numpy()}))
    run()
    np.savez_compressed(out, **{name: sent.reshape(*x.shape[:2], *sent.shape[1:]) for name, sent in spikes.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
