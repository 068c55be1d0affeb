"""What goes wrong while training: one clear line, and the last state is whole and goes on."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import shlex
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_data import small_config, tiny_network, write_pairs

from refine.errors import CheckpointError, ConfigError, InputError
from refine.models.checkpoint import load_model
from refine.train import TrainRequest, train_network
from refine.training.config import TrainingConfig, parse_config
from refine.training.dry_run import dry_run
from refine.training.log import Log
from refine.training.loss_config import Terms
from refine.training.own_folder import LOCK, UNFINISHED
from refine.training.run import NEWEST, build_network, run_training
from refine.training.samples import Sample, WindowSamples
from refine.training.state import read_state, states
from refine.validation import make_validator

pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(root: Path, *, steps: int = 6, **data: object) -> TrainingConfig:
    """A state every other step."""
    pairs = root / "pairs"
    raw = small_config(
        pairs if pairs.exists() else write_pairs(pairs),
        model=tiny_network("mos_h_lite", 64),
        checkpoint={"every": 2, "log_every": 1},
        schedule={"steps": steps, "batch": 2, "warmup_steps": 2},
    )
    raw["data"] = [{"name": "shapes", "path": str(pairs), **data}]
    return parse_config(raw, "test")


def train_here(
    config: TrainingConfig,
    run: Path,
    *,
    workers: int = 0,
    resume: Path | None = None,
    extend: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    return run_training(
        config,
        run,
        device="cpu",
        precision="fp32",
        workers=workers,
        resume=resume,
        extend=extend,
        should_stop=should_stop,
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_in_the_middle_is_named_and_training_goes_on_afterwards(
    tmp_path: Path, workers: int
) -> None:
    config, run = config_of(tmp_path, steps=40, in_memory=False), tmp_path / "run"
    broken = tmp_path / "pairs" / "shapes" / "01.jpg"
    whole = broken.read_bytes()

    def break_it() -> bool:
        """Called after every step; from the third on the image is cut."""
        if states(run):
            broken.write_bytes(whole[:10])
        return False

    with pytest.raises(InputError) as stopped:
        train_here(config, run, workers=workers, should_stop=break_it)
    assert str(stopped.value) == (
        "shapes/01: the image does not decode; the last state is whole, mend the file and go on with --resume"
    )
    assert multiprocessing.active_children() == []
    broken.write_bytes(whole)
    (newest, *_) = states(run)
    step = read_state(newest)[1].step
    asked = iter([False, True])
    assert not train_here(config, run, workers=workers, resume=NEWEST, should_stop=lambda: next(asked))
    assert read_state(states(run)[0])[1].step == step + 2


def test_a_full_disk_leaves_the_last_state_whole(tmp_path: Path) -> None:
    """Files may grow to one byte less than a state has."""
    config, run = config_of(tmp_path), tmp_path / "run"
    asked = iter([False, True])
    assert not train_here(config, run, should_stop=lambda: next(asked))
    (kept,) = states(run)
    before = kept.read_bytes()

    here, there = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_on_a_full_disk, args=(config, run, len(before), there))
    child.start()
    there.close()  # the child has its own: where that ends without a word, the next line does not wait for ever
    message = here.recv()
    child.join(timeout=120)
    here.close()
    assert "the state was not saved" in message
    assert message.endswith("the one before it is whole")
    assert states(run) == [kept]
    assert kept.read_bytes() == before
    assert [path.name for path in run.glob(".*")] == [LOCK]
    assert train_here(config, run, resume=NEWEST)
    assert states(run)[0].name == "state-00000006.safetensors"


def _on_a_full_disk(config: TrainingConfig, run: Path, size: int, answer: Connection) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with an error instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))
    try:
        train_here(config, run, resume=NEWEST)
    except CheckpointError as error:
        answer.send(str(error))


def test_a_missing_set_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.shapes: layout duts needs the folder"):
        train_here(config_of(tmp_path, layout="duts"), tmp_path / "run")
    with pytest.raises(InputError, match=r"data\.shapes\.sets: there is no cubes in .*pairs; it holds shapes$"):
        train_here(config_of(tmp_path, sets=["shapes", "cubes"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("output", "meant"),
    [("s9", ""), ("finla", "is final meant? ")],
)
def test_a_loss_of_an_output_that_is_not_there_is_refused_before_data_is_read(
    tmp_path: Path, output: str, meant: str
) -> None:
    config = config_of(tmp_path)
    loss = config.loss.model_copy(update={"outputs": {**config.loss.outputs, output: Terms(bce=1.0)}})
    data = [config.data[0].model_copy(update={"path": str(tmp_path / "nowhere")})]
    wrong = config.model_copy(update={"loss": loss, "data": data})
    for begin in (lambda: train_here(wrong, tmp_path / "run"), lambda: dry_run(wrong, device="cpu", workers=0)):
        with pytest.raises(ConfigError) as refused:
            begin()
        said = f"loss.outputs.{output}: the network has no such output; {meant}it has s16, s8, s4, final"
        assert str(refused.value) == said


@pytest.mark.parametrize("layout", ["sets", "folders"])
def test_masks_of_zeros_and_ones_are_not_taken_for_empty_ones(tmp_path: Path, layout: str) -> None:
    config = config_of(tmp_path, layout=layout, images="shapes", masks="shapes")
    for path in (tmp_path / "pairs" / "shapes").glob("*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        cv2.imwrite(str(path), (mask > 0).astype(np.uint8))
    with pytest.raises(InputError, match=r"4 of 4 pairs cannot be used: the mask holds 0 and 1 where 0 and 255 are"):
        train_here(config, tmp_path / "run")


def test_weights_to_start_from_that_do_not_fit_the_options_are_refused_by_what_differs(tmp_path: Path) -> None:
    config, run = config_of(tmp_path), tmp_path / "run"
    assert not train_here(config, run, should_stop=lambda: True)
    options = {**config.model.options, "point_width": 8, "reach_gate": True}
    model = config.model.model_copy(update={"init": str(run / "last.safetensors"), "options": options})
    with pytest.raises(ConfigError, match=r"last\.safetensors has reach_gate False, point_width 4; give model\."):
        build_network(config.model_copy(update={"model": model}))


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    config, run = config_of(tmp_path), tmp_path / "run"
    refused: list[str] = []

    def begin_another() -> bool:
        """Called after each step: a fork, since a process may lock what it has locked."""
        here, there = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=_in_the_same_folder, args=(config, run, there))
        child.start()
        there.close()
        refused.append(here.recv())
        child.join(timeout=60)
        here.close()
        return True

    assert not train_here(config, run, should_stop=begin_another)
    assert refused == [f"{run}: another process trains in it; wait for it, stop it, or give another --run"]
    assert [path.name for path in states(run)] == ["state-00000001.safetensors"]


def _in_the_same_folder(config: TrainingConfig, run: Path, answer: Connection) -> None:
    try:
        train_here(config, run)
    except InputError as error:
        answer.send(str(error))


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    """safetensors writes a state under a name of its own, beside its place."""
    config, run = config_of(tmp_path), tmp_path / "run"
    (run / UNFINISHED).mkdir(parents=True)
    left = [run / UNFINISHED / ".tmpJZGzFJ", run / ".last.safetensors.77.tmp"]
    for path in left:
        path.write_bytes(b"half")
    assert not train_here(config, run, should_stop=lambda: True)
    assert [path.name for path in run.glob(".*")] == [LOCK]


def test_a_run_killed_before_its_release_releases_what_it_has_learnt_last(tmp_path: Path) -> None:
    """Stopped once before, it has an older checkpoint."""
    config, run = config_of(tmp_path), tmp_path / "run"
    assert not train_here(config, run, should_stop=lambda: True)
    older = (run / "last.safetensors").read_bytes()
    assert train_here(config, run, resume=NEWEST)
    wanted = (run / "last.safetensors").read_bytes()
    (run / "last.safetensors").write_bytes(older)
    assert train_here(config, run, resume=NEWEST)
    assert (run / "last.safetensors").read_bytes() == wanted != older
    with pytest.raises(InputError, match="is finished; add --extend"):
        train_here(config, run, resume=NEWEST)


def test_a_state_that_is_cut_is_named_and_the_one_before_it_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = config_of(tmp_path), tmp_path / "run"
    train_here(config, run)
    newest, before = states(run)
    newest.write_bytes(newest.read_bytes()[:5000])
    assert train_here(config, run, resume=NEWEST)
    said = capsys.readouterr().err
    assert f"{newest}: not a readable training state" in said
    assert said.rstrip().endswith(f"; {before.name} is taken")


def test_encoder_weights_that_are_gone_are_still_known_by_their_digest(tmp_path: Path) -> None:
    config, run = config_of(tmp_path), tmp_path / "run"
    encoder = build_network(config)[0].get_submodule("encoder").state_dict()
    weights = tmp_path / "encoder.pth"
    torch.save({name.removeprefix("net."): tensor for name, tensor in encoder.items()}, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    config = config.model_copy(update={"model": config.model.model_copy(update={"encoder_weights": str(weights)})})
    assert not train_here(config, run, should_stop=lambda: True)
    weights.unlink()
    assert train_here(config, run, resume=NEWEST)
    metadata = load_model(run / "last.safetensors")[1]
    assert (metadata.step, metadata.training["encoder_weights_sha256"]) == (6, digest)


def test_encoder_weights_that_are_not_there_are_said_with_what_to_do(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    model = config.model.model_copy(update={"encoder_weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(ConfigError, match=r"there is no .*none.safetensors; .* null to start at random"):
        run_training(config.model_copy(update={"model": model}), tmp_path / "run", device="cpu")


def test_what_cannot_be_scored_leaves_no_run_folder(tmp_path: Path) -> None:
    def refuse(_config: TrainingConfig, _before_each: Callable[[], None]) -> Callable[[Path], dict[str, float]]:
        raise InputError("nothing to score")

    config = config_of(tmp_path)
    validation = config.validation.model_copy(update={"every": 2})
    with pytest.raises(InputError, match="nothing to score"):
        run_training(
            config.model_copy(update={"validation": validation}), tmp_path / "run", device="cpu", make_validator=refuse
        )
    assert not (tmp_path / "run").exists()


def test_a_state_that_a_later_one_in_the_folder_would_outlive_is_refused(tmp_path: Path) -> None:
    config, run, other = config_of(tmp_path), tmp_path / "run", tmp_path / "other"
    assert train_here(config, run)
    newest, before = states(run)
    train_here(config, other, should_stop=lambda: True)
    (elsewhere,) = states(other)
    for start in (before, elsewhere):
        with pytest.raises(InputError, match=rf"run: holds {newest.name}, .* another --run to go on from {start}$"):
            train_here(config, run, resume=start)
    assert train_here(config, tmp_path / "third", resume=before)
    assert train_here(config, other, resume=elsewhere)


def test_the_command_that_goes_on_has_the_options_that_the_run_was_given(tmp_path: Path) -> None:
    raw = small_config(tmp_path / "nowhere", model=tiny_network("mos_h_lite", 64))
    config, run = tmp_path / "small.json", tmp_path / "a run"
    config.write_text(json.dumps(raw))
    data = {"shapes": str(write_pairs(tmp_path / "my pairs"))}
    said = train_network(
        TrainRequest(config, run, data, device="cpu", precision="fp32", workers=0, stop_after_minutes=1e-9)
    )
    assert shlex.split(said.partition("go on with: ")[2]) == [
        "python", "train.py", "--config", str(config), "--run", str(run), "--data", f"shapes={data['shapes']}",
        "--device", "cpu", "--precision", "fp32", "--workers", "0", "--resume",
    ]  # fmt: skip


@pytest.mark.parametrize("place", [0.3, 0.6, 0.95])
def test_a_state_with_a_flipped_bit_is_named_and_the_one_before_it_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: float
) -> None:
    config, run = config_of(tmp_path), tmp_path / "run"
    train_here(config, run)
    newest, before = states(run)
    content = bytearray(newest.read_bytes())
    content[int(place * len(content))] ^= 4
    newest.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged: its content is not what was saved"):
        read_state(newest)
    assert train_here(config, run, resume=NEWEST)
    said = f"{newest}: damaged: its content is not what was saved; {before.name} is taken"
    assert said in capsys.readouterr().err


def test_states_may_be_read_by_whom_the_folder_may(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_here(config_of(tmp_path), run, should_stop=lambda: True)
    assert {path.stat().st_mode for path in (states(run)[0], run / "last.safetensors")} == {
        (run / "config.json").stat().st_mode
    }


def test_an_error_of_a_worker_that_nobody_expected_leaves_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would wait for it when it leaves."""

    def fail(_samples: WindowSamples, _index: int) -> Sample:
        raise ZeroDivisionError

    config = config_of(tmp_path)
    monkeypatch.setattr(WindowSamples, "__getitem__", fail)
    with pytest.raises(ZeroDivisionError) as held:
        train_here(config, tmp_path / "run", workers=1)
    assert multiprocessing.active_children() == []
    assert held.tb is not None  # it is this that would hold them


def test_a_worker_that_is_killed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, make = tmp_path / "run", WindowSamples.__getitem__

    def die(samples: WindowSamples, index: int) -> Sample:
        if states(run):
            os.kill(os.getpid(), signal.SIGKILL)
        return make(samples, index)

    config = config_of(tmp_path, steps=100)
    monkeypatch.setattr(WindowSamples, "__getitem__", die)
    # The signal that says so may come where nobody hears it, in a destructor; then the loader finds out by itself.
    said = (
        r"a worker of the loader was lost \((Killed|it has ended)\): out of memory\? give fewer --workers;"
        " the last state is whole, go on with --resume"
    )
    with pytest.raises(InputError, match=f"^{said}$"):
        train_here(config, run, workers=1)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), EOFError()])
def test_a_worker_that_is_killed_while_its_batch_is_on_the_way_is_the_same_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(*_: object) -> Iterator[Sample]:
        raise error

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", broken)
    with pytest.raises(
        InputError, match=r"^a worker of the loader was lost \(it has ended\): out of memory\? give fewer"
    ):
        train_here(config_of(tmp_path), tmp_path / "run")


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_terminal_that_closes_ends_a_run_as_sigterm_does(tmp_path: Path, is_ignored: bool) -> None:
    """But not one that nohup started."""

    def hang_up() -> bool:
        os.kill(os.getpid(), signal.SIGHUP)
        return False

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else lambda *_: None)
    try:
        assert train_here(config_of(tmp_path), tmp_path / "run", should_stop=hang_up) == is_ignored
    finally:
        signal.signal(signal.SIGHUP, before)
    assert read_state(states(tmp_path / "run")[0])[1].step == (6 if is_ignored else 2)


def test_what_stops_a_run_before_its_first_state_does_not_speak_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_samples: WindowSamples, _index: int) -> Sample:
        raise InputError("shapes/01: broken")

    config = config_of(tmp_path)
    monkeypatch.setattr(WindowSamples, "__getitem__", fail)
    with pytest.raises(InputError, match=r"^shapes/01: broken$"):
        train_here(config, tmp_path / "run", workers=1)


def test_a_log_that_was_cut_or_goes_beyond_the_state_is_cut_back(tmp_path: Path) -> None:
    config, run = config_of(tmp_path), tmp_path / "run"
    asked = iter([False, False, True])
    assert not train_here(config, run, should_stop=lambda: next(asked))
    with (run / "log.jsonl").open("a") as lines:
        lines.write('{"group": "train", "step": 4, "loss": 1}\n{"group": "tra')
    assert train_here(config, run, resume=NEWEST)
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_a_log_that_is_whole_is_left_alone(tmp_path: Path) -> None:
    lines = tmp_path / "log.jsonl"
    lines.write_text('{"group": "train", "step": 4}\n')
    before = lines.stat()
    Log(tmp_path, 4).close()
    assert (lines.stat().st_ino, lines.stat().st_size) == (before.st_ino, before.st_size)


def test_a_finished_state_is_released_into_a_new_folder(tmp_path: Path) -> None:
    config, run, new = config_of(tmp_path), tmp_path / "run", tmp_path / "deep" / "new"
    train_here(config, run)
    assert train_here(config, new, resume=states(run)[0])
    assert (new / "last.safetensors").read_bytes() == (run / "last.safetensors").read_bytes()


def test_a_checkpoint_that_is_cut_is_released_anew_and_a_shorter_schedule_refused(tmp_path: Path) -> None:
    config, run = config_of(tmp_path), tmp_path / "run"
    train_here(config, run)
    released = run / "last.safetensors"
    whole = released.read_bytes()
    released.write_bytes(whole[:3000])
    with pytest.raises(InputError, match="schedule of 5 steps is finished; add --extend STEPS, more than the 6 that"):
        train_here(config, run, resume=NEWEST, extend=5)
    assert train_here(config, run, resume=NEWEST)
    assert released.read_bytes() == whole


def test_a_mistyped_option_of_the_network_is_named_with_what_is_meant(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    model = config.model.model_copy(update={"options": {**config.model.options, "reach_gat": True}})
    with pytest.raises(ConfigError, match=r"^model\.options\.reach_gat: unknown key; is reach_gate meant\?$"):
        build_network(config.model_copy(update={"model": model}))


def test_a_truth_encoder_is_scored_on_the_device_that_was_asked_for(tmp_path: Path) -> None:
    listed = tmp_path / "held.csv"
    listed.write_text("set,id\nshapes,01\n")
    raw = small_config(write_pairs(tmp_path / "pairs"), model={"architecture": "gt_encoder", "size": 64})
    raw["validation"] = {"held_out": str(listed), "every": 2}
    score = make_validator(parse_config(raw, "test"), device="nowhere")
    with pytest.raises(InputError, match="--device nowhere"):
        score(tmp_path / "none.safetensors")
