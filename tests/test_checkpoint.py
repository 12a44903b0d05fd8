"""The one-file checkpoint: what is written is read, and nothing else is accepted."""

import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from neurotool.checkpoint import FORMAT_VERSION, Checkpoint, read_checkpoint, write_checkpoint
from neurotool.errors import CheckpointError


def example(value: float = 1.0, size: int = 3) -> Checkpoint:
    return Checkpoint(
        tensors={"encoder.weight": np.full((2, size), value, np.float32), "step": np.asarray(7)},
        config={"model_type": "spikingbert", "time_steps": 4},
        tokenizer={"tokenizer.json": '{"ü": 1}', "tokenizer_config.json": "{}"},
        labels=["negative", "positive"],
        training={"seed": 0, "metrics": {"accuracy": 0.75}},
        activity={"encoder.0.key": 0.2},
    )


def header(**changes: Any) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "config": {"model_type": "spikingbert"},
        "tokenizer": {},
        "labels": [],
        "training": {},
        "activity": {},
        "tensors": {"w": {"shape": [2], "dtype": "float32"}},
        **changes,
    }


def refusal(path: Path) -> str:
    """The message of the error that reading `path` raises: one line that begins with the path."""
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def test_round_trip(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "model.ckpt", example())
    read = read_checkpoint(str(tmp_path / "model.ckpt"))
    assert read.tensors["encoder.weight"].tolist() == [[1.0] * 3] * 2
    assert read.tensors["step"].shape == () and read.tensors["step"] == 7
    for name in ("config", "tokenizer", "labels", "training", "activity"):
        assert getattr(read, name) == getattr(example(), name)
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.ckpt", "b.ckpt"):
        write_checkpoint(tmp_path / name, example())
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()


DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8, np.bool_])
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if np.issubdtype(dtype, np.floating) else None,
    )
)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), ARRAYS, max_size=3), st.booleans())
def test_any_finite_tensors_survive(tensors: dict[str, np.ndarray], transpose: bool) -> None:
    tensors.pop("__metadata__", None)
    if transpose:
        tensors = {name: tensor.T for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ckpt"
        write_checkpoint(path, Checkpoint(tensors, {"model_type": "x"}, {}))
        read = read_checkpoint(path).tensors
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
        assert read[name].tobytes() == tensor.tobytes()


def test_numpy_scalars_in_the_record_become_numbers(tmp_path: Path) -> None:
    checkpoint = Checkpoint({}, {"model_type": "x"}, {}, training={"loss": np.float32(0.5), "step": np.int64(3)})
    write_checkpoint(tmp_path / "model.ckpt", checkpoint)
    assert read_checkpoint(tmp_path / "model.ckpt").training == {"loss": 0.5, "step": 3}


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "model.ckpt").symlink_to(tmp_path / "disk" / "real.ckpt")
    write_checkpoint(tmp_path / "model.ckpt", example())
    assert (tmp_path / "model.ckpt").is_symlink()
    assert read_checkpoint(tmp_path / "disk" / "real.ckpt").labels == ["negative", "positive"]


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (np.array([1.0, np.nan, np.inf], np.float32), "tensor w has 2 of 3 values that are not finite"),
        (np.array(["a"]), "tensor w has type <U1"),
        (np.array([1j]), "tensor w has type complex128"),
    ],
)
def test_refuses_to_write_bad_tensors(tmp_path: Path, tensor: np.ndarray, reason: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        write_checkpoint(tmp_path / "model.ckpt", Checkpoint({"w": tensor}, {}, {}))
    assert list(tmp_path.iterdir()) == []


def test_refuses_a_header_that_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"set .* is not JSON"):
        write_checkpoint(tmp_path / "model.ckpt", Checkpoint({}, {"layers": {1}}, {}))


def test_missing_and_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "model.ckpt")
    assert "is not a file" in refusal(tmp_path)


def test_pickles_are_named_and_never_loaded(tmp_path: Path) -> None:
    marker = tmp_path / "loaded"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(marker), "w"))

    path = tmp_path / "model.ckpt"
    path.write_bytes(pickle.dumps(Evil()))
    assert "a Python pickle, which is never loaded" in refusal(path)
    torch = pytest.importorskip("torch")
    torch.save({"w": Evil()}, path)
    assert "a PyTorch pickle or another zip archive" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("kept", [9, 100, -1])
def test_truncated(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.ckpt"
    write_checkpoint(path, example())
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated or damaged" in refusal(path)


def test_a_truncated_file_is_no_pickle(tmp_path: Path) -> None:
    """A header length of 128 or 0x4b50 begins as a pickle or a zip archive does."""
    path = tmp_path / "model.ckpt"
    for length in (0x80, 0x4B50):
        path.write_bytes(length.to_bytes(8, "little") + b'{"w":')
        assert "truncated or damaged" in refusal(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "an empty file"),
        (b"x", "not a neurotool checkpoint"),
        (b"To be or not to be, that is the question.", "not a neurotool checkpoint"),
        (bytes(range(100, 200)), "not a neurotool checkpoint"),
        (b'{"format": 1}', "not a neurotool checkpoint"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG picture"),
        (b"\x89HDF\r\n\x1a\n\0\0\0\0", "an HDF5 file, perhaps NIR"),
        (b"PK\x03\x04 and so on", "another zip archive"),
    ],
)
def test_foreign_files_are_not_called_truncated(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(content)
    message = refusal(path)
    assert what in message and "truncated" not in message


def test_surplus_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    write_checkpoint(path, example())
    path.write_bytes(path.read_bytes() + b"\0")
    assert "damaged" in refusal(path)


def test_not_a_neurotool_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(2, np.float32)}, path)
    assert "a safetensors file, but not a neurotool checkpoint" in refusal(path)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "format version None"),
        (header(format_version=2), "format version 2, but this neurotool reads version 1"),
        (header(labels=None), "has no list 'labels'"),
        (header(config=[]), "has no dict 'config'"),
        (header(config={}), "has no model_type"),
        (header(tensors={}), "tensor w is not in the header"),
        (header(tensors={**header()["tensors"], "b": {}}), "tensor b is missing (1 of 2 in all)"),
        (header(tensors={"w": {"shape": [1, 2], "dtype": "float32"}}), "but the header says {'shape': [1, 2]"),
        (header(tensors={"w": {"shape": [2], "dtype": "int32"}}), "'dtype': 'float32'}, but the header says"),
    ],
)
def test_inconsistent_header(tmp_path: Path, metadata: str | dict[str, Any], reason: str) -> None:
    path = tmp_path / "model.ckpt"
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    save_file({"w": np.zeros(2, np.float32)}, path, {"neurotool": text})
    assert reason in refusal(path)


def test_non_finite_tensor_is_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    save_file({"w": np.array([0, np.nan], np.float32)}, path, {"neurotool": json.dumps(header())})
    assert "tensor w has 1 of 2 values that are not finite" in refusal(path)


def test_a_type_numpy_lacks_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    path = tmp_path / "model.ckpt"
    save_torch({"w": torch.zeros(2, dtype=torch.bfloat16)}, path, {"neurotool": json.dumps(header())})
    assert "tensor w has a type that numpy lacks" in refusal(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "model.ckpt"
    write_checkpoint(path, example(value=1.0))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}: cannot be written: No space left on device"):
        write_checkpoint(path, example(value=2.0))
    assert read_checkpoint(path).tensors["encoder.weight"][0, 0] == 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["model.ckpt"]


def test_a_missing_folder_and_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written: No such file or directory"):
        write_checkpoint(tmp_path / "nowhere" / "model.ckpt", example())
    with pytest.raises(CheckpointError, match="is a folder"):
        write_checkpoint(tmp_path, example())
    assert list(tmp_path.parent.glob(".*.tmp")) == []


def test_ctrl_c_while_saving_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "model.ckpt", example())
    assert list(tmp_path.iterdir()) == []


SAVE_FOREVER = """
import sys
import numpy as np
from neurotool.checkpoint import Checkpoint, write_checkpoint
value = 0
while True:
    value += 1
    tensors = {"encoder.weight": np.full(4_000_000, value, np.float32)}
    write_checkpoint(sys.argv[1], Checkpoint(tensors, {"model_type": "x"}, {}, training={"value": value}))
    print(value, flush=True)
"""


def test_a_kill_while_saving_leaves_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    for delay in (0.0, 0.013, 0.031, 0.057):  # seconds into the second save, which takes some tens of milliseconds
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"1\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        read = read_checkpoint(path)
        assert (read.tensors["encoder.weight"] == read.training["value"]).all()
