//! Metric math, as far as the template's alarms use it. Missing data in any operand makes the result missing: the
//! documents promise nothing better.

use super::Values;
use std::collections::BTreeMap;

/// The value of `text` in each period.
pub(super) fn evaluate(
    text: &str,
    known: &BTreeMap<String, Values>,
    range: usize,
    fills_unwritten: bool,
) -> Values {
    let tokens = tokens(text);
    let mut reader = Reader { tokens: &tokens, place: 0, known, range, fills_unwritten };
    let values = reader.comparison();
    assert_eq!(reader.place, tokens.len(), "{text}: not read to its end");
    values
}

fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut is_word = false;
    for one in text.chars() {
        let continues = one.is_ascii_alphanumeric() || one == '_' || one == '.';
        match tokens.last_mut() {
            Some(last) if continues && is_word => last.push(one),
            _ if one.is_whitespace() => {}
            _ => tokens.push(one.to_string()),
        }
        is_word = continues;
    }
    tokens
}

struct Reader<'a> {
    tokens: &'a [String],
    place: usize,
    known: &'a BTreeMap<String, Values>,
    range: usize,
    fills_unwritten: bool,
}

impl Reader<'_> {
    fn peek(&self) -> &str {
        self.tokens.get(self.place).map_or("", String::as_str)
    }

    fn next(&mut self) -> String {
        self.place += 1;
        self.tokens[self.place - 1].clone()
    }

    fn expect(&mut self, token: &str) {
        assert_eq!(self.next(), token);
    }

    fn comparison(&mut self) -> Values {
        let left = self.sum();
        match self.peek().to_owned().as_str() {
            operator @ (">" | "<") => {
                self.next();
                let right = self.sum();
                zip(&left, &right, |a, b| f64::from(u8::from(if operator == ">" { a > b } else { a < b })))
            }
            _ => left,
        }
    }

    fn sum(&mut self) -> Values {
        let mut left = self.product();
        loop {
            let operation: fn(f64, f64) -> f64 = match self.peek() {
                "+" => |a, b| a + b,
                "-" => |a, b| a - b,
                _ => return left,
            };
            self.next();
            left = zip(&left, &self.product(), operation);
        }
    }

    fn product(&mut self) -> Values {
        let mut left = self.value();
        loop {
            let operation: fn(f64, f64) -> f64 = match self.peek() {
                "*" => |a, b| a * b,
                "/" => |a, b| a / b,
                _ => return left,
            };
            self.next();
            left = zip(&left, &self.value(), operation);
        }
    }

    fn value(&mut self) -> Values {
        let token = self.next();
        match token.as_str() {
            "(" => {
                let inner = self.comparison();
                self.expect(")");
                inner
            }
            "IF" => {
                let [condition, then, otherwise] = self.arguments();
                (0..self.range)
                    .map(|at| if condition[at]? == 0.0 { otherwise[at] } else { then[at] })
                    .collect()
            }
            "FILL" => {
                let [series, filler] = self.arguments();
                let is_unwritten = series.iter().all(Option::is_none);
                if is_unwritten && !self.fills_unwritten {
                    return series;
                }
                series.iter().zip(filler).map(|(value, filler)| value.or(filler)).collect()
            }
            "MAX" | "MIN" => {
                self.expect("(");
                self.expect("[");
                let mut best = self.comparison();
                while self.peek() == "," {
                    self.next();
                    let other = self.comparison();
                    best = zip(&best, &other, if token == "MAX" { f64::max } else { f64::min });
                }
                self.expect("]");
                self.expect(")");
                best
            }
            number if number.starts_with(|first: char| first.is_ascii_digit()) => {
                vec![Some(number.parse().expect("a number")); self.range]
            }
            id => self.known.get(id).unwrap_or_else(|| panic!("{id} is not defined before")).clone(),
        }
    }

    fn arguments<const N: usize>(&mut self) -> [Values; N] {
        self.expect("(");
        let read = std::array::from_fn(|place| {
            if place > 0 {
                self.expect(",");
            }
            self.comparison()
        });
        self.expect(")");
        read
    }
}

fn zip(left: &Values, right: &Values, operation: impl Fn(f64, f64) -> f64) -> Values {
    left.iter().zip(right).map(|(a, b)| Some(operation((*a)?, (*b)?))).collect()
}
