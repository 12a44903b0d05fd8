"""python streaming_in_sinabs.py FILE.nir CURRENTS.npy OUT.npz: what each layer sends in sinabs, by its own import.

In an environment with sinabs, which needs not have neurotool. CURRENTS: (steps, width).
"""

import sys

import nir
import numpy as np
import torch
from sinabs.activation import MembraneReset, SingleSpike
from sinabs.layers import LIF, ExpLeak, StatefulLayer
from sinabs.nir import from_nir


@torch.no_grad()
def main(path: str, currents: str, out: str) -> None:
    module, sent = from_nir(nir.read(path), batch_size=1), {}
    for name, layer in module.named_modules():
        if isinstance(layer, LIF) and not isinstance(layer, ExpLeak):  # what the export tells beside the file
            layer.spike_fn, layer.reset_fn = SingleSpike, MembraneReset()
        if isinstance(layer, StatefulLayer):
            layer.register_forward_hook(lambda _, __, result, name=name: sent.update({name: result.numpy()}))
    module(torch.from_numpy(np.load(currents)))
    np.savez(out, **sent)


if __name__ == "__main__":
    main(*sys.argv[1:])
