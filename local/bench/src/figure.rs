//! A measured figure and its bound.

use anyhow::Result;
use serde::Serialize;
use std::path::Path;

/// The bound of a figure.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) bound: Option<Bound>,
    pub(crate) holds: bool,
    /// How it was measured, and against what.
    pub(crate) against: String,
}

impl Figure {
    /// A figure without a bound, which is only shown.
    pub(crate) fn measured(
        name: &'static str,
        value: f64,
        unit: &'static str,
        against: impl Into<String>,
    ) -> Self {
        Self { name, value, unit, bound: None, holds: true, against: against.into() }
    }

    pub(crate) fn at_least(self, bound: f64) -> Self {
        Self { holds: self.value >= bound, bound: Some(Bound::AtLeast(bound)), ..self }
    }

    pub(crate) fn at_most(self, bound: f64) -> Self {
        Self { holds: self.value <= bound, bound: Some(Bound::AtMost(bound)), ..self }
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        std::fs::write(folder.join(format!("{}.json", self.name)), serde_json::to_string_pretty(self)?)?;
        Ok(())
    }
}

/// All figures as a table, one a line.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut table = format!("\n{:<38} {:>12} {:<10} {:<12} holds\n", "figure", "value", "unit", "bound");
    for figure in figures {
        let bound = match figure.bound {
            None => "shown".to_owned(),
            Some(Bound::AtLeast(bound)) => format!(">= {bound}"),
            Some(Bound::AtMost(bound)) => format!("<= {bound}"),
        };
        let holds = if figure.holds { "yes" } else { "NO" };
        table.push_str(&format!(
            "{:<38} {:>12.3} {:<10} {:<12} {holds}\n",
            figure.name, figure.value, figure.unit, bound
        ));
    }
    table
}

/// The median of some values; 0 if there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The least and the greatest value, which show how noisy the machine was.
pub(crate) fn range(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{least:.3} to {greatest:.3}")
}
