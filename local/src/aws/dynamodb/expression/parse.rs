//! Reading expressions.

use super::{Change, Condition, Operand};
use crate::aws::dynamodb::failure::Failure;
use crate::aws::dynamodb::value;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, VecDeque};

/// The names and values of a request. Each of them must be used by one of its expressions.
#[derive(Debug)]
pub(in crate::aws::dynamodb) struct Placeholders<'a> {
    names: Option<&'a Map<String, Value>>,
    values: Option<&'a Map<String, Value>>,
    used: BTreeSet<String>,
}

struct Tokens<'a, 'b> {
    rest: VecDeque<String>,
    placeholders: &'b mut Placeholders<'a>,
}

impl<'a> Placeholders<'a> {
    pub(in crate::aws::dynamodb) fn of(request: &'a Value) -> Result<Self, Failure> {
        let map = |name: &str| request.get(name).and_then(Value::as_object);
        let (names, values) = (map("ExpressionAttributeNames"), map("ExpressionAttributeValues"));
        values.into_iter().flat_map(Map::values).try_for_each(value::check)?;
        if names.is_some_and(Map::is_empty) || values.is_some_and(Map::is_empty) {
            return Err(Failure::validation(
                "ExpressionAttributeNames or ExpressionAttributeValues must not be empty",
            ));
        }
        Ok(Self { names, values, used: BTreeSet::new() })
    }

    /// The condition called `name` in the request.
    pub(in crate::aws::dynamodb) fn condition(
        &mut self,
        request: &Value,
        name: &str,
    ) -> Result<Option<Condition>, Failure> {
        self.parse(request, name, |tokens| tokens.any())
    }

    pub(in crate::aws::dynamodb) fn changes(&mut self, request: &Value) -> Result<Vec<Change>, Failure> {
        Ok(self.parse(request, "UpdateExpression", |tokens| tokens.changes())?.unwrap_or_default())
    }

    fn parse<T>(
        &mut self,
        request: &Value,
        name: &str,
        read: impl Fn(&mut Tokens) -> Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        let Some(text) = request.get(name).and_then(Value::as_str) else { return Ok(None) };
        let mut tokens = Tokens { rest: tokens(text)?, placeholders: self };
        let parsed = read(&mut tokens)?;
        if let Some(token) = tokens.rest.front() {
            return Err(Failure::validation(format!("Invalid {name}: Syntax error; token: \"{token}\"")));
        }
        Ok(Some(parsed))
    }

    /// The attribute that `name` stands for.
    pub(in crate::aws::dynamodb) fn name(&mut self, name: &str) -> Result<String, Failure> {
        Tokens { rest: [name.to_owned()].into(), placeholders: self }.attribute()
    }

    /// After all expressions are read.
    pub(in crate::aws::dynamodb) fn must_be_used(&self) -> Result<(), Failure> {
        let given = [self.names, self.values].into_iter().flatten().flat_map(Map::keys);
        match given.into_iter().find(|name| !self.used.contains(*name)) {
            Some(name) => Err(Failure::validation(format!("{name} is unused in the request's expressions"))),
            None => Ok(()),
        }
    }
}

/// Words, names, values and signs.
fn tokens(text: &str) -> Result<VecDeque<String>, Failure> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut tokens = VecDeque::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let mut token = letter.to_string();
        match letter {
            ' ' | '\t' | '\n' => continue,
            '#' | ':' => {}
            '<' | '>' => {
                if let Some(sign) = letters.next_if(|next| *next == '=' || (letter == '<' && *next == '>')) {
                    token.push(sign);
                }
                tokens.push_back(token);
                continue;
            }
            '=' | '(' | ')' | ',' | '+' | '-' => {
                tokens.push_back(token);
                continue;
            }
            _ if is_word(letter) => {}
            _ => return Err(Failure::unsupported(format!("the sign {letter} in the expression {text}"))),
        }
        while let Some(next) = letters.next_if(|next| is_word(*next)) {
            token.push(next);
        }
        tokens.push_back(token);
    }
    if tokens.is_empty() {
        return Err(Failure::validation("The expression can not be empty"));
    }
    Ok(tokens)
}

impl Tokens<'_, '_> {
    fn next(&mut self) -> Result<String, Failure> {
        self.rest.pop_front().ok_or_else(|| Failure::validation("Syntax error; token: <EOF>"))
    }

    fn take(&mut self, word: &str) -> bool {
        let is_next = self.rest.front().is_some_and(|token| token.eq_ignore_ascii_case(word));
        if is_next {
            self.rest.pop_front();
        }
        is_next
    }

    fn must(&mut self, word: &str) -> Result<(), Failure> {
        if self.take(word) {
            return Ok(());
        }
        Err(Failure::validation(format!("Syntax error; expected {word} before {:?}", self.rest.front())))
    }

    fn any(&mut self) -> Result<Condition, Failure> {
        let mut parts = vec![self.all()?];
        while self.take("OR") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::Any(parts) })
    }

    fn all(&mut self) -> Result<Condition, Failure> {
        let mut parts = vec![self.one()?];
        while self.take("AND") {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::All(parts) })
    }

    fn one(&mut self) -> Result<Condition, Failure> {
        if self.take("NOT") {
            return Ok(Condition::Not(Box::new(self.one()?)));
        }
        if self.take("(") {
            let inner = self.any()?;
            self.must(")")?;
            return Ok(inner);
        }
        for (word, exists) in [("attribute_exists", true), ("attribute_not_exists", false)] {
            if self.take(word) {
                self.must("(")?;
                let name = self.attribute()?;
                self.must(")")?;
                let found = Condition::Exists(name);
                return Ok(if exists { found } else { Condition::Not(Box::new(found)) });
            }
        }
        if self.take("begins_with") {
            self.must("(")?;
            let whole = self.operand()?;
            self.must(",")?;
            let start = self.operand()?;
            self.must(")")?;
            return Ok(Condition::BeginsWith(whole, start));
        }
        let left = self.operand()?;
        if self.take("BETWEEN") {
            let low = self.operand()?;
            self.must("AND")?;
            return Ok(Condition::Between(left, low, self.operand()?));
        }
        let sign = self.next()?;
        if !["=", "<>", "<", "<=", ">", ">="].contains(&sign.as_str()) {
            return Err(Failure::validation(format!("Syntax error; token: \"{sign}\"")));
        }
        Ok(Condition::Compare(left, sign, self.operand()?))
    }

    fn operand(&mut self) -> Result<Operand, Failure> {
        if self.rest.front().is_some_and(|token| token.starts_with(':')) {
            return self.value().map(Operand::Value);
        }
        self.attribute().map(Operand::Attribute)
    }

    fn value(&mut self) -> Result<Value, Failure> {
        let name = self.next()?;
        let value = self.placeholders.values.and_then(|values| values.get(&name)).cloned();
        self.placeholders.used.insert(name.clone());
        value.ok_or_else(|| {
            Failure::validation(format!(
                "An expression attribute value used in expression is not defined: {name}"
            ))
        })
    }

    fn attribute(&mut self) -> Result<String, Failure> {
        let name = self.next()?;
        if !name.starts_with('#') {
            return match name.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
                true => Ok(name),
                false => Err(Failure::validation(format!("Syntax error; token: \"{name}\""))),
            };
        }
        let named = self.placeholders.names.and_then(|names| names.get(&name)?.as_str());
        self.placeholders.used.insert(name.clone());
        named.map(str::to_owned).ok_or_else(|| {
            Failure::validation(format!(
                "An expression attribute name used in the document path is not defined: {name}"
            ))
        })
    }

    fn changes(&mut self) -> Result<Vec<Change>, Failure> {
        let mut changes = Vec::new();
        while let Some(clause) = self.rest.pop_front() {
            loop {
                let name = match clause.to_ascii_uppercase().as_str() {
                    "SET" | "REMOVE" | "ADD" => self.attribute()?,
                    _ => {
                        return Err(Failure::validation(format!(
                            "Invalid UpdateExpression: token: \"{clause}\""
                        )));
                    }
                };
                changes.push(match clause.to_ascii_uppercase().as_str() {
                    "REMOVE" => Change::Remove(name),
                    "ADD" => Change::Add(name, self.value()?),
                    _ => self.set(name)?,
                });
                if !self.take(",") {
                    break;
                }
            }
        }
        let names: BTreeSet<&str> = changes.iter().map(Change::attribute).collect();
        if names.len() < changes.len() {
            return Err(Failure::validation(
                "Invalid UpdateExpression: Two document paths overlap with each other",
            ));
        }
        Ok(changes)
    }

    fn set(&mut self, name: String) -> Result<Change, Failure> {
        self.must("=")?;
        if self.take("if_not_exists") {
            self.must("(")?;
            let other = self.attribute()?;
            self.must(",")?;
            let value = self.operand()?;
            self.must(")")?;
            return Ok(Change::SetIfMissing(name, other, value));
        }
        let first = self.operand()?;
        for (sign, is_less) in [("+", false), ("-", true)] {
            if self.take(sign) {
                return Ok(Change::SetSum(name, first, self.operand()?, is_less));
            }
        }
        Ok(Change::Set(name, first))
    }
}
