//! The shop's store: a file of entries, one a line. An entry is on the disk before anything follows from it.
//!
//! Entries that come together are written together: one `fdatasync` for all of them. The file is written again with what
//! is still of use at each start, and when it has grown.

use crate::books::Entry;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

/// Lines after which the file is written again, beyond twice what it would have then.
const REWRITE_AFTER: usize = 20_000;

/// Resolves when an entry is on the disk.
pub(crate) type Durable = oneshot::Receiver<()>;

enum Order {
    Append(String, oneshot::Sender<()>),
    Rewrite(Vec<String>),
}

/// The journal, which has one writer. Callers order their entries by a lock of their own.
#[derive(Debug)]
pub(crate) struct Journal {
    orders: Sender<Order>,
    lines: usize,
    rewrite_at: usize,
}

impl Journal {
    /// Reads the entries in `folder`, and lets `record` record each of them in order.
    pub(crate) fn read(folder: &Path, mut record: impl FnMut(Entry)) -> Result<()> {
        let path = path_in(folder);
        if !path.is_file() {
            return Ok(());
        }
        let mut lines = BufReader::new(File::open(&path)?);
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            number += 1;
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            match serde_json::from_slice(&line) {
                Ok(entry) if line.ends_with(b"\n") => record(entry),
                // The shop died while it wrote this entry, so that nothing has followed from it.
                _ if lines.fill_buf()?.is_empty() => return Ok(()),
                _ => bail!(
                    "line {number} of {} is damaged; restore the file, or payments are unknown",
                    path.display()
                ),
            }
        }
    }

    /// Starts writing in `folder`, first all of `entries` in place of what is there.
    pub(crate) fn write(folder: &Path, entries: &[Entry]) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let lines = encoded(entries)?;
        let file = rewrite(folder, &lines)?;
        let (orders, received) = channel();
        let folder = folder.to_owned();
        std::thread::Builder::new().name("journal".into()).spawn(move || {
            if let Err(error) = keep_writing(&folder, file, &received) {
                // A shop that cannot remember must not take money. What is not durable has had no effect.
                eprintln!("fairdrop-shop ends: it could not write its journal: {error:#}");
                std::process::exit(1);
            }
        })?;
        Ok(Self { orders, lines: lines.len(), rewrite_at: rewrite_at(lines.len()) })
    }

    /// Appends an entry.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<Durable> {
        let (written, durable) = oneshot::channel();
        self.send(Order::Append(serde_json::to_string(entry)?, written))?;
        self.lines += 1;
        Ok(durable)
    }

    /// Whether the file has become long.
    pub(crate) fn is_long(&self) -> bool {
        self.lines > self.rewrite_at
    }

    /// Replaces the file by `entries`.
    pub(crate) fn replace(&mut self, entries: &[Entry]) -> Result<()> {
        let lines = encoded(entries)?;
        (self.lines, self.rewrite_at) = (lines.len(), rewrite_at(lines.len()));
        self.send(Order::Rewrite(lines))
    }

    fn send(&self, order: Order) -> Result<()> {
        self.orders.send(order).ok().context("the journal's writer has ended")
    }
}

fn rewrite_at(lines: usize) -> usize {
    REWRITE_AFTER + 2 * lines
}

fn path_in(folder: &Path) -> PathBuf {
    folder.join("journal.jsonl")
}

fn encoded(entries: &[Entry]) -> Result<Vec<String>> {
    Ok(entries.iter().map(serde_json::to_string).collect::<Result<_, _>>()?)
}

fn rewrite(folder: &Path, lines: &[String]) -> Result<File> {
    let new = folder.join("journal.new");
    let mut file = File::create(&new)?;
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    std::fs::rename(&new, path_in(folder))?;
    // The new name is durable only with its folder.
    File::open(folder)?.sync_all()?;
    Ok(file)
}

fn keep_writing(folder: &Path, mut file: File, orders: &Receiver<Order>) -> Result<()> {
    while let Ok(first) = orders.recv() {
        let (mut text, mut written) = (String::new(), Vec::new());
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Append(line, done) => {
                    text.push_str(&line);
                    text.push('\n');
                    written.push(done);
                }
                // It has all that was appended before.
                Order::Rewrite(lines) => {
                    text.clear();
                    file = rewrite(folder, &lines)?;
                }
            }
            next = orders.try_recv().ok();
        }
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        for done in written {
            // A request that has ended does not wait for it.
            let _ = done.send(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payment::Payment;

    fn entry(buyer: &str) -> Entry {
        Entry::Payment(Payment::new(&"a".parse().unwrap(), buyer, 1, "card_ok"))
    }

    fn read(folder: &Path) -> Result<Vec<String>> {
        let mut buyers = Vec::new();
        Journal::read(folder, |entry| {
            let Entry::Payment(payment) = entry else { panic!("{entry:?}") };
            buyers.push(payment.buyer);
        })?;
        Ok(buyers)
    }

    #[test]
    fn what_is_durable_is_read_again_and_half_an_entry_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_empty());
        let mut journal = Journal::write(folder.path(), &[entry("ann")]).unwrap();
        journal.append(&entry("ben")).unwrap().blocking_recv().unwrap();
        assert_eq!(read(folder.path()).unwrap(), ["ann", "ben"]);
        journal.replace(&[entry("cid")]).unwrap();
        journal.append(&entry("dee")).unwrap().blocking_recv().unwrap();
        assert_eq!(read(folder.path()).unwrap(), ["cid", "dee"]);

        let path = path_in(folder.path());
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        assert_eq!(read(folder.path()).unwrap(), ["cid"]);
        let damaged = [b"{\n".as_slice(), &whole].concat();
        std::fs::write(&path, damaged).unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().starts_with("line 1 of"));
    }
}
