"""What a readout that is solved for has to reach on the Lorenz system: scripts/lorenz.py with one seed of its five."""

import pytest
import torch

from runner.data.lorenz import LYAPUNOV_EXPONENT, standardised, trajectory
from runner.models import classic_esn, ott_esn
from runner.training.sequences import valid_steps

WASHOUT, TRAINED, TESTED = 200, 5000, 1000


@pytest.mark.parametrize(("kind", "dtype"), [(ott_esn, torch.float32), (classic_esn, torch.float64)])
def test_the_next_point_is_foretold_to_a_thousandth_of_a_percent_and_a_forecast_holds(kind, dtype) -> None:
    points = trajectory(seed=1, time_step=0.02, num_points=TRAINED + TESTED + 1)
    series = standardised(points, by=TRAINED + 1).to(dtype)[None]
    x, y = series[:, :-1], series[:, 1:]
    model = kind(300, 3, 3, connectivity=0.02, spectral_radius=0.9, input_scaling=0.3, seed=1, dtype=dtype)
    model.fit(x[:, :TRAINED], y[:, :TRAINED], washout=WASHOUT, alpha=1e-6)
    with torch.no_grad():
        model.reset_reservoirs()
        foretold = model(x[:, TRAINED - WASHOUT :])[:, WASHOUT:]
    assert (foretold - y[:, TRAINED:]).square().mean() <= 1e-9
    model.reset_reservoirs()
    forecast = model.forecast(x[:, TRAINED - WASHOUT : TRAINED], 400)
    valid = int(valid_steps(forecast, x[:, TRAINED : TRAINED + 400], threshold=0.4))
    assert valid * 0.02 * LYAPUNOV_EXPONENT >= 4
