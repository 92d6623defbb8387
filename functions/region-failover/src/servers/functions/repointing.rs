//! The next step by which a function is repointed. Pure: nothing here calls a server.

use super::wake::Readiness;

/// A function's configuration, or one of its published versions, as Lambda describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    pub readiness: Readiness,
    /// An update is in progress. A version never has one.
    pub is_changing: bool,
    /// The last update has failed, and has changed nothing.
    pub has_failed: bool,
    /// Its variables send orders to the new main.
    pub finds_main: bool,
}

/// What is done next for a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepointingStep {
    Done,
    /// Lambda refuses changes now.
    Wait,
    Wake,
    Update,
    /// Publish the configuration as a version. Without a change since the last version Lambda returns that one, with its
    /// present state.
    Publish,
}

/// What is done with the version that a publication has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishedStep {
    /// It is not active yet. The next publication returns it again.
    Wait,
    /// It serves no order, and Lambda publishes no other version of an unchanged configuration: change that.
    Change,
    /// The alias gets it.
    Name,
    /// The alias gets it, and an invocation below the alias wakes it.
    NameAndWake,
}

impl Described {
    /// Whether it sends orders to the new main.
    pub fn is_repointed(self) -> bool {
        !self.is_changing && !self.has_failed && self.finds_main
    }
}

/// The next step for a function with this configuration; `version` is the one that its alias names, if it is invoked by an
/// alias.
pub fn next_step(own: Described, version: Option<Described>) -> RepointingStep {
    match own.readiness {
        _ if own.is_changing => RepointingStep::Wait,
        // Lambda refuses changes of a pending function. Whether it accepts those of an inactive one is not documented.
        Readiness::Pending => RepointingStep::Wait,
        Readiness::Inactive => RepointingStep::Wake,
        // A failed update has changed nothing: the next update replaces it. A new configuration may also cure a broken
        // function: Lambda decides.
        Readiness::Broken | Readiness::Active if !own.is_repointed() => RepointingStep::Update,
        Readiness::Broken | Readiness::Active if version.is_none_or(serves_orders) => RepointingStep::Done,
        Readiness::Broken | Readiness::Active => RepointingStep::Publish,
    }
}

/// Whether a version serves orders of the new main: not before it is active, even if it has the right variables.
pub fn serves_orders(version: Described) -> bool {
    version.readiness == Readiness::Active && version.is_repointed()
}

/// What follows a publication that has returned a version in this state.
pub fn after_publishing(readiness: Readiness) -> PublishedStep {
    match readiness {
        Readiness::Pending => PublishedStep::Wait,
        Readiness::Broken => PublishedStep::Change,
        Readiness::Active => PublishedStep::Name,
        Readiness::Inactive => PublishedStep::NameAndWake,
    }
}
