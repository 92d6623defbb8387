//! The Redis and the ledger of a region: which units are held, sold or released, and what replication has copied.

/// How long buyers of an item may take to pay, and its stock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ItemTerms {
    pub(crate) stock: u64,
    /// In microseconds; 0: a reservation is sold at once.
    pub(crate) hold: u64,
    /// No unit is taken before, by the clock of the region's Redis.
    pub(crate) opens_at: u64,
}

/// What a store knows of a buyer's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Held { until: u64 },
    Sold,
    Released,
}

impl Unit {
    /// Whether it is taken out of the stock.
    fn is_taken(self) -> bool {
        self != Self::Released
    }
}

/// A buyer is a number that is used once, for one item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) item: usize,
    pub(crate) buyer: usize,
    pub(crate) unit: Unit,
}

/// A Redis or a ledger.
#[derive(Debug)]
pub(crate) struct Store {
    /// By buyer.
    units: Vec<Option<(usize, Unit)>>,
    /// Units that are taken, by item.
    taken: Vec<u64>,
    /// Buyers whose unit is held, in the order of their reservations.
    pub(crate) held: Vec<usize>,
    /// All changes made here, in order.
    pub(crate) log: Vec<Change>,
    /// How much of main's log is applied here.
    pub(crate) applied: usize,
}

impl Store {
    pub(crate) fn new(items: usize) -> Self {
        Self { units: Vec::new(), taken: vec![0; items], held: Vec::new(), log: Vec::new(), applied: 0 }
    }

    pub(crate) fn unit(&self, buyer: usize) -> Option<Unit> {
        self.units.get(buyer).copied().flatten().map(|(_, unit)| unit)
    }

    pub(crate) fn item_of(&self, buyer: usize) -> Option<usize> {
        self.units.get(buyer).copied().flatten().map(|(item, _)| item)
    }

    pub(crate) fn taken(&self, item: usize) -> u64 {
        self.taken[item]
    }

    /// The number of buyers that it may know.
    pub(crate) fn buyers(&self) -> usize {
        self.units.len()
    }

    pub(crate) fn sold(&self) -> impl Iterator<Item = (usize, usize)> {
        let sold = |(buyer, unit): (usize, &Option<(usize, Unit)>)| match unit {
            Some((item, Unit::Sold)) => Some((*item, buyer)),
            _ => None,
        };
        self.units.iter().enumerate().filter_map(sold)
    }

    pub(crate) fn write(&mut self, change: Change) {
        self.log.push(change);
        self.apply(change);
    }

    fn apply(&mut self, Change { item, buyer, unit }: Change) {
        if self.units.len() <= buyer {
            self.units.resize(buyer + 1, None);
        }
        let before = self.units[buyer].replace((item, unit)).map(|(_, unit)| unit);
        let was_held = matches!(before, Some(Unit::Held { .. }));
        match (was_held, unit) {
            (true, Unit::Held { .. }) => {}
            (true, _) => self.held.retain(|held| *held != buyer),
            (false, Unit::Held { .. }) => self.held.push(buyer),
            (false, _) => {}
        }
        self.taken[item] += u64::from(unit.is_taken());
        self.taken[item] -= u64::from(before.is_some_and(Unit::is_taken));
    }

    /// A copy of main's log arrives. An older one changes nothing.
    pub(crate) fn replicate(&mut self, main: &Self, to: usize) {
        if to > self.applied {
            main.log[self.applied..to].iter().for_each(|change| self.apply(*change));
            self.applied = to;
        }
    }
}

/// An item in a region, next to its units.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ItemState {
    /// The epoch in Redis.
    pub(crate) epoch: u64,
    pub(crate) withheld: u64,
    /// Reservations of buyers below this number stay reserved until an operator has compared.
    pub(crate) old_holds_below: usize,
}

/// What the new main does to one item before it sells it: a unit is free only if neither store has it as held or sold.
/// `shared/reconcile` does the same to real stores.
pub(crate) fn reconcile(
    (redis, ledger): (&mut Store, &Store),
    (item, state): (usize, &mut ItemState),
    stock: u64,
    withhold: u64,
) {
    let buyers = redis.buyers().max(ledger.buyers());
    for buyer in 0..buyers {
        let unit = match (ledger.unit(buyer), redis.unit(buyer)) {
            // Sold by the old main in a transaction that was not replicated.
            (Some(Unit::Held { .. }), Some(Unit::Sold)) => continue,
            (Some(unit), known) if known != Some(unit) => unit,
            // Only Redis has it: the new main's worker records it, or ends its hold.
            _ => continue,
        };
        if ledger.item_of(buyer) == Some(item) {
            redis.write(Change { item, buyer, unit });
        }
    }
    // The ledger keeps what was withheld; another Redis may not know what the one before had promised.
    let free = stock.saturating_sub(redis.taken(item).max(ledger.taken(item)) + state.withheld);
    state.withheld = state.withheld.max(withhold.min(state.withheld + free));
    state.old_holds_below = if withhold > 0 { buyers } else { 0 };
}
