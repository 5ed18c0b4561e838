//! A JSON object, written in the order its members are added. Enough for a report; no parser.

use std::fmt;

#[derive(Default)]
pub struct Json {
    members: Vec<String>,
}

impl Json {
    pub fn number(mut self, name: &str, value: f64) -> Self {
        // JSON has no NaN and no infinity; a figure that could not be taken is null.
        let text = if value.is_finite() { format!("{}", (value * 1e4).round() / 1e4) } else { "null".to_owned() };
        self.members.push(format!("\"{name}\": {text}"));
        self
    }

    pub fn text(mut self, name: &str, value: &str) -> Self {
        let escaped: String = value.chars().flat_map(escape).collect();
        self.members.push(format!("\"{name}\": \"{escaped}\""));
        self
    }

    pub fn object(mut self, name: &str, value: Json) -> Self {
        self.members.push(format!("\"{name}\": {value}"));
        self
    }

    pub fn extend(mut self, other: Json) -> Self {
        self.members.extend(other.members);
        self
    }
}

impl fmt::Display for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{{{}}}", self.members.join(", "))
    }
}

fn escape(character: char) -> Vec<char> {
    match character {
        '"' | '\\' => vec!['\\', character],
        control if control.is_control() => vec![' '],
        other => vec![other],
    }
}
