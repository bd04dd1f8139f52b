"""Publishes a day's work for the worker: new customers, orders, and one order that nobody thought of.

    python -m example_project.shop.storefront --customers 12 --orders 4 --empty-orders 1

It prints one line of JSON: how many of each were published, and the customers' addresses.
"""

from __future__ import annotations

import argparse
import json

from example_project.shop import tasks

__all__ = ["addresses", "publish"]

_NAMES = ["ada", "ben", "cleo", "dora", "emil", "fay", "gus", "hana", "ivan", "june", "kofi", "lena"]


def addresses(customers: int) -> list[str]:
    """The customers' addresses, all different."""
    return [f"{_NAMES[n % len(_NAMES)]}{n // len(_NAMES) or ''}@example.org" for n in range(customers)]


def publish(customers: int, orders: int, empty_orders: int) -> None:
    """Publish one task for each."""
    for number, email in enumerate(addresses(customers), start=1):
        tasks.onboarding_email.delay(customer_id=number, email=email)
    for number in range(empty_orders):
        tasks.import_order.delay(order_id=9000 + number, lines=[])
    for number in range(orders):
        tasks.deliver_webhook.delay(order_id=4711 + number, total_cents=1999)


def main() -> None:
    """Read the command line and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--customers", type=int, default=12)
    parser.add_argument("--orders", type=int, default=4)
    parser.add_argument("--empty-orders", type=int, default=1)
    wanted = parser.parse_args()
    publish(wanted.customers, wanted.orders, wanted.empty_orders)
    print(json.dumps({**vars(wanted), "addresses": addresses(wanted.customers)}))


if __name__ == "__main__":
    main()
