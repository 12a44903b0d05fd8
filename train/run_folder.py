"""A run's folder: whose it is now, and what its unfinished run was asked to do with which texts and teacher."""

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from neurotool.errors import ConfigError, TrainingError, shown
from neurotool.files import replacing
from neurotool.train.plan import OPTIONS, TrainingPlan
from neurotool.train.trainer import is_first_process

_OURS = re.compile(r"plan\.json|augmentation\.safetensors|(teacher|general|inner|prediction)(\.safetensors)?|\..*")
"""What the state of a run is made of."""
_WHAT = {
    "train": "the training texts are",
    "validation": "the validation texts are",
    "teacher": "the teacher is",
    "corpus": "the corpus is",
    "start": "the student that it starts from is",
}


@contextmanager
def held(plan: TrainingPlan) -> Iterator[None]:
    """The run's folder and the output belong to this process, from before anything is looked at until the end.

    The system's lock on a file decides, so that one which a killed process left behind means nothing; the file says
    who holds it. Under torchrun the first process holds it for all.

    Raises ConfigError: another process has one of them, or the folder cannot be made.
    """
    if not is_first_process():
        yield
        return
    made = [folder for folder in (plan.folder, *plan.folder.parents) if not folder.exists()]
    output = Path(os.path.realpath(plan.output))
    with ExitStack() as stack:
        try:
            plan.folder.mkdir(parents=True, exist_ok=True)
            stack.callback(_remove_empty, made)
            stack.enter_context(_locked(output.with_name(f".{output.name}.lock"), plan.output))
            stack.enter_context(_locked(plan.folder / "lock", plan.folder))
        except OSError as error:
            raise ConfigError(
                f"{plan.folder}: the run's folder cannot be made ({error.strerror}); give another with --run-folder"
            ) from error
        yield


@contextmanager
def _locked(path: Path, what: Path) -> Iterator[None]:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace")
            os.close(file)
            raise ConfigError(
                f"{what}: {holder or 'another process'} is training it; wait for its end, or give another -o and "
                "--run-folder"
            ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                break
        os.close(file)  # its holder removed it between the two calls
    try:
        os.ftruncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%F %T},".encode())
        yield
    finally:
        with suppress(OSError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                path.unlink()
        os.close(file)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def check_run(plan: TrainingPlan) -> None:
    """Whether the run can start, or the run's folder holds the unfinished run to resume.

    Raises ConfigError when something would be lost (use --force) or the resumed run was started differently.
    """
    if not is_first_process():
        return
    if plan.output.exists() and not plan.force:
        raise ConfigError(f"{plan.output} exists: --force replaces it, -o FILE writes another")
    if foreign := [path.name for path in plan.state_folder.glob("*") if not _OURS.fullmatch(path.name)]:
        raise ConfigError(
            f"{plan.state_folder} holds {shown(foreign[0])}, which no run made and starting over would remove; give "
            "another --run-folder"
        )
    record = plan.state_folder / "plan.json"
    if plan.resume:
        if not record.exists():
            raise ConfigError(f"nothing to resume in {plan.folder}: leave out --resume to start")
        _compare(plan, _read(plan))
    elif not plan.force and any(file.is_file() and file != record for file in plan.state_folder.rglob("*")):
        raise ConfigError(
            f"{plan.folder} holds an unfinished run: --resume goes on with it, --force starts over, --run-folder "
            "keeps both"
        )


def open_run(plan: TrainingPlan, identity: dict[str, str]) -> None:
    """Make the state of a new run, or compare what a resumed one reads with what it began with.

    identity: sha256 of the training and validation texts, of the teacher, of a corpus, and of a student to start from.

    Raises ConfigError where it cannot be made, or something is not the same any more.
    """
    if not is_first_process():
        return
    if plan.resume:
        _compare_identity(plan, _read(plan).get("identity"), identity)
        return
    try:
        close_run(plan)  # what is left of another run would mix with this one when it is resumed
        plan.state_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{plan.folder}: the run's folder cannot be made ({error.strerror}); give another with --run-folder"
        ) from error
    with replacing(plan.state_folder / "plan.json", force=True, error_type=ConfigError) as temporary:
        temporary.write_text(json.dumps(plan.to_dict() | {"identity": identity}, indent=1), encoding="utf-8")


@contextmanager
def state_stays(plan: TrainingPlan) -> Iterator[None]:
    """Whatever fails once the run's folder is gone fails since it is gone: a TrainingError says that."""
    try:
        yield
    except Exception as error:
        time.sleep(0.5)  # who removes a folder takes a moment for it: what failed may be the first file that is gone
        check_state(plan, error)
        raise


def check_state(plan: TrainingPlan, cause: Exception | None = None) -> None:
    """Raises TrainingError where the state of an opened run is gone: its plan is, since the folder comes back with the
    next file that is written."""
    if not (plan.state_folder / "plan.json").exists():
        raise TrainingError(
            f"{plan.folder}: the run's folder was removed while it trained; train again, perhaps with --run-folder"
        ) from cause


def close_run(plan: TrainingPlan) -> None:
    """Remove the state to resume from, the record first, so that half of it is never taken for a run."""
    (plan.state_folder / "plan.json").unlink(missing_ok=True)
    shutil.rmtree(plan.state_folder, ignore_errors=True)


def _read(plan: TrainingPlan) -> dict[str, Any]:
    try:
        before = json.loads((plan.state_folder / "plan.json").read_text(encoding="utf-8"))
        if isinstance(before, dict) and isinstance(before.get("student"), dict):
            return before
    except (OSError, ValueError, RecursionError):
        pass
    raise ConfigError(
        f"cannot resume {plan.folder}: {plan.state_folder.name}/plan.json is damaged; give --force in place of "
        "--resume to start over"
    )


def _compare(plan: TrainingPlan, before: dict[str, Any]) -> None:
    now = plan.to_dict()
    before, now = before | before["student"], now | now["student"]
    for name in dict.fromkeys([*now, *before]):
        if name not in ("student", "identity") and now.get(name) != before.get(name):
            setting = OPTIONS.get(name, name)
            raise ConfigError(
                f"cannot resume {plan.folder}: {setting} was {shown(before.get(name))} and is now "
                f"{shown(now.get(name))}; give the same options, or --force in place of --resume to start over"
            )


def _compare_identity(plan: TrainingPlan, before: Any, now: dict[str, str]) -> None:
    before = before if isinstance(before, dict) else {}
    for name, digest in now.items():
        if before.get(name) != digest:
            was = str(before.get(name, "unknown"))[:8]
            raise ConfigError(
                f"cannot resume {plan.folder}: {_WHAT[name]} not what it began with (sha256 {was} then, {digest[:8]} "
                "now); put that back, or give --force in place of --resume to start over"
            )
