//! Documents and sources against each other: nothing runs but a function that is refused its configuration.

mod alarms;
mod costs;
mod demo_build;
mod event_schemas;
mod expanded_limits;
mod expanded_rules;
mod iam;
mod keep_warm;
mod metric_contract;
mod openapi;
mod order_book;
mod rights;
mod schedules;
mod start;
mod template_rules;
mod wire;
