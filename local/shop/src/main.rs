//! A shop's own web service, beside fairdrop.
//!
//! It hears what fairdrop decided by the events of an EventBridge bus ([`web`], [`books`]), shows a checkout page, charges
//! pretend cards ([`cards`]), and reports payments over the routes that are signed for IAM ([`fairdrop`]). It has no
//! access to fairdrop's Redis or PostgreSQL. Its own store is a file ([`journal`]).

mod books;
mod cards;
mod fairdrop;
mod journal;
mod payment;
mod shop;
mod web;

use anyhow::{Context, Result};
use cards::Cards;
use fairdrop::Fairdrop;
use shared::config::{process_environment, required};
use shared::token::TokenVerifier;
use shop::Shop;
use std::path::Path;
use std::process::ExitCode;
use tokio::net::TcpListener;
use web::Web;

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fairdrop-shop: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let variable = |name: &'static str| required(&process_environment, name);
    let port: u16 = variable("SHOP_PORT")?.parse().context("SHOP_PORT is no port")?;
    let http = reqwest::Client::builder().pool_max_idle_per_host(64).build()?;
    let keys = (variable("AWS_ACCESS_KEY_ID")?, variable("AWS_SECRET_ACCESS_KEY")?);
    let fairdrop = Fairdrop::new(http.clone(), variable("SHOP_FAIRDROP_URL")?, variable("AWS_REGION")?, keys);
    let cards = Cards::new(http, variable("SHOP_CARDS_URL")?, variable("SHOP_CARDS_SECRET")?);
    let tokens = TokenVerifier::from_config(&process_environment, false)?;
    let key = variable("SHOP_EVENTS_KEY")?;
    // Listening comes last: before that the bus and the buyers try again.
    let shop = Shop::open(Path::new(&variable("SHOP_FOLDER")?), fairdrop, cards)?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, Web { shop, tokens, key, port }.router()).await?;
    Ok(())
}
