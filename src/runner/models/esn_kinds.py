"""The echo state networks that have a name:

    classic_esn    input -> reservoir -> (input, states) -> readout
    ott_esn        the same with the states of even units squared (Pathak, Ott et al., 2018)
    linear_esn     the same with a reservoir without non-linearity
    headless_esn   input -> reservoir -> states

Options are those of ESNModel. They are given flat, or in a mapping for each part: `trainable` and `bias` are in both.
"""

from collections.abc import Mapping
from typing import Any, Unpack

from runner.models.esn import ESNModel
from runner.models.esn_options import FIXED, Options, ReservoirOptions, put_together


def classic_esn(
    reservoir_size: int,
    input_size: int,
    output_size: int,
    reservoir_config: Mapping[str, Any] | None = None,
    readout_config: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> ESNModel:
    """An ESNModel whose readout sees the input and the states."""
    return _esn((reservoir_size, input_size, output_size), options, reservoir_config, readout_config, {})


def ott_esn(
    reservoir_size: int,
    input_size: int,
    output_size: int,
    reservoir_config: Mapping[str, Any] | None = None,
    readout_config: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> ESNModel:
    """The same with the states of even units (0, 2, ...) squared on their way to the readout."""
    return _esn((reservoir_size, input_size, output_size), options, reservoir_config, readout_config, FIXED["ott_esn"])


def linear_esn(
    reservoir_size: int,
    input_size: int,
    output_size: int,
    reservoir_config: Mapping[str, Any] | None = None,
    readout_config: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> ESNModel:
    """The same as classic_esn, with a reservoir whose activation is the identity."""
    return _esn(
        (reservoir_size, input_size, output_size), options, reservoir_config, readout_config, FIXED["linear_esn"]
    )


def headless_esn(
    reservoir_size: int,
    input_size: int,
    reservoir_config: Mapping[str, Any] | None = None,
    **options: Unpack[ReservoirOptions],
) -> ESNModel:
    """An ESNModel without a readout: it returns the states."""
    return _esn((reservoir_size, input_size, None), options, reservoir_config, None, {})


def _esn(
    sizes: tuple[int, int, int | None],
    options: Mapping[str, Any],
    reservoir_config: Mapping[str, Any] | None,
    readout_config: Mapping[str, Any] | None,
    fixed: Mapping[str, Any],
) -> ESNModel:
    names = (ReservoirOptions if sizes[2] is None else Options).__annotations__
    known = [name for name in names if name not in fixed]
    values = put_together(options, known, reservoir_config=reservoir_config, readout_config=readout_config)
    return ESNModel(*sizes, **{**values, **fixed})
