//! Why a record is undecided, and so whether it waits or is set aside.

use shared::queue::{ItemError, LinkError, PlaceError};

/// Why a record is undecided.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Undecided {
    /// Main has not decided yet. Other items' records have the same cause, or it ends within a second.
    #[error("{0}")]
    Main(String),
    /// The cause is the item alone.
    #[error("{0}")]
    Item(String),
}

impl From<LinkError> for Undecided {
    fn from(error: LinkError) -> Self {
        if error.is_of_the_keys() { Self::Item(error.to_string()) } else { Self::Main(error.to_string()) }
    }
}

impl From<ItemError> for Undecided {
    fn from(error: ItemError) -> Self {
        match error {
            ItemError::Link(error) => error.into(),
            error => Self::Item(error.to_string()),
        }
    }
}

impl From<PlaceError> for Undecided {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::BadKeys => Self::Item(error.to_string()),
            PlaceError::Unreachable | PlaceError::Unknown => Self::Main(error.to_string()),
        }
    }
}
