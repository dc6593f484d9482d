"""Customers with a cap of $0.05 a day, twenty requests at once for each, kill -9 and restart in the middle.

    python bench/customers.py [--customers 50]

Prints how many passed the cap and how many acknowledged answers are without their usage; both must be 0. It is
`tests/acceptance/test_acceptance_customers.py` at another size, with the same books.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "acceptance")]


def main() -> None:
    import test_acceptance_customers as stress

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--customers", type=int, default=50)
    stress.CUSTOMERS_COUNT = parser.parse_args().customers
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        asyncio.run(stress.test_no_customer_passes_the_cap_and_nothing_is_lost(Path(home)))
    print(f"{stress.CUSTOMERS_COUNT} customers, {time.perf_counter() - begun:.0f} s: 0 over, 0 lost")


if __name__ == "__main__":
    main()
