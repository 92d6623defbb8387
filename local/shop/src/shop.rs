//! The shop: its books, and the work on open payments.

use crate::books::{Books, Entry, Event, Hearing};
use crate::cards::{CHARGE_LIMIT, Cards};
use crate::fairdrop::{Decision, Fairdrop};
use crate::journal::{Durable, Journal};
use crate::payment::{ChargeStatus, Payment, PaymentNews, PaymentStatus};
use anyhow::Result;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// What a unit costs, in cents.
pub(crate) const PRICE: u32 = 12_000;
/// Pauses between two attempts of a call: the first; the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// How often the provider is asked about a payment that takes long. It sends a webhook, too.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Shop {
    state: Mutex<State>,
    changed: watch::Sender<()>,
    pub(crate) fairdrop: Fairdrop,
    pub(crate) cards: Cards,
}

struct State {
    books: Books,
    journal: Journal,
    /// The payments that have a task.
    driven: BTreeSet<String>,
}

/// The time in microseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

impl Shop {
    /// Reads what is in `folder`, and goes on with the payments that were under way.
    pub(crate) fn open(folder: &Path, fairdrop: Fairdrop, cards: Cards) -> Result<Arc<Self>> {
        let mut books = Books::default();
        Journal::read(folder, |entry| drop(books.record(entry)))?;
        let journal = Journal::write(folder, &books.entries())?;
        let open = books.open_payments();
        let state = Mutex::new(State { books, journal, driven: BTreeSet::new() });
        let shop = Arc::new(Self { state, changed: watch::Sender::new(()), fairdrop, cards });
        shop.start_driving(open);
        Ok(shop)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read<T>(&self, read: impl FnOnce(&Books) -> T) -> T {
        read(&self.lock().books)
    }

    /// Records the entry that `decide` returns. When this returns, the entry is durable. What follows from it happens
    /// also if the caller goes away.
    async fn write(self: &Arc<Self>, decide: impl FnOnce(&Books) -> Option<Entry>) -> Result<()> {
        let Some((durable, open)) = self.record(decide)? else { return Ok(()) };
        let shop = self.clone();
        let following = tokio::spawn(async move {
            // If the journal's writer could not write, it has ended the process.
            if durable.await.is_ok() {
                shop.start_driving(open);
                shop.changed.send_replace(());
            }
        });
        Ok(following.await?)
    }

    fn record(&self, decide: impl FnOnce(&Books) -> Option<Entry>) -> Result<Option<(Durable, Vec<String>)>> {
        let mut state = self.lock();
        let Some(entry) = decide(&state.books) else { return Ok(None) };
        let durable = state.journal.append(&entry)?;
        let open = state.books.record(entry);
        if state.journal.is_long() {
            let entries = state.books.entries();
            state.journal.replace(&entries)?;
        }
        Ok(Some((durable, open)))
    }

    /// Records an event of fairdrop.
    pub(crate) async fn hear(self: &Arc<Self>, event: Event) -> Result<Hearing> {
        let mut hearing = Hearing::Known;
        let decide = |books: &Books| {
            hearing = books.hearing(&event);
            (hearing == Hearing::New).then_some(Entry::Event(event))
        };
        self.write(decide).await?;
        Ok(hearing)
    }

    /// Records what the shop has learned about a payment.
    pub(crate) async fn learn(self: &Arc<Self>, reference: &str, news: &PaymentNews) -> Result<()> {
        self.write(|books| books.payment(reference)?.after(news).map(Entry::Payment)).await
    }

    /// Begins a payment, or its next attempt, unless one is under way or has succeeded. Returns the payment when the
    /// buyer need not wait any more, or as it is after `limit`; `None` if the shop has no room for it.
    pub(crate) async fn pay(self: &Arc<Self>, first: Payment, limit: Duration) -> Result<Option<Payment>> {
        let reference = first.reference.clone();
        let until = Instant::now() + limit;
        self.write(|books| match books.payment(&first.reference) {
            None => books.has_room().then_some(Entry::Payment(first)),
            Some(known) => known.again(&first.card).map(Entry::Payment),
        })
        .await?;
        Ok(self.when(&reference, until, Payment::is_settled).await)
    }

    /// The payment when `is_so` holds for it, or as it is at `until`.
    async fn when(
        &self,
        reference: &str,
        until: Instant,
        is_so: impl Fn(&Payment) -> bool,
    ) -> Option<Payment> {
        let mut changed = self.changed.subscribe();
        loop {
            let payment = self.read(|books| books.payment(reference).cloned());
            let holds = payment.as_ref().is_none_or(&is_so);
            if holds || tokio::time::timeout_at(until.into(), changed.changed()).await.is_err() {
                return payment;
            }
        }
    }

    fn start_driving(self: &Arc<Self>, open: Vec<String>) {
        for reference in open {
            if self.lock().driven.insert(reference.clone()) {
                tokio::spawn(self.clone().drive(reference));
            }
        }
    }

    /// Takes the steps of a payment until none is due, however often each is tried.
    async fn drive(self: Arc<Self>, reference: String) {
        let mut failures = 0;
        while let Some(payment) = self.open_payment(&reference) {
            match self.advance(payment).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    if failures == 0 {
                        eprintln!("payment {reference}: {error:#}; trying again until there is an answer");
                    }
                    tokio::time::sleep(pause(failures)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// The payment, if something is to be done. Otherwise its task ends: under the same lock, so that a later change
    /// starts another one.
    fn open_payment(&self, reference: &str) -> Option<Payment> {
        let mut state = self.lock();
        let open = state.books.payment(reference).filter(|payment| payment.is_open()).cloned();
        if open.is_none() {
            state.driven.remove(reference);
        }
        open
    }

    /// The next step of a payment. After a restart it may be one that was taken before: each counts once.
    async fn advance(self: &Arc<Self>, payment: Payment) -> Result<()> {
        let reference = payment.reference.clone();
        let news = match payment.status {
            PaymentStatus::Charging | PaymentStatus::Processing => {
                let is_other = |now: &Payment| *now != payment;
                let status = tokio::select! {
                    status = self.cards.charge(&payment, PRICE) => status?,
                    // The provider's webhook may be quicker than its answer.
                    _ = self.when(&reference, Instant::now() + CHARGE_LIMIT, is_other) => return Ok(()),
                };
                PaymentNews::Charge { attempt: payment.attempt, status }
            }
            PaymentStatus::Paid => match self.fairdrop.report_paid(&payment).await? {
                Decision::Sold => PaymentNews::Sold,
                Decision::Refused(problem) => PaymentNews::Refused(problem),
            },
            PaymentStatus::RefundDue => {
                self.cards.refund(&reference).await?;
                PaymentNews::Refunded
            }
            PaymentStatus::Declined | PaymentStatus::Sold | PaymentStatus::Refunded => return Ok(()),
        };
        self.learn(&reference, &news).await?;
        let was_charging = payment.status == PaymentStatus::Charging;
        match news {
            PaymentNews::Charge { status: ChargeStatus::Declined, .. } => self.tell(payment, "declined"),
            PaymentNews::Charge { status: ChargeStatus::Processing, .. } => {
                if was_charging {
                    self.tell(payment, "pending");
                }
                let is_over = |now: &Payment| now.status != PaymentStatus::Processing;
                self.when(&reference, Instant::now() + ASK_INTERVAL, is_over).await;
            }
            _ => {}
        }
        Ok(())
    }

    /// Reports what moves no money. It is sent once: without it the hold ends as it would.
    fn tell(self: &Arc<Self>, payment: Payment, outcome: &'static str) {
        let shop = self.clone();
        tokio::spawn(async move {
            if let Err(error) = shop.fairdrop.report(&payment, outcome).await {
                eprintln!("payment {}: {outcome} was not reported: {error:#}", payment.reference);
            }
        });
    }
}

/// The pause after a number of failures: longer each time, and not the same for all payments.
fn pause(failures: u32) -> Duration {
    let (first, longest) = PAUSES;
    let longest = first.saturating_mul(1 << failures.min(10)).min(longest);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}
