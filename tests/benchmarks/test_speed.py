"""The speed benchmark compares rounds pair by pair, sees memory that is used for a moment only, and can be resumed."""

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    path = list(sys.path)
    yield importlib.import_module
    sys.path[:] = path


def tiny_subject(workloads):
    torch.manual_seed(0)

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)
            self.head = nn.Linear(8, 3)

        def forward(self, tokens):
            query, key, value = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            mixed = nn.functional.scaled_dot_product_attention(query, key, value)
            return self.head((tokens + mixed.transpose(1, 2).flatten(2))[:, 0])

    model = Tiny().eval().requires_grad_(False)
    return workloads.Subject(model, torch.randn(2, 5, 8), torch.clone, model, torch.tensor([0, 2]))


def test_ratio_is_taken_within_each_round(benchmark):
    rounds = [{"run": 3.0 * load, "baseline": 2.0 * load} for load in (1.0, 10.0, 100.0)]

    assert benchmark("measuring").ratio(rounds, "run", "baseline") == (1.5, 1.5, 1.5)


def test_interval_holds_the_median_and_widens_with_scatter(benchmark):
    measuring = benchmark("measuring")
    rounds = [{"run": 1.0 + 0.1 * (number % 5), "baseline": 1.0} for number in range(15)]

    median, low, high = measuring.ratio(rounds, "run", "baseline")

    assert low <= median <= high
    assert low < high


def test_growth_exponent_of_a_power_is_that_power(benchmark):
    sizes = [1024, 2048, 4096]

    assert benchmark("measuring").growth_exponent(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_runs_take_turns_and_none_is_always_first(benchmark):
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}

    rounds = benchmark("measuring").time_rounds(runs, 2)

    assert "".join(calls) == "ab" + "ab" + "ba"
    assert [list(one) for one in rounds] == [["a", "b"], ["a", "b"]]


def test_no_round_is_begun_after_the_time_is_up(benchmark):
    rounds = benchmark("measuring").time_rounds({"a": lambda: None}, 5, stop_at=time.monotonic() - 1)

    assert rounds == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads resident sizes from /proc")
def test_peak_memory_is_that_of_the_run_and_not_of_what_came_before(benchmark, tmp_path):
    # Mapped by hand, in a process of its own: what an allocator has in stock would not show.
    script = tmp_path / "program.py"
    script.write_text(
        "import json, mmap, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n"
        "from measuring import peak_mib\n"
        "def touch(mib):\n"
        "    with mmap.mmap(-1, mib * 2**20) as memory:\n"
        "        memory.write(bytes(2**20) * mib)\n"
        "touch(64)\n"
        "print(json.dumps(peak_mib(lambda: touch(24))))\n",
        encoding="utf-8",
    )

    measured = benchmark("measuring").in_fresh_process(str(script))

    # The bytes that are written are there twice.
    assert 44 < measured["peak"] - measured["idle"] < 56


def test_eager_formula_of_the_benchmark_gives_the_same_map(benchmark):
    workloads = benchmark("speed_workloads")
    subject = tiny_subject(workloads)

    from attrib_plugin import GradientRollout

    method = GradientRollout(subject.model, readout="cls", include_identity=True)
    ours = method.attribute(subject.inputs, target=subject.targets, return_input_shape=False)
    formula = workloads.RUNS["eager formula"](subject)()

    torch.testing.assert_close(formula, ours, rtol=1e-5, atol=1e-6)


def test_a_row_that_was_cut_short_gets_the_rounds_that_are_missing(benchmark, tmp_path, monkeypatch):
    speed = benchmark("speed")
    asked = []

    def measured(script, *arguments):
        asked.append(arguments)
        return [{"forward": 1.0, "AttentionRollout": 1.1}] * 2

    monkeypatch.setattr(speed, "in_fresh_process", measured)
    output = tmp_path / "speed.json"
    for _ in range(3):
        speed.main(["--only", "vit-1-rollout", "--rounds", "4", "--output", str(output)])

    kept = json.loads(output.read_text(encoding="utf-8"))
    assert [one[3] for one in asked] == ["4", "2"]
    assert len(kept["time"]["vit-1-rollout"]) == 4


def test_fresh_forgets_a_row_and_no_other(benchmark, tmp_path, monkeypatch):
    speed = benchmark("speed")
    monkeypatch.setattr(speed, "in_fresh_process", lambda *_: [{"new": 1.0}])
    output = tmp_path / "speed.json"
    old = {"time": {"vit-1": [{"old": 1.0}], "vit-8": [{"old": 1.0}]}, "memory": {"vit-1": {"old": {}}}}
    output.write_text(json.dumps(old), encoding="utf-8")

    speed.main(["--only", "vit-1", "--fresh", "--rounds", "1", "--output", str(output)])

    kept = json.loads(output.read_text(encoding="utf-8"))
    assert kept["time"] == {"vit-1": [{"new": 1.0}], "vit-8": [{"old": 1.0}]}
    assert kept["memory"] == old["memory"]


def test_everything_that_a_workload_names_can_be_run(benchmark):
    workloads = benchmark("speed_workloads")

    named = {run for workload in workloads.WORKLOADS.values() for run in (*workload.runs, *workload.memory)}

    assert named <= set(workloads.RUNS)


# The page.

GOOD = [{"forward and backward": 1.0, "GradientRollout": 0.99, "eager formula": 1.2}] * 15


def test_a_goal_is_met_or_not_or_not_measured(benchmark):
    page = benchmark("speed_page")
    goal = page.at_most("vit-8", "GradientRollout", "forward and backward", 1.0)

    assert goal({"time": {"vit-8": GOOD}}).met
    assert not goal({"time": {"vit-8": [{**one, "GradientRollout": 1.05} for one in GOOD]}}).met
    assert "not measured" in page.goals({"time": {"vit-8": GOOD}, "memory": {}})


def test_figures_of_few_rounds_say_so(benchmark):
    goal = benchmark("speed_page").times_faster("vit-8", "GradientRollout", "eager formula", 1.2)

    assert goal({"time": {"vit-8": GOOD[:3]}}).text.endswith("3 rounds only")
    assert "only" not in goal({"time": {"vit-8": GOOD}}).text


def test_memory_is_compared_beyond_that_of_the_idle_process(benchmark):
    measured = {"forward and backward": {"idle": 500, "peak": 700}, "GradientRollout": {"idle": 500, "peak": 800}}
    goal = benchmark("speed_page").memory_at_most("vit-8", "GradientRollout", "forward and backward", 1.02)

    figure = goal({"memory": {"vit-8": measured}})

    assert figure.text == "1.50 x (300 against 200 MiB)"
    assert not figure.met


def test_the_page_shows_the_results_that_are_there(benchmark):
    page = benchmark("speed_page")
    text = page.PAGE.read_text(encoding="utf-8")

    assert page.fill(text, page.load()) == text, "run: python benchmarks/speed_page.py"
