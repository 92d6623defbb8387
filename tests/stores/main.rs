//! The queue and the ledger, on a real Redis and a real PostgreSQL of each test's own.

mod batch_properties;
mod checkout_properties;
mod declined_payments;
mod edge_reads;
mod failover_compare;
mod failover_holds;
mod failover_stock;
mod idle_items;
mod idle_properties;
mod ledger;
mod order_log;
mod order_place;
mod overload;
mod payment_envelopes;
mod queue_edges;
mod queue_link;
mod queue_properties;
mod redis_tls;
mod refusals;
mod replay;
mod token_keys;
mod virtual_time;
mod watermark;
mod worker;
