//! The functions' metrics, as CloudWatch would have them: read from the lines in embedded metric format that the
//! functions write to their logs, and aggregated by time step.
//!
//! `emf.rs` reads a line, `series.rs` keeps the last minutes. The results are a list like that of
//! `GetMetricData`: metric, statistic, and values by step.

pub mod emf;
mod series;

use crate::system::clock::micros_now;
use series::Series;
pub use series::{MetricResults, STEP_SECONDS, STEPS};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How often the logs are read.
const READ_INTERVAL: Duration = Duration::from_millis(500);
/// Logs that are read; a system of eight regions has fewer than half of them.
const MAX_LOGS: usize = 128;
/// Bytes of one log that are read at a time; the rest follows the next time.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Metrics that are kept current until this is dropped.
#[derive(Debug)]
pub struct Metrics {
    series: Arc<Mutex<Series>>,
    reading: JoinHandle<()>,
}

impl Metrics {
    /// Reads every `*.log` in `folder`, from its beginning and as it grows.
    pub fn watch(folder: &Path) -> Self {
        let series = Arc::new(Mutex::new(Series::default()));
        let (kept, folder) = (series.clone(), folder.to_owned());
        let reading = tokio::spawn(async move {
            let mut read = HashMap::new();
            loop {
                let (folder, kept) = (folder.clone(), kept.clone());
                let reading = tokio::task::spawn_blocking(move || {
                    read_logs(&folder, &mut read, &kept);
                    read
                });
                let Ok(so_far) = reading.await else { return };
                read = so_far;
                tokio::time::sleep(READ_INTERVAL).await;
            }
        });
        Self { series, reading }
    }

    /// The values of the last [`STEPS`] complete steps.
    pub fn results(&self) -> MetricResults {
        lock(&self.series).results(micros_now() / 1_000)
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// All values of one metric in the logs of `folder`.
pub fn values(folder: &Path, metric: &str) -> std::io::Result<Vec<f64>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)?.take(MAX_LOGS) {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        for line in BufReader::new(std::fs::File::open(path)?).split(b'\n') {
            let samples = emf::parse(&line?).unwrap_or_default();
            found.extend(
                samples.into_iter().filter(|sample| sample.metric == metric).flat_map(|sample| sample.values),
            );
        }
    }
    Ok(found)
}

fn lock(series: &Mutex<Series>) -> MutexGuard<'_, Series> {
    series.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the new lines of each log. A log that cannot be read is tried again the next time.
fn read_logs(folder: &Path, read: &mut HashMap<PathBuf, u64>, series: &Mutex<Series>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if is_log && (read.contains_key(&path) || read.len() < MAX_LOGS) {
            let from = read.entry(path.clone()).or_default();
            *from += read_on(&path, *from, series).unwrap_or_default();
        }
    }
}

/// Reads whole lines after byte `from`, and returns the number of their bytes.
fn read_on(path: &Path, from: u64, series: &Mutex<Series>) -> std::io::Result<u64> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut lines = BufReader::new(file);
    let (mut bytes, mut line) = (0, Vec::new());
    while bytes < MAX_BYTES {
        line.clear();
        let length = lines.read_until(b'\n', &mut line)?;
        // The line is still being written; it is read the next time.
        if line.last() != Some(&b'\n') {
            break;
        }
        bytes += length as u64;
        if let Some(samples) = emf::parse(&line) {
            let mut series = lock(series);
            samples.into_iter().for_each(|sample| series.add(sample));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_log_is_read_once_and_as_it_grows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("eu-west-1-order-intake.log");
        let mut log = std::fs::File::create(&path).unwrap();
        let now_ms = micros_now() / 1_000;
        let at_ms = now_ms - 10_000;
        let line = format!(
            r#"{{"_aws":{{"Timestamp":{at_ms},"CloudWatchMetrics":[{{"Namespace":"fairdrop","Dimensions":[["Region"]],"Metrics":[{{"Name":"orders_queued"}}]}}]}},"Region":"eu-west-1","orders_queued":3}}"#
        );
        let (series, mut read) = (Mutex::new(Series::default()), HashMap::new());
        let total =
            |series: &Mutex<Series>| lock(series).results(now_ms).results.first().map(|one| one.total);
        write!(log, "{{\"level\":\"INFO\"}}\nnot JSON\n{line}\n{}", &line[..40]).unwrap();
        read_logs(folder.path(), &mut read, &series);
        assert_eq!(total(&series), Some(3.0));
        read_logs(folder.path(), &mut read, &series);
        assert_eq!(total(&series), Some(3.0), "a line counts once, and half a line not at all");
        writeln!(log, "{}", &line[40..]).unwrap();
        read_logs(folder.path(), &mut read, &series);
        assert_eq!(total(&series), Some(6.0));
        assert_eq!(values(folder.path(), "orders_queued").unwrap(), [3.0, 3.0]);
        assert!(values(folder.path(), "other").unwrap().is_empty());
    }
}
