import gc

import pytest

from runner.collector import collector_paused


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
