//! docs/check_order_book.py finds who was cheated from the published files alone.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::fmt::Write as _;
use std::process::{Command, Output};

const STOCK: usize = 40;

/// An order: stamp, buyer, outcome.
type Line = (u64, String, &'static str);

/// Files as a correct drop leaves them: the orders, and the sales in their order.
fn drop_of(random: &mut SmallRng) -> (Vec<Line>, Vec<Line>) {
    let mut orders: Vec<Line> = (0..200_u64)
        .map(|number| {
            let outcome = ["", "", "", "", "refused", "withdrawn", "repeated"][random.random_range(0..7)];
            (1_795_000_000_000_000 + number * 977, format!("{:064x}", random.random::<u128>()), outcome)
        })
        .collect();
    let mut sold = 0;
    for (number, order) in orders.iter_mut().filter(|order| order.2.is_empty()).enumerate() {
        // A released unit goes to the next order.
        order.2 = if sold == STOCK { "queued" } else { ["sold", "released"][usize::from(number % 7 == 3)] };
        sold += usize::from(order.2 == "sold");
    }
    let sales = orders.iter().filter(|order| ["sold", "released"].contains(&order.2)).cloned().collect();
    orders.shuffle(random);
    (orders, sales)
}

fn check(orders: &[Line], sales: &[Line]) -> Output {
    let mut book = String::from("region,placed_at,buyer,outcome,reason\n");
    for (stamp, buyer, outcome) in orders {
        writeln!(book, "us-east-1,{stamp},{buyer},{outcome},").unwrap();
    }
    let mut audit = String::from("number,buyer,state,placed_at,region,reserved_at,epoch\n");
    for (number, (stamp, buyer, state)) in sales.iter().enumerate() {
        writeln!(audit, "{},{buyer},{state},{stamp},us-east-1,{},1", number + 1, stamp + 2_000_000).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let (orders, sales) = (folder.path().join("orders.csv"), folder.path().join("sales.csv"));
    std::fs::write(&orders, book).unwrap();
    std::fs::write(&sales, audit).unwrap();
    let script = local::system::process::workspace().join("docs/check_order_book.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(orders).arg(sales).args(["--stock", &STOCK.to_string()]);
    command.output().unwrap()
}

fn positions(orders: &[Line], outcome: &str) -> Vec<usize> {
    (0..orders.len()).filter(|position| orders[*position].2 == outcome).collect()
}

#[test]
fn a_correct_order_book_has_no_difference_and_a_swapped_pair_is_named() {
    let seed: u64 = rand::random();
    println!("seed: {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    for _ in 0..5 {
        let (orders, sales) = drop_of(&mut random);
        let output = check(&orders, &sales);
        assert!(output.status.success(), "{output:?}");
        let named = |output: Output, buyers: &[&str]| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(buyers.iter().any(|buyer| text.contains(buyer)), "{buyers:?} in {text}");
        };

        // The unit of a winner goes to a buyer who waits, in both files.
        let (sold, queued) = (positions(&orders, "sold"), positions(&orders, "queued"));
        let winner = sold[random.random_range(0..sold.len())];
        let loser = queued[random.random_range(0..queued.len())];
        let (mut cheated, mut changed) = (orders.clone(), sales.clone());
        cheated[winner].2 = "queued";
        cheated[loser].2 = "sold";
        let sale = changed.iter_mut().find(|sale| sale.1 == orders[winner].1).unwrap();
        *sale = cheated[loser].clone();
        changed.sort_by_key(|sale| sale.0);
        named(check(&cheated, &changed), &[&orders[winner].1]);

        // The same, and the sale keeps the winner's stamp.
        let mut changed = sales.clone();
        let sale = changed.iter_mut().find(|sale| sale.1 == orders[winner].1).unwrap();
        sale.1.clone_from(&orders[loser].1);
        named(check(&orders, &changed), &[&orders[loser].1]);

        // Two sales change their places.
        let mut changed = sales.clone();
        let first = random.random_range(0..changed.len() - 1);
        changed.swap(first, first + 1);
        named(check(&orders, &changed), &[&sales[first].1, &sales[first + 1].1]);

        // A sale without an order, and a sale that is missing.
        let mut changed = sales.clone();
        let removed = changed.remove(first);
        named(check(&orders, &changed), &[&removed.1]);
        let kept: Vec<Line> = orders.iter().filter(|order| order.1 != removed.1).cloned().collect();
        named(check(&kept, &sales), &[&removed.1]);
    }
}
