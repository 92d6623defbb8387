#!/usr/bin/env python3
"""What fairdrop costs on AWS: the arithmetic of docs/COSTS.md, in US dollars.

usage: docs/costs.py [--orders N] [--polls N] [--watchers N] [--json]

Prices are AWS's published ones for us-east-1, without free tiers or discounts, as of 2025. They change:
look them up before you rely on them. Durations are fairdrop's own measurements.
"""

import argparse
import json

# ---- Prices
LAMBDA_REQUEST = 0.20 / 1e6
LAMBDA_GB_SECOND = 0.0000166667  # x86
HTTP_API_REQUEST = 1.00 / 1e6
LOG_GB = 0.50
METRIC_MONTH = 0.30
ALARM_MONTH = 0.10
DASHBOARD_MONTH = 3.00
METRIC_READ = 0.01 / 1000
SOCKET_MESSAGE = 1.00 / 1e6
SOCKET_MINUTE = 0.25 / 1e6
REGION_TO_REGION_GB = 0.02
NAT_HOUR = 0.045
DYNAMODB_WRITE = 0.625 / 1e6
HOURS = 730
PER_HOUR = {
    "cache.t4g.micro (Valkey)": 0.0128,
    "cache.t4g.medium (Valkey)": 0.052,
    "cache.r7g.large (Valkey)": 0.1752,
    "db.t4g.medium": 0.065,
    "db.t4g.medium, two zones": 0.129,
    "m6i.large": 0.096,
    "load balancer": 0.0225,
}

# ---- Measured, or set in the template
MEMORY_GB = 0.25
PUBLISH_MEMORY_GB = 1.0
MESSAGES_PER_WATCHER = 40  # stock as it goes, and the own order
INTAKE_SECONDS = 0.160  # a region 150 ms away from main; in main itself it is under 0.01
STATUS_SECONDS = 0.160
LOG_BYTES_PER_REQUEST = 1_100  # metrics, Lambda's own two lines, and the access log
WIRE_BYTES_PER_ORDER = 900  # to main and back, TLS counted


def one_drop(orders: int, polls: int) -> dict[str, float]:
    """Three regions with as many buyers each, of which main is one."""
    requests = orders * (1 + polls)
    return {
        "API Gateway": requests * HTTP_API_REQUEST,
        "Lambda, requests": requests * LAMBDA_REQUEST,
        "Lambda, order-intake": orders * INTAKE_SECONDS * MEMORY_GB * LAMBDA_GB_SECOND,
        "Lambda, order-status": orders * polls * STATUS_SECONDS * MEMORY_GB * LAMBDA_GB_SECOND,
        "logs": requests * LOG_BYTES_PER_REQUEST / 1e9 * LOG_GB,
        "between the regions": requests * 2 / 3 * WIRE_BYTES_PER_ORDER / 1e9 * REGION_TO_REGION_GB,
    }


def watched(watchers: int) -> dict[str, float]:
    """Everybody at an open page for half an hour; a socket, a subscription, a ping a minute."""
    spoken = watchers * (2 + 30)
    return {
        "API Gateway, open sockets": watchers * 30 * SOCKET_MINUTE,
        "API Gateway, messages": watchers * MESSAGES_PER_WATCHER * SOCKET_MESSAGE + 2 * spoken * SOCKET_MESSAGE,
        "Lambda, live-updates": spoken * (LAMBDA_REQUEST + 0.01 * MEMORY_GB * LAMBDA_GB_SECOND),
    }


def every_month() -> dict[str, float]:
    """What runs whether anything is sold or not: main, a standby and one region more."""
    gb_seconds = {"drain and worker": 2 * HOURS * 3600 * MEMORY_GB, "replica-lag": HOURS * 3600 * 55 / 60 * MEMORY_GB}
    return {
        **{f"Lambda, {name}": amount * LAMBDA_GB_SECOND for name, amount in gb_seconds.items()},
        "watching: figures read, memory written": HOURS * 60 * (21 * METRIC_READ + 6 * 60 * DYNAMODB_WRITE),
        "metrics, alarms, dashboards": 60 * METRIC_MONTH + 45 * ALARM_MONTH + 3 * DASHBOARD_MONTH,
        "NAT gateway of the standby": HOURS * NAT_HOUR,
        "Redis, main: 2 cache.t4g.medium": 2 * HOURS * PER_HOUR["cache.t4g.medium (Valkey)"],
        "PostgreSQL, main: db.t4g.medium, two zones": HOURS * PER_HOUR["db.t4g.medium, two zones"],
        "PostgreSQL, standby: db.t4g.medium": HOURS * PER_HOUR["db.t4g.medium"],
    }


def with_live_updates() -> dict[str, float]:
    """More for each region that has them."""
    return {
        "Lambda, live-publish": HOURS * 3600 * PUBLISH_MEMORY_GB * LAMBDA_GB_SECOND,
        "NAT gateway": HOURS * NAT_HOUR,
        "Redis for the registry: cache.t4g.micro": HOURS * PER_HOUR["cache.t4g.micro (Valkey)"],
    }


def with_global_datastore() -> dict[str, float]:
    """More than the above where Redis has a copy in the standby region."""
    more = 4 * PER_HOUR["cache.r7g.large (Valkey)"] - 2 * PER_HOUR["cache.t4g.medium (Valkey)"]
    return {"Redis in two regions: 4 cache.r7g.large": HOURS * more}


def always_on() -> dict[str, float]:
    """Servers in place of functions, as one would run them otherwise: two in each of three regions."""
    return {
        "6 m6i.large": 6 * HOURS * PER_HOUR["m6i.large"],
        "3 load balancers": 3 * HOURS * PER_HOUR["load balancer"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=1_000_000, help="orders of one drop (default: a million)")
    parser.add_argument("--polls", type=int, default=5, help="questions for an order's state, for each order")
    parser.add_argument("--watchers", type=int, default=100_000, help="pages that are open during a drop")
    parser.add_argument("--json", action="store_true", help="figures for a program")
    asked = parser.parse_args()
    tables = {
        f"One drop: {asked.orders:,} orders, {asked.polls} questions each": one_drop(asked.orders, asked.polls),
        f"Live updates of one drop: {asked.watchers:,} watchers for half an hour": watched(asked.watchers),
        "Every month, with or without a drop": every_month(),
        "More, with live updates, for each region": with_live_updates(),
        "More, with a Global Datastore": with_global_datastore(),
        "For comparison: servers that are always on": always_on(),
    }
    if asked.json:
        print(json.dumps(tables, indent=2))
        return
    for title, table in tables.items():
        print(f"\n### {title}\n\n| what | USD |\n|---|---:|")
        for what, dollars in table.items():
            print(f"| {what} | {dollars:,.2f} |")
        print(f"| **in all** | **{sum(table.values()):,.2f}** |")


if __name__ == "__main__":
    main()
