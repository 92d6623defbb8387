"""Recomputes from an item's published files who should have won, and reports what differs.

    python3 docs/check_order_book.py ORDERS.csv SALES.csv --stock 500

ORDERS.csv is the order book (drop-admin's `order_book`, all pages), SALES.csv the audit of the sales (`audit`, all pages).
Buyers are keyed hashes in both. No other input is used. The exit status is 0 if nothing differs, and 1 otherwise.

An order counts if it was not refused, withdrawn, outside the opening times, or a repetition by the same buyer, and if the
shop has not excluded the buyer (the audit lists the exclusions with their reasons). The units
belong to the buyers with the oldest stamps. So no order that counts may wait while a younger one was served, and units are
given in the order of the stamps. A released or voided unit goes to the next order that waits.
"""

import argparse
import csv
import sys

SERVED = ("reserved", "sold", "released", "voided")
WAITING = ("queued",)
# Reported, and then left out. A finding is named at most so often.
MOST = 20


def read(path: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = [name for name in columns if name not in (rows.fieldnames or [])]
        if missing:
            sys.exit(f"{path} has no column {', '.join(missing)}")
        return list(rows)


def differences(orders: list[dict[str, str]], sales: list[dict[str, str]], stock: int) -> list[str]:
    """What is wrong, in words."""
    found = []
    known = {(order["buyer"], int(order["placed_at"])): order for order in orders}
    buyers: set[str] = set()
    last = None
    for sale in sorted(sales, key=lambda sale: int(sale["number"])):
        name = f"sale {sale['number']} of buyer {sale['buyer']}"
        order = known.get((sale["buyer"], int(sale["placed_at"])))
        if sale["buyer"] in buyers:
            found.append(f"{name}: the buyer has another sale")
        buyers.add(sale["buyer"])
        if order is None:
            found.append(f"{name}: no order of the buyer has its stamp {sale['placed_at']}")
        elif order["outcome"] != sale["state"]:
            found.append(f"{name}: it is {sale['state']}, and the order {order['outcome']}")
        if last is not None and int(sale["placed_at"]) < int(last["placed_at"]):
            found.append(f"{name}: it has an older stamp than sale {last['number']} of buyer {last['buyer']} before it")
        last = sale
    taken = sum(sale["state"] in ("reserved", "sold") for sale in sales)
    if taken > stock:
        found.append(f"{taken} units are sold or reserved, of {stock}")
    sold = {(sale["buyer"], int(sale["placed_at"])) for sale in sales}
    for order in orders:
        if order["outcome"] in ("sold", "released", "voided") and (order["buyer"], int(order["placed_at"])) not in sold:
            found.append(f"the order of buyer {order['buyer']} is {order['outcome']}, and has no sale")
    return found + overtaken(orders)


def overtaken(orders: list[dict[str, str]]) -> list[str]:
    """Who should have been served, and who was served instead. Among equal stamps any choice is right."""
    counts = sorted((order for order in orders if order["outcome"] in SERVED + WAITING), key=stamp)
    served = [order for order in counts if order["outcome"] in SERVED]
    if not served:
        return []
    last = stamp(counts[len(served) - 1])
    youngest = max(stamp(order) for order in served)
    cheated = [
        order
        for order in counts
        if order["outcome"] in WAITING and stamp(order) <= last and stamp(order) < youngest
    ]
    favoured = [order for order in served if stamp(order) > last]
    return [
        f"buyer {order['buyer']} should have been served (stamp {stamp(order)}) and waits" for order in cheated
    ] + [
        f"buyer {order['buyer']} was served (stamp {stamp(order)}) in place of an older order" for order in favoured
    ]


def stamp(order: dict[str, str]) -> int:
    return int(order["placed_at"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("orders")
    parser.add_argument("sales")
    parser.add_argument("--stock", type=int, required=True, help="units of the item")
    given = parser.parse_args()
    orders = read(given.orders, ("region", "placed_at", "buyer", "outcome"))
    sales = read(given.sales, ("number", "buyer", "state", "placed_at"))
    found = differences(orders, sales, given.stock)
    for text in found[:MOST]:
        print(text)
    if found:
        sys.exit(f"{len(found)} differences")
    print(f"{len(orders)} orders, {len(sales)} sales: every unit went to the oldest orders that count")


if __name__ == "__main__":
    main()
