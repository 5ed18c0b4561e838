//! `--name value` pairs. A name nobody asked for is an error, so that a misspelt option can't silently mean its default.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

pub struct Arguments {
    values: BTreeMap<String, String>,
}

impl Arguments {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("expected --name, got {word:?}"))?.to_owned();
            let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
            values.insert(name, value);
        }
        Ok(Self { values })
    }

    pub fn take<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String> {
        match self.values.remove(name) {
            Some(text) => text.parse().map_err(|_| format!("--{name}: cannot read {text:?}")),
            None => Ok(default),
        }
    }

    pub fn required<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        let text = self.values.remove(name).ok_or_else(|| format!("--{name} is missing"))?;
        text.parse().map_err(|_| format!("--{name}: cannot read {text:?}"))
    }

    /// A duration given as a decimal number of `unit`s.
    pub fn duration(&mut self, name: &str, default: f64, unit: Duration) -> Result<Duration, String> {
        let number = self.take(name, default)?;
        if !(0.0..=3600.0 * 1000.0).contains(&number) {
            return Err(format!("--{name}: {number} is out of range"));
        }
        Ok(unit.mul_f64(number))
    }

    pub fn seconds(&mut self, name: &str, default: f64) -> Result<Duration, String> {
        self.duration(name, default, Duration::from_secs(1))
    }

    pub fn milliseconds(&mut self, name: &str, default: f64) -> Result<Duration, String> {
        self.duration(name, default, Duration::from_millis(1))
    }

    /// Process ids, separated by commas; none when the option is absent.
    pub fn process_ids(&mut self) -> Result<Vec<u32>, String> {
        let text: String = self.take("server-pids", String::new())?;
        let words = text.split(',').filter(|word| !word.is_empty());
        words.map(|word| word.parse().map_err(|_| format!("--server-pids: cannot read {word:?}"))).collect()
    }

    pub fn finish(&self) -> Result<(), String> {
        match self.values.keys().next() {
            Some(name) => Err(format!("unknown option --{name}")),
            None => Ok(()),
        }
    }
}
