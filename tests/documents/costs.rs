//! docs/COSTS.md must be the output of docs/costs.py, and the script must calculate correctly.

use serde_json::Value;
use std::process::Command;

fn costs(arguments: &[&str]) -> String {
    let script = local::system::process::workspace().join("docs/costs.py");
    let output = Command::new("python3").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn sum(table: &Value) -> f64 {
    table.as_object().unwrap().values().map(|dollars| dollars.as_f64().unwrap()).sum()
}

#[test]
fn the_page_is_the_output_of_the_script() {
    let page = std::fs::read_to_string(local::system::process::workspace().join("docs/COSTS.md")).unwrap();
    for printed in [costs(&[]), costs(&["--prices"])] {
        assert!(page.contains(printed.trim()), "docs/COSTS.md is not what docs/costs.py prints:\n{printed}");
    }
    let tables: Value = serde_json::from_str(&costs(&["--json"])).unwrap();
    let stores =
        tables.as_object().unwrap().iter().find(|(title, _)| title.contains("default sizes")).unwrap().1;
    let readme = std::fs::read_to_string(local::system::process::workspace().join("README.md")).unwrap();
    let cost = format!("{:.0} USD a month", sum(stores));
    assert!(readme.contains(&cost), "README.md does not state the stores' cost, {cost}");
}

#[test]
fn costs_are_calculated_correctly() {
    let drop = |orders: &str, polls: &str| -> Value {
        let tables: Value =
            serde_json::from_str(&costs(&["--json", "--orders", orders, "--polls", polls])).unwrap();
        tables.as_object().unwrap().iter().find(|(title, _)| title.starts_with("One drop")).unwrap().1.clone()
    };
    assert_eq!(sum(&drop("0", "5")), 0.0);
    let (one, two) = (sum(&drop("1000000", "5")), sum(&drop("2000000", "5")));
    assert!((two - 2.0 * one).abs() < 1e-9, "{one} {two}");
    // By hand: a million requests without status polls, at 1.00 and 0.20 USD a million.
    let alone = drop("1000000", "0");
    assert_eq!((&alone["API Gateway"], &alone["Lambda, requests"]), (&1.0.into(), &0.2.into()));
    assert_eq!(alone["Lambda, order-status"], 0.0);
    assert!(
        (alone["Lambda, order-intake"].as_f64().unwrap() - 1e6 * 0.16 * 0.25 * 0.0000166667).abs() < 1e-9
    );
}

/// Each price names what it is for, AWS's page, and when and how it was read.
#[test]
fn every_price_has_a_source() {
    let printed = costs(&["--prices"]);
    let rows: Vec<&str> = printed.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 15, "{printed}");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        assert!(cells[3].starts_with("<https://aws.amazon.com/"), "{row}");
        assert!(cells[4].contains("20") || cells[4].ends_with("recalled"), "{row}");
    }
}
