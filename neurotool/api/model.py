"""Any model file, opened: its layer graph, how it reads text, and what can be asked of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurotool.api.executors import Settings, make_executor
from neurotool.api.reading import ModelInputs, Reader, SpikeReader, Text, TextReader
from neurotool.errors import BundleError, ConfigError, DataError, GraphError
from neurotool.executor import Executor, Record, Run, stacked, unstacked
from neurotool.graph import Embedding, GradedNeuron, Graph, Input, Neuron
from neurotool.graph.graded import at_levels, levels
from neurotool.graph.names import in_group
from neurotool.graph.part import part
from neurotool.inputs import Given, InputKind, fitted, steps_said, with_kinds
from neurotool.sentences import random_inputs
from neurotool.streams import longest_text, steps_per_token
from neurotool.texts import longest, tokenizer_from_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neurotool.energy.report import Report
    from neurotool.evaluation import Evaluation
    from neurotool.lava_runtime.bundle import Bundle
    from neurotool.student.serialise import LoadedStudent
    from neurotool.tasks import Task

Kind = Literal["checkpoint", "NIR file", "bundle", "part"]
NOTHING = Given()
SAMPLES = 8
"""Random inputs for networks that read no text."""
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Model:
    """A model file that was opened, or a part of its network.

    graph: what every executor but torch runs. reader: how it reads text, or labelled spikes, None where it does not.
    record: of the training of a checkpoint, of the quantisation of a bundle. student: a checkpoint's that reads text,
    which torch runs.
    """

    path: Path
    kind: Kind
    graph: Graph
    reader: Reader | None = None
    record: dict[str, Any] = field(default_factory=dict)
    student: "LoadedStudent | None" = None
    bundle: "Bundle | None" = None

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase | None":
        """None where it reads no text."""
        return None if self.reader is None else self.reader.tokenizer

    @property
    def task(self) -> "Task | None":
        """What is classified or scored; None where that is not known."""
        return None if self.reader is None else self.reader.task

    @property
    def tokenizer_files(self) -> dict[str, str]:
        """Files of the tokenizer by name, as text; {} where its graph reads no text."""
        if self.student is not None and steps_per_token(self.graph) is None:
            return self.student.checkpoint.tokenizer
        return self.bundle.tokenizer if self.bundle is not None else {}

    @property
    def time_steps(self) -> int:
        """T as its student means it: of a window, of the run, of a token that comes in time, or the levels of a graded
        message."""
        return steps_per_token(self.graph) or levels(self.graph) or self.graph.time_steps

    @property
    def default_executor(self) -> str:
        """torch for a checkpoint, the interpreter for a .nir file, the emulator for a bundle, for integers, and for a
        checkpoint that reads spikes."""
        if self.student is not None:
            return "torch"
        return "emulator" if self.kind in ("bundle", "checkpoint") or self.graph.fixed_point else "interpreter"

    def executor(self, name: str | None = None, **settings: Any) -> Executor:
        """One of EXECUTORS with this model. settings: fields of `executors.Settings`. Raises ConfigError."""
        student = None if self.student is None else self.student.model
        return make_executor(name or self.default_executor, self.graph, student, Settings(**settings))

    def at(self, time_steps: int | None) -> "Model":
        """The same with another T; None: its own. Raises ConfigError where there is no T to choose."""
        if time_steps is None or time_steps == self.time_steps:
            return self
        if steps_per_token(self.graph) is not None:
            raise ConfigError(
                f"-T {time_steps}: {self.path} was trained for {self.time_steps} step(s) a token, and its decays are "
                "of these; leave it out"
            )
        if self.student is not None:
            from neurotool.student.student import check_time_steps

            check_time_steps(self.student.model, time_steps)
        if self.graph.fixed_point:
            raise ConfigError(
                f"-T {time_steps}: {self.path} holds integers made for T = {self.time_steps}; export the "
                "checkpoint with -T"
            )
        if levels(self.graph) is not None:
            return replace(self, graph=at_levels(self.graph, time_steps))
        if self.graph.of_type(GradedNeuron):
            raise ConfigError(
                f"-T {time_steps}: some neurons of {self.path} send graded messages and others do not, so no T "
                "can be chosen; leave it out"
            )
        return replace(self, graph=replace(self.graph, time_steps=time_steps))

    def part(self, first: str, last: str | None = None) -> "Model":
        """The nodes from `first` to `last` alone, in emission order; what they read from outside becomes an Input.

        Either may name a group: part("encoder.0") is all of that layer. Raises GraphError.
        """
        return Model(self.path, "part", part(self.graph, first, last or first))

    def run(
        self,
        inputs: Sequence[Text] | Mapping[str, Any] | np.ndarray | ModelInputs,
        executor: str | None = None,
        record: Record = True,
        input_kind: InputKind | None = None,
        **settings: Any,
    ) -> Run:
        """Run texts, or arrays, all together.

        inputs: texts (pairs as tuples, or with a tab between); or arrays by name: input_ids, attention_mask,
          token_type_ids, and a (inputs, [T,] [tokens,] width) array for each Input node; or that of the only Input.
        executor: torch, interpreter, emulator or lava; the result is the same. record: names of nodes, or of groups
          such as "encoder.0"; by default all. settings: see `executor`.
        Raises DataError for inputs that the network cannot take, ConfigError for an executor that cannot run it.
        """
        names = record if isinstance(record, bool) else self.named(record)
        batch = self.batch(inputs)
        told = self.told(batch.get("values") or {}, input_kind)
        return told.executor(executor, **settings).run(**batch, record=names)

    def told(self, values: Mapping[str, np.ndarray], kind: InputKind | None = None) -> "Model":
        """The same, its Inputs said to hold spikes or currents: as `kind` says, or the file, or the values."""
        return replace(self, graph=with_kinds(self.graph, values, kind))

    def named(self, groups: Sequence[str] | Any) -> tuple[str, ...]:
        """Nodes of these names, or in these groups. Raises ConfigError for one that is not there."""
        names: list[str] = []
        for given in groups:
            found = in_group(self.graph.nodes, given)
            if not found:
                known = ", ".join(self.graph.of_type(Neuron))
                raise ConfigError(f"--record {given}: there is no such layer; the neuron layers are {known}")
            names += found
        return tuple(dict.fromkeys(names))

    def batch(self, inputs: Sequence[Text] | Mapping[str, Any] | np.ndarray | ModelInputs) -> dict[str, Any]:
        """Inputs as every executor takes them: see `run`."""
        if isinstance(inputs, ModelInputs):
            return stacked(inputs.inputs)
        if isinstance(inputs, (np.ndarray, Mapping)):
            return fitted(self.graph, inputs)
        if isinstance(inputs, str):
            inputs = [inputs]
        return stacked(self.reading().given(inputs).inputs)

    def reading(self) -> Reader:
        """How it reads text, or labelled spikes. Raises ConfigError where it does neither."""
        if self.reader is not None:
            return self.reader
        streams = steps_per_token(self.graph) is not None
        if self.kind == "NIR file" and not streams and not self.graph.has_tokens:
            raise ConfigError(f"{self.path}: reads no text: leave out texts and --data, give recordings with --input")
        if self.kind == "NIR file" or (self.kind == "bundle" and streams):
            raise ConfigError(f"{self.path}: holds no tokenizer; name a .ckpt that does with --tokenizer")
        what = "a part of the network reads arrays" if self.kind == "part" else "the bundle holds no tokenizer"
        raise ConfigError(f"{self.path}: {what}: leave out texts and --data")

    def samples(self, data: Path | str | None = None, count: int | None = None, given: Given = NOTHING) -> ModelInputs:
        """What to run on: what is given, or labelled texts of `data`, of the validation data, or built-in sentences.

        given: recordings, or random inputs for a network that reads no text, which are not made unless asked for.
        Raises ConfigError, and DataError for what cannot be read or does not fit.
        """
        if given.files:
            if data is not None:
                raise ConfigError(f"--data {data}: --input is given, too; leave out one of the two")
            return self._recorded(given)
        if given.random and isinstance(self.reader, SpikeReader):
            return ModelInputs(random_inputs(self.graph, count or SAMPLES), None, "random inputs")
        if self.reader is None and data is None:
            if not given.random:
                raise ConfigError(
                    f"{self.path}: reads no text: give recordings with --input, or random inputs with --random"
                    + ("; or a .ckpt with --tokenizer" if self.graph.of_type(Embedding) else "")
                )
            return ModelInputs(random_inputs(self.graph, count or SAMPLES), None, "random inputs")
        return self.reading().data(None if data is None else Path(data), count)

    def arrays(self, *files: Path | str) -> ModelInputs:
        """Recordings (neurotool/recordings.py) as inputs. Raises DataError for those that do not fit."""
        return self.samples(given=Given(tuple(map(str, files))))

    def ready(
        self, data: Path | str | None = None, count: int | None = None, given: Given = NOTHING
    ) -> "tuple[Model, ModelInputs]":
        """`samples`, and this model told what they are."""
        inputs = self.samples(data, count, given)
        values: dict[str, Any] = {}
        for name in self.graph.of_type(Input):
            values[name] = np.stack([one["values"][name] for one in inputs.inputs])
        return self.told(values, given.kind), inputs

    def _recorded(self, given: Given) -> ModelInputs:
        try:
            return ModelInputs(unstacked(fitted(self.graph, given.read())), None, given.source)
        except DataError as error:
            known = any(file in str(error) for file in given.files)
            raise DataError(str(error) if known else f"{given.source}: {error}") from error

    def logits(self, texts: Sequence[Text], executor: str | None = None) -> np.ndarray:
        """(texts, labels); by torch, unless another executor is asked for, in single precision and fast."""
        executor = executor or self.default_executor
        columns = self.reading().columns(texts)
        if executor == "torch" and self.student is not None:
            from neurotool.evaluation import predict

            model, tokenizer, longest = self.student.model, self.student.tokenizer, self.reading().max_length
            return predict(model, tokenizer, columns, longest, self.time_steps)[0]
        logits = self.run(columns, executor, record=False).logits
        if logits is None:
            raise ConfigError(f"{self.path}: the network has no readout and predicts nothing")
        return logits

    def predict(self, texts: Sequence[Text], executor: str | None = None) -> list[dict[str, Any]]:
        """For each text {"text", "label", "probabilities"}, or {"text", "score"} of a regression.

        Raises DataError for an empty text, ConfigError for a network that reads or predicts nothing.
        """
        logits, reader = self.logits(texts, executor), self.reading()
        return [reader.prediction(text, row) for text, row in zip(texts, logits, strict=True)]

    def evaluate(self, data: Path | str | None = None, executor: str | None = None, **options: Any) -> "Evaluation":
        """Metrics, logits and activity on labelled texts: see `measuring.evaluate`."""
        from neurotool.api.measuring import evaluate

        return evaluate(self, None if data is None else Path(data), executor, **options)

    def export(self, path: Path | str | None = None, target: str = "nir", **options: Any) -> dict[str, Any]:
        """Write it as .nir, Lava bundle or drawing, and say what was written: see `exporting.export`."""
        from neurotool.api.exporting import export

        return export(self, None if path is None else Path(path), target, **options)

    def energy(self, data: Path | str | None = None, **options: Any) -> "Report":
        """Operations and energy: see `measuring.energy`."""
        from neurotool.api.measuring import energy

        return energy(self, data, **options)


def open_model(
    path: Path | str,
    *,
    tokenizer: Path | str | None = None,
    time_steps: int | None = None,
    given: Given = NOTHING,
    **conventions: Any,
) -> Model:
    """Open a .ckpt, a .nir file or a Lava bundle.

    tokenizer: a .ckpt whose tokenizer and task read texts for a file that has none. time_steps: another T; of a
    .nir file of another tool by default that of the recordings that are given.
    conventions: what a .nir file of another tool leaves open (neurotool.export.nir.read_nir).
    Raises CheckpointError, GraphError or BundleError for a file that cannot be read, ConfigError for options that do
    not fit the kind of file.
    """
    path = Path(path)
    if path.is_dir() or not is_nir(path):
        refuse_conventions(path, conventions)
        opened = _open_bundle(path) if path.is_dir() else _open_checkpoint(path)
        if tokenizer is not None:
            if opened.reader is not None:
                raise ConfigError(f"--tokenizer {tokenizer}: {path} has its own; the option is for files without one")
            opened = replace(opened, reader=_reader(Path(tokenizer), opened.graph))
        return opened.at(time_steps)
    from neurotool.export.nir import read_nir

    content = given.read() if given.files and time_steps is None else {}
    graph = read_nir(path, time_steps=time_steps or steps_said(content), **conventions)
    if steps_said(content) != steps_said(content, graph):  # of constant inputs of several axes
        graph = read_nir(path, **conventions)
    reader = None if tokenizer is None else _reader(Path(tokenizer), graph)
    opened = Model(path, "NIR file", graph, reader)
    return opened if time_steps == graph.time_steps else opened.at(time_steps)


def refuse_conventions(path: Path, conventions: Mapping[str, Any]) -> None:
    """Raises ConfigError where something is told of a file that is no .nir file."""
    for name, value in conventions.items():
        if value is not None and value is not False:
            option = "--from" if name == "tool" else f"--{name.replace('_', '-')}"
            raise ConfigError(f"{path}: {option} is for foreign .nir files; this file says it itself, leave it out")


def is_nir(path: Path) -> bool:
    """A .nir file by its first bytes, or by its name where it is too damaged to have them."""
    try:
        if not path.is_file():  # reading from a pipe would take what it holds, or wait for ever
            return path.suffix == ".nir"
        with path.open("rb") as file:
            return file.read(8) == _HDF5 or path.suffix == ".nir"
    except OSError:
        return path.suffix == ".nir"


def _reader(checkpoint: Path, graph: Graph) -> Reader:
    """How a checkpoint reads, for another file's graph. Raises ConfigError where the two do not fit."""
    reader = _open_checkpoint(checkpoint).reading()
    if isinstance(reader, TextReader) and not graph.of_type(Embedding) and steps_per_token(graph) is None:
        raise ConfigError(f"--tokenizer {checkpoint}: the network reads no text, but {', '.join(graph.of_type(Input))}")
    if isinstance(reader, SpikeReader):
        return SpikeReader.of(graph, reader.task, reader.training)
    if (reader.entering is None) != (steps_per_token(graph) is None):
        kinds = ("side by side", "one after the other")
        ours, theirs = kinds if reader.entering is None else kinds[::-1]
        raise ConfigError(f"--tokenizer {checkpoint}: its student reads tokens {ours}, and this network {theirs}")
    return replace(reader, max_length=min(reader.max_length, longest_text(graph)))


def _open_checkpoint(path: Path) -> Model:
    from neurotool.checkpoint import read_checkpoint
    from neurotool.student.serialise import load_student
    from neurotool.student.spike_classifier import load_spike_classifier, reads_spikes
    from neurotool.tasks import Task

    checkpoint = read_checkpoint(path)
    if reads_spikes(checkpoint):
        graph = load_spike_classifier(path, checkpoint).to_graph()
        task, training = Task.from_dict(checkpoint.training["task"]), checkpoint.training
        return Model(path, "checkpoint", graph, SpikeReader.of(graph, task, training), training)
    student = load_student(path, checkpoint)
    graph, training = student.model.to_graph(), student.checkpoint.training
    most = longest(training.get("plan", {}), longest_text(graph))
    entering = getattr(student.model, "entering", None)
    reader = TextReader(student.tokenizer, student.task, training, most, entering)
    return Model(path, "checkpoint", graph, reader, training, student)


def _open_bundle(path: Path) -> Model:
    from neurotool.lava_runtime.bundle import is_bundle, read_bundle

    if not is_bundle(path):
        raise GraphError(f"{path}: is a folder, but not a Lava bundle; give a .ckpt or .nir file or a bundle")
    bundle = read_bundle(path)
    return Model(path, "bundle", bundle.graph, _bundle_reader(bundle, path), bundle.record, bundle=bundle)


def _bundle_reader(bundle: "Bundle", path: Path) -> Reader | None:
    """None where its network reads neither text nor labelled spikes. Raises BundleError for damage to tokenizer and
    task."""
    entries = [node for node in bundle.graph.nodes.values() if isinstance(node, Input)]
    if not bundle.tokenizer and not (bundle.task and any(node.spiking for node in entries)):
        return None
    from neurotool.header import try_tokenizer
    from neurotool.tasks import Task

    if not bundle.tokenizer:
        with _described(path):
            return SpikeReader.of(bundle.graph, Task.from_dict(bundle.task), bundle.record)
    rows = {node.ids: len(node.weight) for node in bundle.graph.nodes.values() if isinstance(node, Embedding)}
    try:
        tokenizer = tokenizer_from_files(bundle.tokenizer)
        try_tokenizer(tokenizer, rows["input_ids"], rows.get("token_type_ids", 2**31))
    except (DataError, ValueError) as error:
        raise BundleError(f"{path}: its tokenizer cannot be read: {error}; export it again") from error
    with _described(path):
        return TextReader(tokenizer, Task.from_dict(bundle.task), bundle.record, bundle.max_length)


@contextmanager
def _described(path: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, AttributeError, DataError) as error:
        raise BundleError(
            f"{path}: its manifest describes no task ({type(error).__name__} {error}); export it again"
        ) from error
