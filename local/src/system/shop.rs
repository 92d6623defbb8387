//! The shop's own web service (`local/shop`) as a process, and what it needs: the bus from which it hears events, and the
//! card provider. It gets the address of main's HTTP API and of no store.

use crate::aws::api_destination::ApiDestination;
use crate::aws::event_bus::EventBus;
use crate::aws::identity::{AUDIENCE, ISSUER};
use crate::crowd::cards::CardProvider;
use crate::system::process::{Process, Yields, binaries, free_port, scaled};
use crate::system::{EVENT_BUS, System};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the first run of the publisher may take to begin.
const EVENTS_LIMIT: Duration = Duration::from_secs(20);

/// What a shop needs before the system starts: the functions of main get the address of its bus.
#[derive(Debug)]
pub struct ShopServices {
    pub bus: EventBus,
    pub destination: Arc<ApiDestination>,
    pub cards: CardProvider,
    port: u16,
    key: String,
    card_secret: String,
}

impl ShopServices {
    /// Starts a bus and a card provider; what documents leave open is drawn from `seed`.
    pub async fn start(seed: u64) -> Result<Self> {
        let (port, key, card_secret) = (free_port()?, secret(), secret());
        let at = |path: &str| format!("http://127.0.0.1:{port}/shop/{path}");
        let bus = EventBus::start(EVENT_BUS, seed).await?;
        let destination = ApiDestination::new(at("events"), key.clone(), seed)?;
        bus.deliver_to(destination.clone());
        let cards = CardProvider::start(card_secret.clone(), at("webhooks/cards"), seed).await?;
        Ok(Self { bus, destination, cards, port, key, card_secret })
    }

    /// Starts the shop of a system whose option `event_bus` is the address of this bus.
    pub async fn open(self, system: &System) -> Result<Shop> {
        let started = Instant::now();
        // Before the publisher's first run the ledger keeps no events.
        while !system.events_are_wanted().await? {
            ensure!(
                started.elapsed() < scaled(EVENTS_LIMIT),
                "shop-events has not begun; its log has the reason"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let main = system.regions.first().context("the system has no main region")?;
        let environment = [
            ("SHOP_PORT", self.port.to_string()),
            ("SHOP_FOLDER", system.logs().join("shop").display().to_string()),
            ("SHOP_FAIRDROP_URL", main.gateway.url()),
            ("SHOP_CARDS_URL", self.cards.url()),
            ("SHOP_CARDS_SECRET", self.card_secret.clone()),
            ("SHOP_EVENTS_KEY", self.key.clone()),
            ("AWS_REGION", main.region.name.to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("FAIRDROP_TOKEN_JWKS", system.identity.jwks().to_string()),
            ("FAIRDROP_TOKEN_ISSUER", ISSUER.to_owned()),
            ("FAIRDROP_TOKEN_AUDIENCE", AUDIENCE.to_owned()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).into();
        let log = system.logs().join("shop.log");
        let mut shop = Shop { services: self, environment, log, process: None };
        shop.restart().await?;
        Ok(shop)
    }
}

/// A running shop. Dropping it kills its process.
#[derive(Debug)]
pub struct Shop {
    /// Its bus and its card provider, which outlive its process.
    pub services: ShopServices,
    environment: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Process>,
}

impl Shop {
    /// Its address, without a path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.services.port)
    }

    /// The key with which the bus, and what stands for the shop's mail, call it.
    pub fn key(&self) -> &str {
        &self.services.key
    }

    /// Kills its process as SIGKILL does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts its process at the same address with the same store.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        let program = binaries()?.join("fairdrop-shop");
        ensure!(program.is_file(), "{} does not exist: it is not built; run `make build`", program.display());
        let mut command = Command::new(program);
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(environment);
        let mut process = Process::start("the shop", &mut command, &self.log)?.yielding(Yields::ToGateways);
        process.wait_for_port(self.services.port).await?;
        self.process = Some(process);
        Ok(())
    }
}

fn secret() -> String {
    format!("{:032x}", rand::random::<u128>())
}
