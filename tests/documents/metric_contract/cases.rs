//! What the functions write for each alarm.

use super::*;

/// The phases of each alarm. The first is a healthy start, and the last a recovery.
pub(super) const CASES: &[(&str, &[Phase])] = &[
    (
        "OrdersRefusedAlarm",
        &[
            (|| orders(1_000, 5), IsOk),
            (|| orders(1_000, 100), InAlarm),
            (NOTHING, IsOk),
            // Since its deployment this region has queued no order.
            (|| orders(30, 30), InAlarm),
            (|| orders(1_000, 0), IsOk),
        ],
    ),
    (
        "LoggedOrdersRefusedAlarm",
        &[
            (|| decided(1_000, 5), IsOk),
            (|| decided(1_000, 100), InAlarm),
            (NOTHING, IsOk),
            (|| decided(30, 30), InAlarm),
            (|| decided(1_000, 0), IsOk),
        ],
    ),
    (
        "OrdersUndecidedAlarm",
        &[
            (|| accepted(1_000, 900), IsOk),
            (|| accepted(1_000, 0), InAlarm),
            (NOTHING, IsOk),
            // Since its deployment this region has decided no order.
            (|| accepted(30, 0), InAlarm),
            (|| accepted(1_000, 900), IsOk),
            (|| accepted(10, 0), IsOk),
        ],
    ),
    (
        "LogRecordsMalformedAlarm",
        &[(NOTHING, IsOk), (|| count("log_records_malformed", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "LogRecordsSetAsideAlarm",
        &[(NOTHING, IsOk), (|| count("log_records_set_aside", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "ReplayIncompleteAlarm",
        &[(NOTHING, IsOk), (|| set("items_restoring", 1.0), InAlarm), (|| set("items_restoring", 0.0), IsOk)],
    ),
    (
        "ClockOffAlarm",
        &[
            (|| clock(-1.0, 1.0), IsOk),
            (|| clock(30.0, 40.0), InAlarm),
            (NOTHING, IsOk),
            (|| clock(-40.0, -30.0), InAlarm),
            (|| clock(-1.0, 1.0), IsOk),
        ],
    ),
    ("LiveFailuresAlarm", &[(NOTHING, IsOk), (|| count("publish_failures", 1), InAlarm), (NOTHING, IsOk)]),
    (
        "LiveUnsentAlarm",
        &[
            (|| messages(100, 1), IsOk),
            (|| messages(100, 30), InAlarm),
            (NOTHING, IsOk),
            (|| messages(40, 40), InAlarm),
            (|| messages(100, 0), IsOk),
        ],
    ),
    // The drop ends with its last lag: the alarm must end, too.
    (
        "DrainLagAlarm",
        &[
            (|| set_of_item("drain_lag_ms", 10.0), IsOk),
            (|| set_of_item("drain_lag_ms", 6_000.0), InAlarm),
            (NOTHING, IsOk),
        ],
    ),
    (
        "DrainFailuresAlarm",
        &[(NOTHING, IsOk), (|| count_of_item("drain_failures", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "RecordLagAlarm",
        &[
            (|| set_of_item("record_lag_ms", 20.0), IsOk),
            (|| set_of_item("record_lag_ms", 11_000.0), InAlarm),
            (NOTHING, IsOk),
        ],
    ),
    (
        "WorkerFailuresAlarm",
        &[(NOTHING, IsOk), (|| count_of_item("worker_failures", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "LedgerRefusesAlarm",
        &[(NOTHING, IsOk), (|| count_of_item("reservations_refused", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "EventsLagAlarm",
        &[
            (|| set("events_lag_ms", 200.0), IsOk),
            (|| set("events_lag_ms", 61_000.0), InAlarm),
            (|| set("events_lag_ms", 0.0), IsOk),
            // No run writes it.
            (NOTHING, InAlarm),
            (|| set("events_lag_ms", 0.0), IsOk),
        ],
    ),
    (
        "EventDeadLettersAlarm",
        &[
            (|| set("event_dead_letters", 0.0), IsOk),
            (|| set("event_dead_letters", 1.0), InAlarm),
            (|| set("event_dead_letters", 0.0), IsOk),
        ],
    ),
    (
        "TokenKeysUnknownAlarm",
        &[(NOTHING, IsOk), (|| count("token_keys_unknown", 20), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "VoidsUnsettledAlarm",
        &[(NOTHING, IsOk), (|| set("voids_unsettled", 1.0), InAlarm), (|| set("voids_unsettled", 0.0), IsOk)],
    ),
    ("DeadTasksAlarm", &[(NOTHING, IsOk), (|| count_of_item("dead_letters", 1), InAlarm), (NOTHING, IsOk)]),
    (
        "LeaseMissedAlarm",
        &[
            (NOTHING, IsOk),
            (|| count("lease_renewals_failed", 5), InAlarm),
            (|| count("lease_renewals_failed", 1), IsOk),
        ],
    ),
    (
        "PaymentsRefusedAlarm",
        &[
            (|| payment_refused("payments_refused", "reservation-ended"), IsOk),
            (|| payment_refused("payments_refused", "unit-voided"), IsOk),
            (|| payment_refused("payments_refused", "no-reservation"), InAlarm),
            // A refused `failed` has no money behind it.
            (|| payment_refused("failed_payments_refused", "no-reservation"), IsOk),
        ],
    ),
    (
        "PaymentsUnavailableAlarm",
        &[(NOTHING, IsOk), (|| count("payments_unavailable", 1), InAlarm), (NOTHING, IsOk)],
    ),
    ("RefundsDueAlarm", &[(NOTHING, IsOk), (|| count("refunds_due", 1), InAlarm), (NOTHING, IsOk)]),
    // Known, unknown, known; and too old.
    (
        "SnapshotsStaleAlarm",
        &[
            (|| snapshots(Some(600), 80), IsOk),
            (|| snapshots(None, 80), InAlarm),
            (|| snapshots(Some(600), 80), IsOk),
            (|| snapshots(Some(90_000), 80), InAlarm),
            (|| snapshots(Some(600), 80), IsOk),
            (NOTHING, InAlarm),
            (|| snapshots(Some(600), 80), IsOk),
        ],
    ),
    (
        "TokenKeysStaleAlarm",
        &[
            (|| set("token_keys_age_seconds", 15.0), IsOk),
            (|| set("token_keys_age_seconds", 700.0), InAlarm),
            (|| set("token_keys_age_seconds", 15.0), IsOk),
            (NOTHING, InAlarm),
            (|| set("token_keys_age_seconds", 15.0), IsOk),
        ],
    ),
    (
        "SnapshotActionsAlarm",
        &[(NOTHING, IsOk), (|| count("snapshot_actions_failed", 1), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "SnapshotQuotaAlarm",
        &[(|| snapshots(Some(1), 80), IsOk), (|| snapshots(Some(1), 9), InAlarm), (NOTHING, IsOk)],
    ),
    (
        "ReplicaLagAlarm",
        &[
            (|| replica(Some(1.0), Some(1.0)), IsOk),
            (|| replica(None, Some(1.0)), InAlarm),
            (|| replica(Some(1.0), Some(1.0)), IsOk),
            (|| replica(Some(900.0), Some(1.0)), InAlarm),
            (|| replica(Some(1.0), Some(1.0)), IsOk),
        ],
    ),
    (
        "HeartbeatSilentAlarm",
        &[
            (|| replica(Some(1.0), Some(1.0)), IsOk),
            (|| replica(Some(1.0), None), InAlarm),
            (|| replica(Some(1.0), Some(1.0)), IsOk),
            (|| replica(Some(1.0), Some(900.0)), InAlarm),
            (|| replica(Some(1.0), Some(1.0)), IsOk),
        ],
    ),
    // A sample without any value shows that the function runs.
    (
        "WatcherSilentAlarm",
        &[(|| replica(None, None), IsOk), (NOTHING, InAlarm), (|| replica(None, None), IsOk)],
    ),
    (
        "FailoverNotReadyAlarm",
        &[
            (|| set("failover_ready", 1.0), IsOk),
            (|| set("failover_ready", 0.0), InAlarm),
            (|| set("failover_ready", 1.0), IsOk),
            (NOTHING, InAlarm),
            (|| set("failover_ready", 1.0), IsOk),
        ],
    ),
    // Without data the state stays: only a schedule that runs again ends it.
    (
        "FailoverUnfinishedAlarm",
        &[
            (|| set("failover_running", 0.0), IsOk),
            (|| set("failover_running", 1.0), InAlarm),
            (NOTHING, InAlarm),
            (|| set("failover_running", 0.0), IsOk),
        ],
    ),
    (
        "FailoverOutstandingAlarm",
        &[
            (|| set("failover_outstanding", 0.0), IsOk),
            (|| set("failover_outstanding", 1.0), InAlarm),
            (NOTHING, InAlarm),
            (|| set("failover_outstanding", 0.0), IsOk),
        ],
    ),
];
