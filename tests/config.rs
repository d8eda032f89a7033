//! `config/example.toml` shows every key at its default, and stays so.

use std::collections::BTreeSet;

use tidemill::config::{Origins, Settings, Typed};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/example.toml");

#[test]
fn the_example_is_the_default() {
    let origins = Origins { file: Some(EXAMPLE.into()), ..Origins::default() };
    let settings = Settings::load(&origins).unwrap();
    assert_eq!(settings.typed, Typed::default());
}

#[test]
fn the_example_has_every_key_and_says_what_it_is() {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let fields = |input: &str| -> BTreeSet<String> {
        // serde lists what it would have taken.
        let message = toml::from_str::<Typed>(input).unwrap_err().message().to_string();
        message.split('`').skip(3).step_by(2).map(str::to_string).collect()
    };
    let sections = fields("no_such_key = 1");
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), sections);
    for section in sections {
        let keys: BTreeSet<String> = table[&section].as_table().unwrap().keys().cloned().collect();
        assert_eq!(keys, fields(&format!("[{section}]\nno_such_key = 1")), "[{section}]");
    }
    let mut before = "";
    for line in text.lines() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(before.starts_with('#'), "no comment above {line:?}");
        }
        before = line;
    }
}
