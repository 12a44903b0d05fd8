"""Everything that can be asked of a model, on one that is trained here: it takes a few minutes on a CPU.

    python examples/tour.py [model.ckpt]

Without a checkpoint it distils one on a fraction of the demo data; the layers are few and the texts hardly seen, so do
not expect much of its answers.
"""

import sys
import tempfile
from pathlib import Path

import neurotool

TEXTS = ["a moving and very funny film", "a dull and lifeless mess with no laughs"]
folder = Path(tempfile.mkdtemp())


def main(given: str | None) -> None:
    if given is None:
        model = neurotool.distil(
            layers=1, time_steps=2, spikes="ternary", epochs=0.1, teacher_epochs=0.1, output=folder / "model.ckpt"
        )
    else:
        model = neurotool.open(given)
    for prediction in model.predict(TEXTS):
        print(prediction["label"], max(prediction["probabilities"].values()), prediction["text"])

    run = model.run(TEXTS, executor="interpreter")
    for layer, spikes in run.spikes.items():
        print(f"{layer:24} {int(abs(spikes).sum())} spikes, mean rate {abs(run.rates[layer]).mean():.3f}")

    model.export(folder / "model.nir")
    model.export(folder / "model.lava", target="lava", samples=16)
    print("the same network as NIR:", neurotool.compare(model, folder / "model.nir", samples=4).passed)
    bundle = neurotool.compare(model, folder / "model.lava", samples=4).result
    print("predictions that agree in fixed point:", bundle.predictions_agreeing, "of", bundle.inputs)

    report = model.energy(data=TEXTS[0])
    report.to_html(folder / "report.html")
    print(report.comparisons[0].verdict())
    print("written to", folder)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
