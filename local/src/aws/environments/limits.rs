//! How many processes a function has, and what happens to an invocation beyond them.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

/// What happens to an invocation if no process is free and none may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// It waits for a process, in order of arrival. A machine with two cores has far fewer processes than AWS, where such a
    /// crowd would not be throttled.
    Waits,
    /// It is throttled, as Lambda does.
    Throttled,
}

/// The processes of a function on classic Lambda, each of which serves one invocation and is then frozen until the next
/// one. On AWS both numbers are 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassicLimits {
    /// New processes at once, and as many more in each 10 s.
    pub scaling_rate: u32,
    /// Processes in all: the function's reserved concurrency.
    pub most: u32,
    pub excess: Excess,
    /// How long a process may take until it asks for its first invocation. `None` for any time, since processes that start
    /// together share the cores of this machine, and have their own on AWS.
    pub init: Option<Duration>,
    /// Each invocation gets a new process, as in a crowd that meets none, and so many start at a time. If all started at
    /// once, each would take as long as all together.
    pub cold: Option<u32>,
}

/// Lambda's limit for the INIT phase.
const INIT_LIMIT: Duration = Duration::from_secs(10);

impl ClassicLimits {
    /// Limits for a crowd on one machine: an invocation beyond them waits.
    pub const fn waiting(scaling_rate: u32, most: u32) -> Self {
        Self { scaling_rate, most, excess: Excess::Waits, init: None, cold: None }
    }

    /// Limits as AWS's documents have them.
    pub const fn strict(scaling_rate: u32, most: u32) -> Self {
        Self { scaling_rate, most, excess: Excess::Throttled, init: Some(INIT_LIMIT), cold: None }
    }
}

/// When processes start and stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scaling {
    Classic(ClassicLimits),
    /// One process always runs, and more start while all are busy. None is frozen.
    Kept {
        /// Invocations that a process serves at once.
        concurrency: u32,
        /// Processes in all.
        most: u32,
    },
}

impl Scaling {
    pub(super) fn concurrency(self) -> usize {
        match self {
            Self::Classic(_) => 1,
            Self::Kept { concurrency, .. } => concurrency.max(1) as usize,
        }
    }

    pub(super) fn most(self) -> usize {
        match self {
            Self::Classic(ClassicLimits { most, .. }) | Self::Kept { most, .. } => most.max(1) as usize,
        }
    }

    pub(super) fn is_classic(self) -> bool {
        matches!(self, Self::Classic(_))
    }

    pub(super) fn throttles(self) -> bool {
        matches!(self, Self::Classic(ClassicLimits { excess: Excess::Throttled, .. }))
    }

    /// How many new processes may start at a time, if each invocation gets one.
    pub(super) fn cold(self) -> Option<usize> {
        match self {
            Self::Classic(limits) => limits.cold.map(|starting| starting.max(1) as usize),
            Self::Kept { .. } => None,
        }
    }

    /// How long INIT may take.
    pub(super) fn init(self) -> Option<Duration> {
        match self {
            Self::Classic(limits) => limits.init,
            Self::Kept { .. } => None,
        }
    }

    /// How long a caller waits, if the function may take `limit`. On classic Lambda that time begins when a process has
    /// the invocation.
    pub(super) fn timeout(self, limit: Duration) -> Duration {
        match self {
            Self::Classic(limits) => 2 * limit + limits.init.unwrap_or_default(),
            Self::Kept { .. } => limit,
        }
    }
}

/// An invocation that Lambda has refused because of the function's limits: status 429, `TooManyRequestsException`. It was
/// not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttled {
    pub function: String,
    pub why: &'static str,
}

impl Display for Throttled {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be invoked: {}", self.function, self.why)
    }
}

impl std::error::Error for Throttled {}
