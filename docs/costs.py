#!/usr/bin/env python3
"""What fairdrop costs on AWS: the arithmetic of docs/COSTS.md, in US dollars.

usage: docs/costs.py [--orders N] [--polls N] [--watchers N] [--json | --prices]

Prices are AWS's on-demand prices for us-east-1, without free tiers or discounts. Each names its source and date. Check
them before you rely on them. Durations are fairdrop's own measurements.
"""

import argparse
import json

# ---- Prices: US dollars, unit, AWS's own page, source and date of the figure
# "recalled" marks a figure that was not found on any page.
AWS = "https://aws.amazon.com/"
PRICES = {
    "lambda request": (0.20 / 1e6, "request", AWS + "lambda/pricing/", "quoted alike in public repositories, 2025"),
    "lambda memory": (0.0000166667, "GB-second, x86", AWS + "lambda/pricing/", "quoted alike in public repositories, 2025"),
    "http api": (1.00 / 1e6, "request, of the first 300 million", AWS + "api-gateway/pricing/", "awsforengineers.com, 2025-05"),
    "socket message": (1.00 / 1e6, "message of up to 32 KB, of the first billion", AWS + "api-gateway/pricing/", "not found, recalled"),
    "socket minute": (0.25 / 1e6, "minute of an open connection", AWS + "api-gateway/pricing/", "not found, recalled"),
    "logs": (0.50, "GB taken in", AWS + "cloudwatch/pricing/", "factualminds.com, 2026-06"),
    "metric": (0.30, "metric and month, of the first 10,000", AWS + "cloudwatch/pricing/", "signoz.io, 2026-02"),
    "alarm": (0.10, "alarm on one metric and month", AWS + "cloudwatch/pricing/", "quoted in a public repository, 2025"),
    "dashboard": (3.00, "dashboard and month", AWS + "cloudwatch/pricing/", "factualminds.com, 2026-06"),
    "metric read": (0.01 / 1000, "metric read by GetMetricData", AWS + "cloudwatch/pricing/", "not found, recalled"),
    "between regions": (0.02, "GB out to another region", AWS + "ec2/pricing/on-demand/", "usage.ai, 2026-05"),
    "custom event": (1e-6, "event that is published to a bus", AWS + "eventbridge/pricing/", "recalled"),
    "nat": (0.045, "hour of a NAT gateway", AWS + "vpc/pricing/", "cloudburn.io, 2026-02"),
    "dynamodb write": (0.625 / 1e6, "write of up to 1 KB, in each region", AWS + "dynamodb/pricing/on-demand/", "airbyte.com, 2025-07"),
    "dynamodb read": (0.125 / 1e6, "strongly consistent read of up to 4 KB", AWS + "dynamodb/pricing/on-demand/", "not found, recalled"),
    "key": (1.00, "KMS key of one's own and month", AWS + "kms/pricing/", "recalled"),
    "cache.t4g.micro": (0.0128, "hour, with Valkey", AWS + "elasticache/pricing/", "0.8 of Redis's 0.016, which was not found, recalled"),
    "cache.t4g.medium": (0.052, "hour, with Valkey", AWS + "elasticache/pricing/", "0.8 of Redis's 0.065, quoted in public repositories, 2025"),
    "cache.r7g.large": (0.1752, "hour, with Valkey", AWS + "elasticache/pricing/", "0.8 of Redis's 0.219, which was not found, recalled"),
    "db.t4g.medium": (0.065, "hour, PostgreSQL in one zone", AWS + "rds/postgresql/pricing/", "infratally.com, 2026"),
    "db.t4g.medium, two zones": (0.130, "hour, PostgreSQL", AWS + "rds/postgresql/pricing/", "infratally.com, 2026"),
    "db disk": (0.115, "GB of gp3 and month, in each zone", AWS + "rds/postgresql/pricing/", "usage.ai, 2026-06"),
    "m6i.large": (0.096, "hour, Linux", AWS + "ec2/pricing/on-demand/", "quoted in a public repository, 2026-05"),
    "load balancer": (0.0225, "hour, without its capacity units", AWS + "elasticloadbalancing/pricing/", "quoted alike in public repositories, 2025"),
}
PRICE = {name: price for name, (price, _, _, _) in PRICES.items()}
HOURS = 730

# ---- Measured, or set in the template
MEMORY_GB = 0.25
REPLAY_MEMORY_GB = 0.5  # of checkout-worker, with order logs
PUBLISH_MEMORY_GB = 1024 / 1024
TOKEN_KEYS_MEMORY_GB = 0.125
TOKEN_KEYS_RUN_SECONDS = 76  # of each minute's run; six fetches
MESSAGES_PER_WATCHER = 40  # changes of the stock, and of the buyer's own order
INTAKE_SECONDS = 0.160  # in a region with a round trip of 150 ms to main; in main itself it is under 0.01
STATUS_SECONDS = 0.160
ORDERS_PER_BATCH = 20  # of order-place: assumed, not measured; at an opening batches are larger
BATCH_SECONDS = 0.5  # of order-place in a distant region: assumed, not measured
LOG_BYTES_PER_REQUEST = 1_100  # metrics, Lambda's own two lines, and the access log
WIRE_BYTES_PER_ORDER = 900  # to main and back, with TLS
RUN_SECONDS = 190  # of drain, worker and live-publish, which start every minute
AT_A_TIME = RUN_SECONDS / 60
STATE_KB = 8  # of replica-lag, written with every sample
RENEWALS_PER_HOUR = 3600 / 2.25  # of the lease, at most: whichever of the runs finds it 2.25 s old renews it
LEASE_READS_PER_HOUR = 2 * AT_A_TIME * 3600 / 3  # each run of drain and worker reads it every 3 s


def one_drop(orders: int, polls: int) -> dict[str, float]:
    """Three regions, main among them, with equal numbers of buyers."""
    requests = orders * (1 + polls)
    gb_second = PRICE["lambda memory"] * MEMORY_GB
    return {
        "API Gateway": requests * PRICE["http api"],
        "Lambda, requests": requests * PRICE["lambda request"],
        "Lambda, order-intake": orders * INTAKE_SECONDS * gb_second,
        "Lambda, order-status": orders * polls * STATUS_SECONDS * gb_second,
        "logs": requests * LOG_BYTES_PER_REQUEST / 1e9 * PRICE["logs"],
        "between the regions": requests * 2 / 3 * WIRE_BYTES_PER_ORDER / 1e9 * PRICE["between regions"],
    }


def watched(watchers: int) -> dict[str, float]:
    """Each watcher keeps a page open for half an hour: a socket, a subscription, a ping per minute."""
    requests = watchers * (2 + 30)
    return {
        "API Gateway, open sockets": watchers * 30 * PRICE["socket minute"],
        "API Gateway, messages": (watchers * MESSAGES_PER_WATCHER + 2 * requests) * PRICE["socket message"],
        "Lambda, live-updates": requests * (PRICE["lambda request"] + 0.01 * MEMORY_GB * PRICE["lambda memory"]),
    }


def with_live_updates() -> dict[str, float]:
    """Additional cost of each region with live updates."""
    return {
        "Lambda, live-publish": AT_A_TIME * HOURS * 3600 * PUBLISH_MEMORY_GB * PRICE["lambda memory"],
        "NAT gateway": HOURS * PRICE["nat"],
        "Redis for the registry: cache.t4g.micro": HOURS * PRICE["cache.t4g.micro"],
    }


def with_token_keys() -> dict[str, float]:
    """Additional cost of TokenKeysFrom, in main and in a standby."""
    gb_second = TOKEN_KEYS_MEMORY_GB * PRICE["lambda memory"]
    runs = 2 * HOURS * 60
    return {
        "Lambda, token-keys": runs * (TOKEN_KEYS_RUN_SECONDS * gb_second + PRICE["lambda request"]),
        "Lambda, token-keys-store": runs * 6 * (0.02 * gb_second + PRICE["lambda request"]),
        "metrics, alarms": 6 * PRICE["metric"] + 2 * PRICE["alarm"],
    }


def with_shop_events(events: int) -> dict[str, float]:
    """Additional cost of ShopEventsBus, in main and in a standby, where each run ends at once."""
    gb_second = PRICE["lambda memory"] * MEMORY_GB
    return {
        "Lambda, shop-events in main": AT_A_TIME * HOURS * 3600 * gb_second,
        "Lambda, shop-events in the standby": HOURS * 60 * (0.1 * gb_second + PRICE["lambda request"]),
        "EventBridge": events * PRICE["custom event"],
        "metrics, alarms": 5 * PRICE["metric"] + 2 * PRICE["alarm"],
    }


def with_order_log_keys() -> dict[str, float]:
    """Additional cost of OrderLogKeyArns in three regions, without KMS's requests, of which DynamoDB makes few."""
    return {"keys": 3 * PRICE["key"]}


def with_order_log(orders: int) -> dict[str, float]:
    """Additional cost of a drop whose orders all go through order logs. Lambda reads a stream free of charge."""
    more_memory = (REPLAY_MEMORY_GB - MEMORY_GB) * PRICE["lambda memory"]
    batches = orders / ORDERS_PER_BATCH
    gb_second = PRICE["lambda memory"] * MEMORY_GB
    return {
        "DynamoDB, writes": orders * PRICE["dynamodb write"],
        "Lambda, order-place": batches * (PRICE["lambda request"] + BATCH_SECONDS * gb_second),
        "Lambda, more memory for the worker, for a month": AT_A_TIME * HOURS * 3600 * more_memory,
        "metrics, alarms, for a month": 3 * (6 * PRICE["metric"] + 6 * PRICE["alarm"]),
    }


def functions_every_month() -> dict[str, float]:
    """What runs all the time: main, a standby and one edge region."""
    gb_hour = 3600 * MEMORY_GB * PRICE["lambda memory"]
    return {
        "Lambda, drain and worker": 2 * AT_A_TIME * HOURS * gb_hour,
        "Lambda, replica-lag": HOURS * 55 / 60 * gb_hour,
        "main lease, written in two regions": HOURS * RENEWALS_PER_HOUR * 2 * PRICE["dynamodb write"],
        "main lease, read": HOURS * LEASE_READS_PER_HOUR * PRICE["dynamodb read"],
        "replica-lag: metrics read, state written": HOURS * 60 * (3 * 2 * PRICE["metric read"] + 6 * STATE_KB * PRICE["dynamodb write"]),
        "metrics, alarms, dashboards": 68 * PRICE["metric"] + 56 * PRICE["alarm"] + 3 * PRICE["dashboard"],
    }


def stores_every_month() -> dict[str, float]:
    """What stores.yaml creates by default, in main and in a standby; the cost does not depend on drops."""
    disk = 50 * PRICE["db disk"]
    return {
        "NAT gateways, one in each": 2 * HOURS * PRICE["nat"],
        "Redis, a Global Datastore: 4 cache.r7g.large": 4 * HOURS * PRICE["cache.r7g.large"],
        "PostgreSQL, main: db.t4g.medium, two zones": HOURS * PRICE["db.t4g.medium, two zones"] + 2 * disk,
        "PostgreSQL, standby: db.t4g.medium": HOURS * PRICE["db.t4g.medium"] + disk,
    }


def smallest_stores() -> dict[str, float]:
    """One region without a standby: RedisNodeType=cache.t4g.medium LedgerMultiAz=false LedgerStorageGb=20 WithNat=false."""
    return {
        "Redis: 2 cache.t4g.medium": 2 * HOURS * PRICE["cache.t4g.medium"],
        "PostgreSQL: db.t4g.medium, one zone": HOURS * PRICE["db.t4g.medium"] + 20 * PRICE["db disk"],
    }


def always_on() -> dict[str, float]:
    """The alternative to functions: two servers in each of three regions."""
    return {
        "6 m6i.large": 6 * HOURS * PRICE["m6i.large"],
        "3 load balancers": 3 * HOURS * PRICE["load balancer"],
    }


def show_prices() -> None:
    print("\n| price | USD | unit | AWS's page | source and date |\n|---|---:|---|---|---|")
    for name, (price, unit, page, seen) in PRICES.items():
        figure = f"{price * 1e6:.4g} / million" if price < 1e-4 else f"{price:.4g}"
        print(f"| {name} | {figure} | {unit} | <{page}> | {seen} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000_000, help="orders of one drop (default: 1,000,000)")
    parser.add_argument("--polls", type=int, default=5, help="status requests per order")
    parser.add_argument("--watchers", type=int, default=100_000, help="open pages during a drop")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--prices", action="store_true", help="print only the prices and their sources")
    asked = parser.parse_args()
    if min(asked.orders, asked.polls, asked.watchers) < 0:
        parser.error("--orders, --polls and --watchers cannot be negative")
    tables = {
        f"One drop: {asked.orders:,} orders, {asked.polls} status requests each": one_drop(asked.orders, asked.polls),
        f"Live updates of one drop: {asked.watchers:,} watchers for half an hour": watched(asked.watchers),
        f"Order logs in three regions, in addition: {asked.orders:,} orders": with_order_log(asked.orders),
        "Functions, per month, with or without drops": functions_every_month(),
        "Live updates, per month and region": with_live_updates(),
        "Events for the shop, per month: main and a standby, 1,000,000 events": with_shop_events(1_000_000),
        "Own keys for order logs, per month, in three regions": with_order_log_keys(),
        "Fetched token keys, per month: main and a standby": with_token_keys(),
        "Data stores, per month, in their default sizes: main and a standby": stores_every_month(),
        "Data stores, per month, in the smallest sizes: one region, no standby": smallest_stores(),
        "For comparison, per month: servers that are always on": always_on(),
    }
    if asked.json:
        print(json.dumps(tables, indent=2))
        return
    if asked.prices:
        show_prices()
        return
    for title, table in tables.items():
        print(f"\n### {title}\n\n| what | USD |\n|---|---:|")
        for what, dollars in table.items():
            print(f"| {what} | {dollars:,.2f} |")
        print(f"| **total** | **{sum(table.values()):,.2f}** |")


if __name__ == "__main__":
    main()
