"""The comparison with a peer, with values by hand; and each script of speed and memory, run once on a tiny case."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import report
import turns
from encoder_cases import Case
from loader import make_images

PROJECT = Path(__file__).parents[2]
SCRIPTS = PROJECT / "benchmarks"
PEER_VARIABLE = "MINDLOC_PEER"  # an interpreter that has requirements-peer.txt
TINY = "tiny:32:2"

STAND_IN = """
import json, sys
request = sys.argv[-1]
if "importlib" in request:
    print("[]")
elif "side_px" in request and "timed" in request:
    workers = json.loads(request)["workers"]
    print(json.dumps({"workers": workers, "images_per_s": 10.0 * workers, "cpu_ms_per_image": 4.0, "memory_mib": 100.0,
                      "versions": {"torch": "0"}}))
else:
    print(json.dumps({"first_s": 1.0, "seconds": [2.0, 4.0, 3.0], "peak_mib": 100.0, "form": "one forward",
                      "versions": {"torch": "0"}}))
"""


@pytest.fixture
def stand_in(tmp_path):
    """A simulated interpreter with PyTorch, which reports known figures for any request."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{STAND_IN}")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def run(tmp_path):
    """Function that runs a script and returns (what it wrote to --json, what it printed)."""

    def run_script(name, *words):
        out = tmp_path / "result.json"
        command = [sys.executable, str(SCRIPTS / name), *map(str, words), "--json", str(out)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(out.read_text()), done.stdout

    return run_script


def assert_origin(result):
    assert result["cores"] == len(os.sched_getaffinity(0)) and len(result["load"]) == 3
    assert {"python", "mindspore", "numpy"} <= set(result["versions"])
    assert "cores" in result["machine"]


# ---- turns


def test_ratios_are_taken_run_by_run():
    # 2 / 4, 3 / 3, 8 / 4: their median is 1; the ratio of the medians would be 3 / 4
    found = turns.Comparison([2.0, 3.0, 8.0], [4.0, 3.0, 4.0], [0.0] * 6).summary
    assert found["ratio_median"] == 1.0 and (found["ratio_least"], found["ratio_most"]) == (0.5, 2.0)
    assert (found["ours_median"], found["peer_median"]) == (3.0, 4.0)
    assert turns.ratio_cells(found) == ["3.00", "4.00", "1.00 (0.50 to 2.00)"]


def test_two_programs_take_turns(tmp_path):
    log = tmp_path / "log"
    commands = [
        [sys.executable, "-c", f"open({str(log)!r}, 'a').write('{side}'); print('words'); print('{{\"side\": 1}}')"]
        for side in "AB"
    ]
    results, loads = turns.take_turns(commands, 3)
    assert log.read_text() == "ABABAB"
    assert results == [[{"side": 1}] * 3] * 2
    assert len(loads) == 6


def reporting(*seconds, log=None):
    """A command that reports these seconds, and writes to ``log`` that it ran."""
    note = f"open({str(log)!r}, 'a').write('x'); " if log else ""
    return [sys.executable, "-c", f"{note}print('{{\"seconds\": {list(seconds)}}}')"]


def test_the_fastest_form_has_the_lowest_median():
    # medians 3, 2 and 4; the lowest single figure, 1, belongs to "b"
    assert turns.fastest({"b": reporting(1, 3, 9), "a": reporting(2, 2, 2), "c": reporting(4)}) == "a"


def test_a_single_form_is_not_tried(tmp_path):
    assert turns.fastest({"only": reporting(1, log=tmp_path / "log")}) == "only"
    assert not (tmp_path / "log").exists()


def test_a_run_that_fails_is_reported_with_its_last_words():
    with pytest.raises(SystemExit, match="no such card"):
        turns.run_case([sys.executable, "-c", "raise SystemExit('no such card')"])


@pytest.mark.parametrize("python", [sys.executable, "/nowhere/python"])
def test_a_peer_that_lacks_something_is_reported_with_the_way_out(python):
    with pytest.raises(SystemExit, match="requirements-peer.txt") as caught:
        turns.require_peer(python, ("json", "no_such_module"))
    assert "json" not in str(caught.value).replace("result.json", "")
    assert python in str(caught.value)


def test_without_a_peer_nothing_is_checked():
    turns.require_peer(None, ("no_such_module",))


def test_a_case_is_read_from_three_words():
    case = Case.parse("base:384:2")
    assert (case.backbone, case.side_px, case.batch_size) == ("base", 384, 2)
    config = case.config()
    assert config.view("query").size_px == config.view("reference").size_px == (384, 384)
    assert config.train.batch_size == 2 and config.model.backbone == "base"
    with pytest.raises(Exception, match="expected BACKBONE:PIXELS:BATCH"):
        Case.parse("base:384")


# ---- commands of the project


def test_settings_come_before_the_changes_of_a_user():
    words = report.set_words({"train.seed": 3}, ["train.seed=4"])
    assert words == ["--set", "train.seed=3", "--set", "train.seed=4"]


def test_a_command_that_fails_is_reported_and_its_log_kept(tmp_path):
    with pytest.raises(SystemExit, match="no such tile"):
        report.run_command(["-c", "print('started'); raise SystemExit('no such tile')"], tmp_path / "a" / "log")
    assert (tmp_path / "a" / "log").read_text().split("\n") == ["started", "no such tile", ""]


def test_a_world_is_made_once(tmp_path, monkeypatch):
    request = []
    monkeypatch.setattr(report, "run_command", request.append)
    report.make_world(tmp_path, ["--seed", "1"])
    assert request[0][:5] == ["-m", "mindloc", "world", str(tmp_path), "--seed"]
    (tmp_path / "world.json").touch()
    report.make_world(tmp_path, ["--seed", "1"])
    assert len(request) == 1


# ---- memory and processor time


def test_memory_counts_what_a_process_uses():
    before, array = turns.memory_mib(), np.ones(2**23)  # 64 MiB
    assert 60 < turns.memory_mib() - before < 80
    assert turns.peak_mib() >= turns.memory_mib() - 20
    del array


def test_processor_time_of_a_child_is_counted():
    burn = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint('burnt', flush=True)\nsys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", burn], text=True, **pipes) as child:
        try:
            assert child.stdout.readline() == "burnt\n"
            assert turns.cpu_s([child.pid]) - turns.cpu_s() > 0.25  # counted in hundredths
        finally:
            child.kill()


def test_generated_images_have_as_many_bytes_as_aerial_images(tmp_path):
    made = make_images(tmp_path, 4)
    for paths, pixels in ((made["query"], 384 * 512), (made["reference"], 256 * 256)):
        share = np.mean([path.stat().st_size for path in paths]) / pixels
        assert 0.15 < share < 0.6


def test_a_table_is_markdown(capsys):
    report.print_table(["a", "b"], [[1, 2.5]])
    assert capsys.readouterr().out == "| a | b |\n|---|--:|\n| 1 | 2.5 |\n"


# ---- scripts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train_step.py", "extraction.py"])
def test_work_of_the_encoder_beside_a_peer(run, stand_in, name):
    result, text = run(name, "--cases", TINY, "--fusion", "never", "--runs", 1, "--rounds", 1, "--peer", stand_in)
    assert_origin(result)
    (case,) = result["cases"]
    (ours,) = case["ours"]
    assert len(ours["seconds"]) == 1 and ours["first_s"] > 0 and ours["seconds"][0] > 0 and ours["peak_mib"] > 100
    assert case["median_s"]["peer"] == [3.0]  # of 2, 4 and 3
    assert case["median_s"]["ratio_median"] == pytest.approx(ours["seconds"][0] / 3)
    assert case["peak_mib"]["ratio_median"] == pytest.approx(ours["peak_mib"] / 100)
    assert "| tiny, 32 px, batch 2 |" in text and "ours / PyTorch" in text


@pytest.mark.slow
def test_the_loader_beside_a_peer(run, stand_in):
    words = ["--size", 32, "--batch-size", 2, "--batches", 2, "--workers", 1, "--rounds", 1, "--peer", stand_in]
    result, text = run("loader.py", *words)
    assert_origin(result)
    names = [case["case"] for case in result["cases"]]
    assert len(names) == 4 and names[0] == "training, all augmentations"
    for case in result["cases"]:
        assert case["images_per_s"] > 0 and case["memory_mib"] > 10
    assert result["peer"]["workers"] == 4  # the stand-in's fastest
    assert result["peer"]["images_per_s"]["peer"] == [40.0]
    assert "1 threads against DataLoader's 4 workers" in text


@pytest.mark.slow
def test_time_and_memory_of_a_start_are_reported_by_stages(run):
    result, text = run("start_up.py", "--cases", TINY, "--rounds", 1, "--variants", "plain")
    assert_origin(result)
    assert [row["work"] for row in result["rows"]] == ["train_step", "extraction"]
    for row in result["rows"]:
        assert all(row[stage] > 0 for stage in ("import_s", "build_s", "compile_s", "first_s", "second_s"))
        (process,) = row["runs"]
        assert 0 < process["compiled_s"] <= process["compile_s"]  # all compiling is in the stage "compile"
        memory = [row[f"{stage}_mib"] for stage in ("import", "build", "compile", "first", "second")]
        assert 50 < memory[0] < memory[2] and memory == sorted(memory)
    assert "first result after" in text


@pytest.mark.slow
def test_parts_that_share_negatives_have_the_loss_of_the_whole_batch(run):
    result, text = run(
        "grad_cache.py", "--case", "tiny:32:4", "--parts", 2, "--runs", 1, "--rounds", 1, "--fusion", "never"
    )
    assert_origin(result)
    assert result["fusion"] == "never" and "fusion never" in text
    whole, parts, cached = (result["ways"][way]["runs"][0]["loss"] for way in ("whole", "parts", "cached"))
    assert cached == pytest.approx(whole, rel=1e-5) and abs(parts - whole) > 0.1  # log 4 of negatives against log 2
    assert "| parts that share negatives |" in text


@pytest.mark.slow
def test_parts_of_eight_pairs_can_be_fused(run):
    # the transpose of an 8 by 8 mask made AKG's server fail
    words = ["--case", "tiny:32:32", "--parts", 4, "--ways", "parts", "--runs", 1, "--rounds", 1, "--fusion", "always"]
    result, _ = run("grad_cache.py", *words)
    assert np.isfinite(result["ways"]["parts"]["runs"][0]["loss"])


def test_scoring_on_a_few_descriptors(run):
    result, _ = run("scoring.py", "--queries", 20, "--gallery", 30, "--dimension", 8)
    assert_origin(result)
    assert result["queries"] == 20 and 0 <= result["recall@1"] <= 1


@pytest.mark.slow
@pytest.mark.skipif(PEER_VARIABLE not in os.environ, reason=f"{PEER_VARIABLE} names no interpreter with PyTorch")
def test_the_peer_itself(run):
    peer = os.environ[PEER_VARIABLE]
    for name in ("train_step.py", "extraction.py"):
        result, _ = run(name, "--cases", TINY, "--fusion", "never", "--runs", 1, "--rounds", 1, "--peer", peer)
        (found,) = result["cases"][0]["peer"]
        assert found["peak_mib"] > 100 and len(found["seconds"]) == 1 and found["first_s"] > 0
        assert found["form"] in ("two forwards", "one forward")
    words = ["--size", 32, "--batch-size", 2, "--batches", 2, "--workers", 1, "--rounds", 1]
    result, _ = run("loader.py", *words, "--cases", "evaluation, references", "--peer", peer)
    assert result["peer"]["cpu_ms_per_image"]["peer_median"] > 0
