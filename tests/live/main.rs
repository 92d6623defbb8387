//! Live updates and the pages, in whole systems; the pages in a real browser.

mod live_drop;
mod live_finish;
mod live_gateway;
mod live_order_log;
mod live_protocol;
mod live_publishers;
mod pages;
