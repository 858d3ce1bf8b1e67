"""Results are sent so that the store always has a run that can be resumed."""

import random
import time
from pathlib import Path

import pytest
from unreliable_store import UnreliableStore

from mindloc.errors import StoreError
from mindloc.modelarts.outgoing import Kind, Outgoing, kind_of

OUT = "obs://bucket/out"


@pytest.fixture
def run(tmp_path) -> Path:
    directory = tmp_path / "run"
    write(directory, "config.yaml", "metrics.jsonl", "log.txt")
    return directory


@pytest.fixture
def store() -> UnreliableStore:
    return UnreliableStore()


def write(run: Path, *names: str) -> None:
    for name in names:
        path = run / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def write_checkpoint(run: Path, stem: str) -> None:
    write(run, f"checkpoints/{stem}.safetensors", f"checkpoints/{stem}.state.safetensors")


def drop_checkpoint(run: Path, stem: str) -> None:
    for suffix in (".state.safetensors", ".safetensors"):
        (run / f"checkpoints/{stem}{suffix}").unlink()


def outgoing(store: UnreliableStore, run: Path) -> Outgoing:
    (run.parent / "logs").mkdir(exist_ok=True)
    return Outgoing(store, OUT, run, run.parent / "logs", "logs/now", every_s=0.05)


def test_kinds_follow_from_names():
    assert kind_of("checkpoints/weights_e3_0.5.state.safetensors") == Kind.STATE
    assert kind_of("checkpoints/weights_e3_0.5.safetensors") == Kind.WEIGHTS
    assert kind_of("checkpoints/weights_end.safetensors") == Kind.NAMED
    assert kind_of("checkpoints/weights_best.safetensors") == Kind.NAMED
    assert kind_of("metrics.jsonl") == Kind.REST
    assert kind_of("reports/e3/report.json") == Kind.REPORT


def test_weights_and_metrics_are_sent_before_the_state_that_needs_them(run, store):
    write_checkpoint(run, "weights_e1_0.5")
    write(run, "checkpoints/weights_best.safetensors", "reports/e1/report.json")
    assert outgoing(store, run).look() == []
    assert store.calls == [
        "send config.yaml",
        "send log.txt",
        "send metrics.jsonl",
        "send checkpoints/weights_e1_0.5.safetensors",
        "send checkpoints/weights_best.safetensors",
        "send checkpoints/weights_e1_0.5.state.safetensors",
        "send reports/e1/report.json",
    ]


def test_descriptors_of_a_search_for_neighbors_are_not_sent(run, store):
    write(run, "neighbors/drone/descriptors.npy", "neighbors/.satellite.partial/rows.jsonl")
    assert outgoing(store, run).look() == []
    assert not [line for line in store.calls if "neighbors" in line]


def test_only_what_changed_is_sent_again(run, store):
    out = outgoing(store, run)
    out.look()
    store.calls.clear()
    with open(run / "metrics.jsonl", "a") as file:
        file.write("more")
    (run.parent / "logs" / "rank_0.log").write_text("words")
    out.look()
    assert store.calls == ["send logs/now/rank_0.log", "send metrics.jsonl"]
    assert store.objects[f"{OUT}/metrics.jsonl"] == b"metrics.jsonlmore"


def test_files_that_are_being_written_are_not_sent(run, store):
    write(run, "checkpoints/.weights_e1.safetensors.77.tmp", "reports/e1/query/descriptors.npy")
    write(run, ".lock", "reports/.e1.lock", "reports/e1/.query.77.partial/descriptors.npy")
    out = outgoing(store, run)
    out.look()
    assert not any("reports" in name for name in store.calls)
    write(run, "reports/e1/report.json")
    out.look()
    assert "send reports/e1/query/descriptors.npy" in store.calls
    assert not any(part.startswith(".") for call in store.calls for part in call.split(" ")[1].split("/"))


def test_the_last_look_also_sends_an_unfinished_evaluation(run, store):
    write(run, "reports/e1/query/descriptors.npy")
    outgoing(store, run).finish()
    assert f"{OUT}/reports/e1/query/descriptors.npy" in store.objects


def test_dropped_checkpoints_are_deleted_once_the_newer_one_is_sent(run, store):
    write_checkpoint(run, "weights_e1")
    out = outgoing(store, run)
    out.look()
    drop_checkpoint(run, "weights_e1")
    write_checkpoint(run, "weights_e2")
    store.failing = {"e2.state"}
    out.look()
    assert "checkpoints/weights_e1.state.safetensors" in store.names(OUT)  # what can be resumed stays
    store.failing = set()
    store.calls.clear()
    out.look()
    assert store.calls == [
        "send checkpoints/weights_e2.state.safetensors",
        "remove checkpoints/weights_e1.state.safetensors",
        "remove checkpoints/weights_e1.safetensors",
    ]
    assert [name for name in store.names(OUT) if "weights" in name] == [
        "checkpoints/weights_e2.safetensors",
        "checkpoints/weights_e2.state.safetensors",
    ]


def test_a_checkpoint_dropped_while_others_are_sent_deletes_no_other(run, store):
    """keep_checkpoints=1: e2 is gone again before it was sent, and e3 is not seen before the next look."""
    write_checkpoint(run, "weights_e1")
    out = outgoing(store, run)
    out.look()
    drop_checkpoint(run, "weights_e1")
    write_checkpoint(run, "weights_e2")
    (run / "metrics.jsonl").write_text("longer than before")

    def meanwhile(name):
        if name == "metrics.jsonl":
            drop_checkpoint(run, "weights_e2")
            write_checkpoint(run, "weights_e3")

    store.on_send = meanwhile
    out.look()
    assert "checkpoints/weights_e1.state.safetensors" in store.names(OUT)
    out.look()
    assert [name for name in store.names(OUT) if ".state." in name] == ["checkpoints/weights_e3.state.safetensors"]


def test_a_resumed_run_drops_what_an_earlier_job_left(run, store):
    for name in ("weights_e1.safetensors", "weights_e1.state.safetensors", "weights_end.safetensors"):
        store.objects[f"{OUT}/checkpoints/{name}"] = b"earlier"
    write_checkpoint(run, "weights_e2")
    outgoing(store, run).look()
    left = [name for name in store.names(OUT) if "weights_e" in name]
    assert left == [
        "checkpoints/weights_e2.safetensors",
        "checkpoints/weights_e2.state.safetensors",
        "checkpoints/weights_end.safetensors",
    ]


def test_a_run_directory_without_checkpoints_drops_nothing(run, store):
    """An evaluation writes its report into the directory of the training."""
    store.objects[f"{OUT}/checkpoints/weights_e1.state.safetensors"] = b"state"
    outgoing(store, run).finish()
    assert "checkpoints/weights_e1.state.safetensors" in store.names(OUT)


def test_no_state_is_sent_before_its_weights(run, store, without_pauses):
    write_checkpoint(run, "weights_e1")
    write(run, "reports/e1/report.json")
    store.failing = {"weights_e1.safetensors"}
    out = outgoing(store, run)
    assert out.look() == ["checkpoints/weights_e1.safetensors", "checkpoints/weights_e1.state.safetensors"]
    with pytest.raises(StoreError, match=r"2 files have not reached obs://bucket/out \(checkpoints/weights_e1"):
        out.finish()
    assert not any(".state." in name for name in store.names(OUT))
    assert f"{OUT}/reports/e1/report.json" in store.objects  # the rest is sent


def test_a_file_that_keeps_failing_does_not_delay_its_kind(run, store):
    store.failing = {"config.yaml"}
    out = outgoing(store, run)
    assert out.look() == ["config.yaml"]
    assert out.look() == ["config.yaml"]
    assert store.names(OUT) == ["log.txt", "metrics.jsonl"]


def test_an_upload_that_lost_its_end_is_sent_again(run, store, capsys):
    store.loses_the_end = True
    out = outgoing(store, run)
    assert out.look() == ["config.yaml"]
    assert "has 10 bytes, but 11 were sent" in capsys.readouterr().out
    store.loses_the_end = False
    assert out.look() == []
    assert store.objects[f"{OUT}/config.yaml"] == b"config.yaml"


def test_the_thread_sends_while_the_training_runs_and_survives_failures(run, store):
    store.failing = {""}  # part of every name
    out = outgoing(store, run)
    out.start()
    while len(store.calls) < 3:
        time.sleep(0.01)
    store.failing = set()
    while f"{OUT}/metrics.jsonl" not in store.objects:
        time.sleep(0.01)
    out.finish()
    assert store.names(OUT) == ["config.yaml", "log.txt", "metrics.jsonl"]


class Training:
    """Writes a run as the checkpoint callback does: metrics, weights, state; then it deletes old checkpoints."""

    def __init__(self, run: Path, keep: int):
        self.run, self.keep, self.lines, self.epoch = run, keep, 0, 0
        (run / "checkpoints").mkdir()

    def step(self) -> None:
        self.lines += 1
        with open(self.run / "metrics.jsonl", "a") as metrics:
            metrics.write("line\n")

    def checkpoint(self) -> None:
        self.epoch += 1
        directory = self.run / "checkpoints"
        (directory / f"weights_e{self.epoch}.safetensors").write_text(f"{self.epoch}")
        (directory / f"weights_e{self.epoch}.state.safetensors").write_text(f"{self.epoch} {self.lines}")
        if self.epoch > self.keep:
            drop_checkpoint(self.run, f"weights_e{self.epoch - self.keep}")


def newest_epoch(store: UnreliableStore) -> int:
    """The checkpoint at which the store's run would continue, 0 without one, after a check that it could."""
    epochs = [0]
    for name in store.names(OUT):
        if ".state." in name:
            epoch, lines = map(int, store.objects[f"{OUT}/{name}"].split())
            assert store.objects[f"{OUT}/{name.replace('.state', '')}"] == str(epoch).encode(), "weights of another"
            assert store.objects[f"{OUT}/metrics.jsonl"].count(b"line\n") >= lines
            epochs.append(epoch)
    return max(epochs)


@pytest.mark.parametrize("seed", range(40))
def test_whenever_the_job_is_cut_off_the_store_has_a_run_that_can_be_resumed(run, store, seed):
    dice = random.Random(seed)
    (run / "metrics.jsonl").write_text("")
    training, reached = Training(run, keep=dice.choice([1, 2, 3])), [0]

    def check_and_continue(name):
        epoch = newest_epoch(store)
        assert epoch >= reached[-1]
        reached.append(epoch)
        for _ in range(dice.choice([0, 0, 1, 3])):
            dice.choice([training.step, training.step, training.checkpoint])()

    store.on_send = check_and_continue
    out = outgoing(store, run)
    for _ in range(12):
        store.failing = (
            {dice.choice(["metrics", "state", f"e{training.epoch}.safetensors"])} if dice.random() < 0.4 else set()
        )
        training.step()
        out.look()
        check_and_continue("")
    store.failing, store.on_send = set(), lambda name: None
    training.checkpoint()
    out.finish()
    assert newest_epoch(store) == training.epoch
    here = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert set(store.names(OUT)) == here
