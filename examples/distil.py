"""Distil a student in Python, look at its firing rates, and check that its layer graph is the same network.

    python examples/distil.py

Takes a few minutes on a CPU; for a quick look it trains on a fraction of the demo data.
"""

from pathlib import Path

from rich.console import Console

from neurotool.simulate import simulate_batch
from neurotool.student.serialise import load_student
from neurotool.train.pipeline import train
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.trainer import LossWeights

OUTPUT = Path("example.ckpt")

plan = TrainingPlan(
    output=OUTPUT,
    student={"num_hidden_layers": 2, "time_steps": 2, "spikes": "ternary", "learn_v_threshold": True},
    stages=(StagePlan("prediction", 0.5, 2e-4, 32, LossWeights(hidden=1.0, attention=0.01, soft=1.0, hard=0.5)),),
    teacher_epochs=0.5,
    force=True,
)
result = train(plan, Console())
print(f"teacher {result.teacher['accuracy']:.3f}, student {result.student.metrics['accuracy']:.3f}")

student, tokenizer, task, checkpoint = load_student(OUTPUT)
sentence = tokenizer("a moving and very funny film", return_tensors="pt")
output = student(**sentence)
print("label:", task.label_names[int(output.logits.argmax())])
for name, rate in output.rates.items():
    print(f"{name:24} mean |rate| {float(rate.detach().abs().mean()):.3f}")

# The same sentence, spike by spike, in the numpy interpreter of the layer graph.
student = student.double()
(run,) = simulate_batch(student.to_graph(), {name: values.numpy() for name, values in sentence.items()})
print("spikes of the embedding's neurons:", int(abs(run.spikes["embedding"].astype(int)).sum()))
print("logits of torch:           ", student(**sentence).logits[0].tolist())
print("logits of the interpreter: ", run.logits.tolist())
