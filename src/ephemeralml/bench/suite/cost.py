"""What a million texts cost at a price for an hour: arithmetic on a table that the user can set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ephemeralml.errors import ConfigurationError

PRICES_FILE: Final = Path(__file__).with_name("prices.json")
_MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Price:
    """Of one hour of an instance, and where that is from."""

    name: str
    per_hour: float
    source: str

    def per_million(self, texts_per_second: float) -> float:
        """Of a million texts, the instance doing nothing else."""
        return self.per_hour / (texts_per_second * 3600) * 1e6


def read_prices(path: Path | None) -> tuple[str, list[Price]]:
    """The currency and the prices of `path`, or of the table in the package.

    Raises `ConfigurationError` for a file that is none.
    """
    path = path or PRICES_FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("it is too large")
        table: Mapping[str, Any] = json.loads(path.read_bytes())
        prices = [Price(str(row["name"]), float(row["per_hour"]), str(row["source"])) for row in table["instances"]]
        if not prices or not all(price.per_hour > 0 for price in prices):
            raise ValueError("prices are above 0")
        return str(table["currency"]), prices
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigurationError(
            f'{path} is no price table: {error}; it has the form {{"currency": "USD", "instances": [{{"name": …, '
            '"per_hour": …, "source": …}]}',
            code="bench.prices",
        ) from error
