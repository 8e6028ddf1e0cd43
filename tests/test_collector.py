import gc

import pytest

from runner.collector import collector_paused, collector_resting


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_pauses_and_then_does_what_it_did(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(KeyError), collector_paused():
            assert not gc.isenabled()
            raise KeyError("an error")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_what_exists_is_left_alone_inside_and_what_is_made_there_is_collected() -> None:
    with pytest.raises(KeyError), collector_resting():
        assert gc.get_freeze_count() > 0
        assert len(gc.get_objects()) < gc.get_freeze_count()
        with collector_resting():
            pass
        assert gc.get_freeze_count() > 0
        ring: list[object] = []
        ring.append(ring)
        del ring
        assert gc.collect() > 0
        raise KeyError("an error")
    assert gc.get_freeze_count() == 0
