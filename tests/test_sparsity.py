"""Messages and what they cost: against loops over neurons, the operation counts of `energy`, and trained students."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from rich.console import Console

from neurotool.activity import Activity
from neurotool.energy.counts import count, events_of_activity
from neurotool.errors import ConfigError
from neurotool.evaluation import _add
from neurotool.student import NeuronDynamics
from neurotool.student.serialise import load_student
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.sparsity import START, Density, EventTarget, Ramp, RisingPenalty, Sender, Synapses, shift_relu

MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)
IDS = torch.tensor([[2, 7, 9, 4, 3], [2, 8, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def test_what_messages_of_each_layer_cost(make_student) -> None:
    """Of 2 layers x 16, 24 between, 2 labels."""
    synapses = Synapses(make_student().to_graph())
    assert synapses.senders["embedding"] == Sender(16, fixed=48)  # query, key and value
    assert synapses.senders["encoder.0.key"] == synapses.senders["encoder.0.value"] == Sender(16, per_token=1)
    assert synapses.senders["encoder.0.attention"] == Sender(16, fixed=16)
    assert synapses.senders["encoder.0.self_output"] == Sender(16, fixed=24)
    assert synapses.senders["encoder.0.intermediate"] == Sender(24, fixed=16)
    assert synapses.senders["encoder.0.output"] == Sender(16, fixed=48)
    assert synapses.senders["encoder.1.output"] == Sender(16)  # the readout reads a mean
    per_token = 2 * (4 * 16 * 16 + 2 * 16 * 24)
    expected = [per_token * n + 2 * 2 * 16 * n * n + 2 * 16 for n in (5, 3)]
    assert synapses.total(MASK.sum(1)).tolist() == expected


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
def test_events_per_synapse_are_those_of_the_account(make_student, spikes: str) -> None:
    """With one step every message is a spike."""
    student = make_student(spikes=spikes, time_steps=1)
    graph = student.to_graph()
    with torch.no_grad():
        output = student(IDS, MASK, output_spike_counts=True)
    activity = Activity(1, 1)
    _add(activity, output, MASK, False)
    counted = count(graph, activity, events_of_activity(graph, activity))
    density = Density(Synapses(graph)).add(output.rates, MASK)
    assert float(density.operations) == counted.total().accumulates
    assert float(density.total) == counted.synapses
    assert float(density.events_per_synapse) == counted.spikes_per_synapse > 0.05


def test_a_message_counts_once_however_many_spikes_it_has(make_student) -> None:
    student = make_student(spikes="ternary", time_steps=4)
    synapses = Synapses(student.to_graph())
    output = student(IDS, MASK, output_spike_counts=True)
    density = Density(synapses).add(output.rates, MASK)
    operations = 0
    for name, counts in output.spike_counts.items():
        for text, tokens in enumerate((5, 3)):
            active = int(np.count_nonzero(counts[text, :tokens].detach().numpy()))
            sender = synapses.senders[name]
            operations += active * (sender.fixed + sender.per_token * tokens)
    assert float(density.operations) == operations > 0
    assert float(Density(synapses).add(output.spike_counts, MASK).operations) == operations
    keys = [output.rates[f"encoder.{i}.key"][MASK.bool()] for i in range(2)]
    share = sum(int(rate.count_nonzero()) for rate in keys) / sum(rate.numel() for rate in keys)
    assert float(density.shown["active_key"]) == pytest.approx(share)


@pytest.mark.parametrize("dynamics", [NeuronDynamics(v_init=0.5), NeuronDynamics(), NeuronDynamics("ternary")])
@pytest.mark.parametrize("time_steps", [1, 4])
def test_the_soft_count_steps_where_the_first_spike_is_sent(dynamics: NeuronDynamics, time_steps: int) -> None:
    drive = torch.linspace(-2, 2, 1999)
    active = dynamics.spike_count(drive, time_steps) != 0
    sharp = dynamics.soft_activity(drive, time_steps, softness=1e-4)
    assert torch.equal(sharp > 0.5, active)
    soft = dynamics.soft_activity(drive, time_steps)
    assert ((soft - active.float()).abs() < 0.52).all()


def test_the_soft_count_has_the_gradient_of_the_logistic_function() -> None:
    drive = torch.tensor([0.5], requires_grad=True)  # 2 levels, 1.5 beyond the first
    NeuronDynamics("ternary").soft_activity(drive, 4).backward()
    share = torch.sigmoid(torch.tensor(6.0))
    below = torch.sigmoid(torch.tensor(-10.0))
    assert float(drive.grad) == pytest.approx(float(16 * (share * (1 - share) - below * (1 - below))), rel=1e-5)


def test_the_weight_follows_the_distance_from_the_aim(make_student) -> None:
    events = EventTarget(Synapses(make_student().to_graph()), 0.2)
    first = float(events._weight(torch.tensor(0.6)))
    assert float(events.start) == pytest.approx(0.6) and float(events.aim) == pytest.approx(0.6)
    assert float(events._weight(torch.tensor(0.6))) == first  # on its way: nothing to correct
    events.progress.fill_(0.25)
    assert float(events.aim) == pytest.approx(0.4)
    higher = float(events._weight(torch.tensor(0.6)))
    assert higher > first
    assert float(events._weight(torch.tensor(0.6))) > higher
    events.progress.fill_(0.5)
    assert float(events.aim) == pytest.approx(0.2)
    assert float(events._weight(torch.tensor(0.1))) < higher
    Ramp(events).on_step_begin(None, type("State", (), {"global_step": 9, "max_steps": 10}), None)
    assert float(events.progress) == pytest.approx(0.9)


def test_a_student_below_the_target_is_left_alone(make_student) -> None:
    events = EventTarget(Synapses(make_student().to_graph()), 0.5)
    events._weight(torch.tensor(0.3))
    assert float(events.start) == 0.5 and float(events.log_weight) < START


# --- training --------------------------------------------------------------------------------------------------------


LONG = ("--spikes", "ternary", "--time-steps", "2", "--epochs", "20")


def density_of(checkpoint) -> float:
    loaded = load_student(checkpoint)
    output = loaded.model(IDS, MASK)
    return float(Density(Synapses(loaded.model.to_graph())).add(output.rates, MASK).events_per_synapse)


@pytest.mark.slow
def test_training_reaches_the_target(make_plan: MakePlan) -> None:
    result = train(make_plan(*LONG, "--event-target", "0.2"), QUIET)
    record = load_student(result.output).checkpoint.training["stages"][-1]["history"]
    reached = [entry["eval_events_per_synapse"] for entry in record if "eval_events_per_synapse" in entry]
    assert reached[0] > 0.4 and reached[-1] == pytest.approx(0.2, rel=0.1)
    assert result.events_per_synapse in reached
    assert density_of(result.output) < 0.3
    assert result.student.metrics["accuracy"] >= 0.8


def test_students_without_windows_have_no_target(make_plan: MakePlan) -> None:
    for options, message in (
        (("--schedule", "concurrent"), "schedule concurrent"),
        (("--feedback",), "feedback"),
        (("--student", "ann"), "sends no spikes"),
    ):
        with pytest.raises(ConfigError, match=f"--event-target: .*{message}"):
            train(make_plan(*options, "--event-target", "0.2"), QUIET)
    with pytest.raises(ConfigError, match=r"--event-target 0\.0: it must be above 0 and below 1"):
        train(make_plan("--event-target", "0"), QUIET)


def test_the_penalty_of_a_relu_rises_along_a_sine(make_student) -> None:
    """Weight 8 of a mean rate of 0.25 on real tokens; a quarter of the stage is half of the wave."""
    penalty = RisingPenalty(8.0)
    rates = {
        "encoder.0.intermediate": MASK[..., None] * torch.tensor([0.0, 0.5]),
        "encoder.0.output": torch.ones(2, 5, 3),
    }
    rates["encoder.0.intermediate"][1, 4] = 1.0  # padding
    for progress, expected in ((0.0, 0.0), (0.25, 1.0), (0.5, 2.0), (1.0, 2.0)):
        penalty.progress.fill_(progress)
        assert float(penalty(rates, MASK)) == pytest.approx(expected, abs=1e-6)


def test_a_shifted_relu_sends_later(make_student) -> None:
    """One level less of drive: every neuron that is not saturated sends one spike less, and those at 1 none."""
    student = make_student(spikes="ternary", time_steps=4, activation="relu", num_hidden_layers=1)
    with torch.no_grad():
        before = student(IDS, MASK).rates["encoder.0.intermediate"] * 4
        current = student.layers[0].intermediate(student(IDS, MASK).rates["encoder.0.self_output"])
        shift_relu(student, 1.0)
        after = student(IDS, MASK).rates["encoder.0.intermediate"] * 4
    assert before.min() == 0 and before.max() == 4
    open_ = (current < 1.05) & ((current * 4 + 0.5) % 1 - 0.5).abs().lt(0.49)
    assert torch.equal(after[open_], (before - 1).clamp(min=0)[open_])


def test_what_is_for_a_relu_is_refused_without(make_plan: MakePlan) -> None:
    for option in ("--relu-penalty", "--relu-shift"):
        with pytest.raises(ConfigError, match=f"{option}: is for the neurons of --activation relu"):
            train(make_plan(option, "0.5"), QUIET)


def test_a_relu_trained_with_its_penalty_and_shift(make_plan: MakePlan) -> None:
    options = ("--activation", "relu", "--spikes", "ternary", "--time-steps", "2")
    rates = []
    for further in ((), ("--relu-penalty", "20", "--relu-shift", "0.25")):
        result = train(make_plan(*options, *further, output=f"{len(further)}.ckpt"), QUIET)
        layers = result.student.activity.layers
        rates.append(sum(layer.spikes for name, layer in layers.items() if name.endswith("intermediate")))
    assert rates[1] < 0.7 * rates[0]
