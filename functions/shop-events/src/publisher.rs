//! Sends the events of an item by `PutEvents`.
//!
//! EventBridge takes the entries of a call one by one: it may accept some and not others, and it may accept all and the
//! answer be lost. So what is not certainly accepted is sent again, in order from there. EventBridge itself promises no
//! order of delivery: the shop restores it by the sequence, which has no gaps.

use crate::event;
use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use ledger::{Decided, OutboxEvent};
use sdk::{Region, RetryConfig, TimeLimits};
use shared::config::{self, ConfigError, Source};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// EventBridge's limit of entries in a call. Their total size stays far below its limit of 256 KB.
const MAX_ENTRIES: usize = 10;
const EVENT_SOURCE: &str = "fairdrop";
/// One attempt: the next turn is the next attempt.
const LIMITS: TimeLimits = TimeLimits {
    connect: Duration::from_secs(1),
    attempt: Duration::from_secs(3),
    call: Duration::from_secs(3),
};
/// The codes of entries that can never be accepted. All other codes, unknown ones included, may pass later: a throttle,
/// a right that is missing.
const PERMANENT: [&str; 3] = ["MalformedDetail", "InvalidArgument", "RedactionFailure"];

const NO_SUCH_BUS: &str = "ResourceNotFoundException";

#[derive(Debug)]
pub(crate) struct Publisher {
    client: Client,
    bus: String,
    /// What EventBridge last said of the bus. Before its first answer the bus is assumed to exist, as the template
    /// creates it together with this function.
    is_bus_missing: AtomicBool,
}

/// What a question about the bus found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BusAnswer {
    Exists,
    Missing,
    /// EventBridge did not say, for this reason: its control plane can fail while it accepts events.
    Unknown(String),
}

/// What became of an item's events.
#[derive(Debug)]
pub(crate) struct Sent<'a> {
    /// The first events of the item, up to the one that was not accepted.
    pub(crate) decided: Vec<(&'a OutboxEvent, Decided)>,
    /// That event, and why it was not accepted.
    pub(crate) failure: Option<(&'a OutboxEvent, String)>,
}

impl Publisher {
    pub(crate) fn from_config(source: Source<'_>, region: &str) -> Result<Self, ConfigError> {
        let bus = config::required(source, "FAIRDROP_EVENT_BUS")?;
        let aws = sdk::defaults()
            .region(Region::new(region.to_owned()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(LIMITS.timeouts())
            .build();
        Ok(Self { client: Client::new(&aws), bus, is_bus_missing: AtomicBool::new(false) })
    }

    /// Whether the bus did not exist when EventBridge last said so.
    pub(crate) fn is_bus_missing(&self) -> bool {
        self.is_bus_missing.load(Ordering::Relaxed)
    }

    /// Asks whether the bus exists: EventBridge accepts events for a bus that does not exist, and drops them.
    pub(crate) async fn find_bus(&self) -> BusAnswer {
        let found = self.client.describe_event_bus().name(&self.bus).send().await;
        let answer = bus_answer(found.map(drop).map_err(reason));
        match answer {
            BusAnswer::Exists => self.is_bus_missing.store(false, Ordering::Relaxed),
            BusAnswer::Missing => self.is_bus_missing.store(true, Ordering::Relaxed),
            BusAnswer::Unknown(_) => {}
        }
        answer
    }

    /// Sends an item's events in order, up to the first that is not accepted, or until `ends_at`.
    pub(crate) async fn publish_item<'a>(&self, events: &'a [OutboxEvent], ends_at: Instant) -> Sent<'a> {
        let mut sent = Sent { decided: Vec::with_capacity(events.len()), failure: None };
        for call in events.chunks(MAX_ENTRIES) {
            let putting = tokio::time::timeout_at(ends_at.into(), self.put(call));
            let answers = putting.await.unwrap_or_else(|_| Err("the turn ended before the answer".into()));
            let codes = match answers {
                Ok(codes) => codes,
                Err(reason) => {
                    sent.failure = call.first().map(|event| (event, reason));
                    return sent;
                }
            };
            for (event, code) in call.iter().zip(codes) {
                match judge(code.as_deref()) {
                    Ok(decided) => {
                        if let Decided::DeadLetter(code) = decided {
                            tracing::error!(
                                item_id = %event.item_id, sequence = event.sequence, code,
                                "EventBridge refused an event permanently; it stays in the outbox as a dead letter"
                            );
                        }
                        sent.decided.push((event, decided));
                    }
                    Err(code) => {
                        sent.failure = Some((event, code.to_owned()));
                        return sent;
                    }
                }
            }
        }
        sent
    }

    /// The code of each event that EventBridge did not accept, in the order of `events`.
    async fn put(&self, events: &[OutboxEvent]) -> Result<Vec<Option<String>>, String> {
        let entries = events.iter().map(|event| self.entry(event)).collect::<Result<Vec<_>, _>>()?;
        let answer = self.client.put_events().set_entries(Some(entries)).send().await.map_err(reason)?;
        let answers = answer.entries();
        if answers.len() != events.len() {
            return Err(format!("EventBridge answered {} of {} entries", answers.len(), events.len()));
        }
        let code = |entry: &aws_sdk_eventbridge::types::PutEventsResultEntry| {
            let unknown = || "neither an id nor an error code".to_owned();
            match (entry.error_code(), entry.event_id()) {
                (Some(code), _) => Some(code.to_owned()),
                (None, None) => Some(unknown()),
                (None, Some(_)) => None,
            }
        };
        Ok(answers.iter().map(code).collect())
    }

    fn entry(&self, event: &OutboxEvent) -> Result<PutEventsRequestEntry, String> {
        let detail =
            event::detail(event).map_err(|error| format!("could not be written as JSON: {error}"))?;
        Ok(PutEventsRequestEntry::builder()
            .event_bus_name(&self.bus)
            .source(EVENT_SOURCE)
            .detail_type(event::detail_type(&event.kind))
            .detail(detail)
            .build())
    }
}

fn bus_answer(found: Result<(), String>) -> BusAnswer {
    match found {
        Ok(()) => BusAnswer::Exists,
        Err(code) if code == NO_SUCH_BUS => BusAnswer::Missing,
        Err(reason) => BusAnswer::Unknown(reason),
    }
}

/// What the code of an entry decides; an error if it is to be sent again.
fn judge(code: Option<&str>) -> Result<Decided, &str> {
    match code {
        None => Ok(Decided::Published),
        Some(code) => match PERMANENT.iter().find(|known| **known == code) {
            Some(permanent) => Ok(Decided::DeadLetter(permanent)),
            None => Err(code),
        },
    }
}

/// Why a call failed: the code that the service returned, or what happened to the connection.
fn reason<E: ProvideErrorMetadata, R>(error: SdkError<E, R>) -> String {
    error.code().map_or_else(|| error.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_never_be_accepted_is_a_dead_letter() {
        assert_eq!(judge(None), Ok(Decided::Published));
        assert_eq!(judge(Some("MalformedDetail")), Ok(Decided::DeadLetter("MalformedDetail")));
        for passing in ["InternalFailure", "ThrottlingException", "NotAuthorizedForSourceException", "New"] {
            assert_eq!(judge(Some(passing)), Err(passing));
        }
    }

    #[test]
    fn only_a_bus_that_does_not_exist_is_missing() {
        assert_eq!(bus_answer(Ok(())), BusAnswer::Exists);
        assert_eq!(bus_answer(Err("ResourceNotFoundException".into())), BusAnswer::Missing);
        for passing in
            ["ThrottlingException", "AccessDeniedException", "InternalException", "dispatch failure"]
        {
            assert_eq!(bus_answer(Err(passing.into())), BusAnswer::Unknown(passing.into()));
        }
    }

    /// The size of a request's entries as EventBridge counts it.
    #[test]
    fn a_full_call_of_the_longest_events_is_below_the_limit() {
        let longest = event::tests::longest();
        let detail = event::detail(&longest).unwrap();
        let size = detail.len() + EVENT_SOURCE.len() + event::detail_type(&longest.kind).len();
        assert!(size * MAX_ENTRIES < 256 * 1024, "{size}");
    }
}
