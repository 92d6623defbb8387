//! Whole systems on this machine: gateways, functions, Redis and PostgreSQL, from order to sale.

mod admin;
mod answers;
mod chaos;
mod checkout;
mod checkout_chaos;
mod clocks;
mod command_line;
mod erase;
mod events;
mod idle_items;
mod lease_in_main;
mod order_log;
mod partition;
mod preflight;
mod replay;
mod schedules;
mod shop;
mod shop_events;
mod stripe;
mod token_keys;
mod tokens;
mod voids;
