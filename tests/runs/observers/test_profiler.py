import json

import runner


def test_a_trace_and_a_table_are_written_for_each_attempt(short) -> None:
    options = ["observers=profiler", "observers.profiler.skip_steps=1", "observers.profiler.steps=2"]
    run = short(*options, "hydra.run.dir=here")
    assert run.outcome == "finished"
    runner.run(["+resume=here", "trainer.max_epochs=2"])
    for attempt in ("001", "002"):
        directory = run.directory / "profile" / attempt
        events = json.loads((directory / "trace.json").read_text())["traceEvents"]
        assert any("addmm" in event.get("name", "") for event in events)
        assert "aten::addmm" in (directory / "table.txt").read_text()
    assert "observer profiler failed" not in (run.directory / "runner.log").read_text()


def test_a_run_that_ends_before_the_trace_is_full_writes_what_there_is(short) -> None:
    options = ["observers=profiler", "observers.profiler.skip_steps=1", "observers.profiler.steps=50"]
    run = short(*options)
    assert (run.directory / "profile" / "001" / "trace.json").stat().st_size > 0
    assert "observer profiler" not in (run.directory / "runner.log").read_text()
