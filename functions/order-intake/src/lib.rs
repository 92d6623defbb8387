//! Order intake, in every region: stamps the order first, and verifies the buyer's token. Then it stores the order in the
//! region's order log; or, if there is none, makes one round trip to main.

mod answer;
mod body;
mod logged;

pub use answer::AcceptedOrder;

use lambda_http::http::Method;
use lambda_http::{Body, Request, Response};
use order_log::OrderLog;
use shared::clock_check::{ClockCheck, ClockVerdict, OffsetBounds};
use shared::config::{self, ConfigError, Source};
use shared::edge::Edge;
use shared::http;
use shared::item::{Gate, Item};
use shared::main_use::{MainUse, NEARBY_LIMIT};
use shared::problem::Problem;
use shared::queue::{Order, OrderState, PlaceError, Placement, Placing};
use shared::region::RegionNumber;
use shared::stamp::Stamp;
use std::time::Instant;

/// The methods of the path.
const ALLOW: &str = "POST, OPTIONS";

/// State that one process of the function keeps between requests.
#[derive(Debug)]
pub struct App {
    edge: Edge,
    clock_check: ClockCheck,
    region: RegionNumber,
    /// The region's order log, if orders go through it.
    log: Option<OrderLog>,
}

impl App {
    /// Reads the configuration. Opens no connection.
    pub fn from_config(source: Source) -> Result<Self, ConfigError> {
        let log = OrderLog::from_config(source)?;
        // An order that the log has is accepted, whatever main says.
        let main_use = if log.is_some() { MainUse::BeforeRefusals } else { MainUse::Always };
        Ok(Self {
            edge: Edge::from_config(source, main_use)?,
            clock_check: ClockCheck::default(),
            region: RegionNumber::named(&config::region(source)?),
            log,
        })
    }

    /// Starts connecting in the background.
    pub fn open(&self) {
        self.edge.open();
    }
}

/// Handles one order.
pub async fn handle(app: &App, request: &Request) -> Result<Response<Body>, Problem> {
    // The stamp is taken before any await: opening a connection must not cost the buyer their position.
    let placed_at = app.region.encode_in(app.edge.clock.arrival(http::gateway_epoch_ms(request)));
    if request.method() == Method::OPTIONS {
        return Ok(http::options(ALLOW));
    }
    let taken = take_order(app, request, placed_at).await;
    // In one line with the counters below: the alarm divides by it, and needs no value that stands in for a missing one.
    metrics::counter!("orders_answered").increment(1);
    match taken {
        Ok(accepted) => {
            metrics::counter!("orders_queued").increment(u64::from(accepted.is_queued()));
            metrics::counter!("orders_accepted").increment(u64::from(!accepted.is_queued()));
            if !accepted.is_queued() {
                // Added to what order-place decides: the alarm has a value also if order-place writes none.
                metrics::gauge!("log_orders_decided").set(0.0);
            }
            accepted.into_response()
        }
        Err(problem) => {
            metrics::counter!("orders_refused", "Reason" => problem.slug()).increment(1);
            metrics::counter!("orders_lost").increment(u64::from(is_lost(&problem)));
            Err(problem)
        }
    }
}

/// Whether an order is refused for a reason that is not the buyer's.
fn is_lost(problem: &Problem) -> bool {
    matches!(
        problem,
        Problem::MainUnreachable
            | Problem::LogUnavailable
            | Problem::OutcomeUnknown
            | Problem::TooLate
            | Problem::ClockAhead
            | Problem::ClockOff
            | Problem::Internal
    )
}

async fn take_order(app: &App, request: &Request, placed_at: Stamp) -> Result<AcceptedOrder, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::MethodNotAllowed { allow: ALLOW });
    }
    let item_id = http::item_id(request)?;
    body::check(request.body())?;
    let began = Instant::now();
    let user_token = app.edge.buyer(http::bearer_token(request)?, Problem::MainUnreachable).await?;
    if let Some(log) = &app.log {
        let gates_wait = NEARBY_LIMIT.saturating_sub(began.elapsed());
        return logged::take_order(app, log, &Order { item_id, user_token, placed_at }, gates_wait).await;
    }
    check_clock(app).await?;

    let copy = app.edge.item_for_order(&item_id, placed_at).await?;
    if !copy.may_be_sold() {
        return Err(Problem::MainUnreachable);
    }
    let item = &copy.item;
    let order = Order { item_id, user_token, placed_at };
    if let Some(refusal) = gate_problem(item, placed_at)
        && let Some(accepted) = confirm_refusal(app, &order, refusal).await?
    {
        return Ok(accepted);
    }
    let window = item.settle_window();
    let placing =
        app.edge.queue.place(&order, window, &app.edge.clock).await.map_err(|unplaced| match unplaced {
            PlaceError::Unreachable => Problem::MainUnreachable,
            PlaceError::Unknown => Problem::OutcomeUnknown,
            PlaceError::BadKeys => Problem::Internal,
        })?;
    record_clock(app, placing.clock_offset);
    placement_answer(&order, placing)
}

fn placement_answer(order: &Order, placing: Placing) -> Result<AcceptedOrder, Problem> {
    match placing.placement {
        Placement::Queued => {
            metrics::histogram!("transit_ms").record(placing.transit_micros as f64 / 1000.0);
            Ok(AcceptedOrder::now(order))
        }
        Placement::AlreadyQueued { placed_at } => Ok(AcceptedOrder::before(order, placed_at)),
        Placement::AlreadyTaken { sold: true } => Err(Problem::AlreadySold),
        Placement::AlreadyTaken { sold: false } => Err(Problem::AlreadyReserved),
        Placement::TooLate | Placement::Released | Placement::ClockAhead
            if !placing.clock_offset.is_tolerable() =>
        {
            Err(Problem::ClockOff)
        }
        Placement::TooLate | Placement::Released => Err(Problem::TooLate),
        Placement::ClockAhead => Err(Problem::ClockAhead),
        Placement::Closed => Err(Problem::Closed),
    }
}

/// Why the item refuses an order stamped `placed_at`, by the cached copy.
fn gate_problem(item: &Item, placed_at: Stamp) -> Option<Problem> {
    if item.is_finished() {
        return Some(Problem::Closed);
    }
    match item.gate(placed_at) {
        Gate::NotOpenYet => Some(Problem::NotOpenYet { opens_at: item.opens_at, placed_at }),
        Gate::Closed => Some(Problem::Closed),
        Gate::Open if item.is_sold_out() => Some(Problem::SoldOut),
        Gate::Open => None,
    }
}

/// Asks main before a refusal that is final: the copy of the item may be old, and a buyer who has an order or a unit gets
/// its state instead. `None`: by main's own item, the order is to be placed.
async fn confirm_refusal(
    app: &App,
    order: &Order,
    refusal: Problem,
) -> Result<Option<AcceptedOrder>, Problem> {
    if matches!(refusal, Problem::NotOpenYet { .. }) {
        return Err(refusal);
    }
    let asked = app.edge.queue.item_and_order(&order.item_id, &order.user_token).await;
    let (item, state, _) = asked.map_err(|_| Problem::StatusUnavailable)?;
    match state {
        OrderState::Queued { placed_at, .. } if !item.is_finished() => {
            Ok(Some(AcceptedOrder::before(order, placed_at)))
        }
        OrderState::Reserved(_) => Err(Problem::AlreadyReserved),
        OrderState::Sold => Err(Problem::AlreadySold),
        OrderState::None
        | OrderState::Queued { .. }
        | OrderState::Released
        | OrderState::Voided
        | OrderState::Excluded => gate_problem(&item, order.placed_at).map_or(Ok(None), Err),
    }
}

/// Refuses orders while this machine's clock is known to be wrong. Measures the clock again once a second.
async fn check_clock(app: &App) -> Result<(), Problem> {
    match app.clock_check.verdict() {
        ClockVerdict::MayStamp => return Ok(()),
        ClockVerdict::Wrong(_) => return Err(Problem::ClockOff),
        ClockVerdict::Remeasure => {}
    }
    let sent = app.edge.clock.now();
    let main = app.edge.queue.main_time().await.map_err(|_| Problem::MainUnreachable)?;
    let bounds = OffsetBounds::from_exchange(sent, main, app.edge.clock.now());
    record_clock(app, bounds);
    if bounds.is_tolerable() { Ok(()) } else { Err(Problem::ClockOff) }
}

fn record_clock(app: &App, bounds: OffsetBounds) {
    app.clock_check.record(bounds);
    bounds.set_metrics();
    if !bounds.is_tolerable() {
        tracing::error!(
            offset_low_ms = bounds.low / 1000,
            offset_high_ms = bounds.high / 1000,
            "this region's clock differs from main's by more than the tolerance; orders are refused until it agrees"
        );
    }
}
