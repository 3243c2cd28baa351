//! The container's config.json, as it is written. Source: the OCI runtime specification, config.md and config-linux.md.

use anyhow::{Context, Result};
use serde_json::Value;
use std::fs;

pub struct Config(Value);

impl Config {
    pub fn read(path: &str) -> Result<Config> {
        let text = fs::read(path).with_context(|| format!("read {path}"))?;
        Ok(Config(serde_json::from_slice(&text).with_context(|| format!("parse {path}"))?))
    }

    /// What a JSON pointer (RFC 6901) points at.
    pub fn at(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.at(pointer)?.as_str()
    }

    pub fn number(&self, pointer: &str) -> Option<i64> {
        self.at(pointer)?.as_i64()
    }

    /// The elements of a list; of one that is not there, none.
    pub fn list(&self, pointer: &str) -> &[Value] {
        self.at(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The strings of a list.
    pub fn texts(&self, pointer: &str) -> Vec<&str> {
        self.list(pointer).iter().filter_map(Value::as_str).collect()
    }
}

/// A string member of an object.
pub fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object[key].as_str()
}
