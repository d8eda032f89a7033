//! The layout tells the truth: a room uses only what stands above it in the list of `lib.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// DESIGN section 10, from the ground floor up.
const ROOMS: [&str; 17] = [
    "error",
    "clock",
    "metric",
    "record",
    "watermark",
    "contract",
    "codec",
    "store",
    "operator",
    "topology",
    "log",
    "task",
    "job",
    "catalog",
    "serve",
    "config",
    "cli",
];

#[test]
fn rooms_use_only_what_stands_above_them() {
    let order: BTreeMap<&str, usize> = ROOMS.iter().enumerate().map(|(at, room)| (*room, at)).collect();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = Vec::new();
    let mut uses = 0;
    for file in rust_files(&src) {
        let inside = file.strip_prefix(&src).expect("the file was found below src");
        let room = inside.components().next().expect("a file has a name").as_os_str().to_string_lossy().replace(".rs", "");
        let Some(own) = order.get(room.as_str()) else {
            assert!(["lib", "main"].contains(&room.as_str()), "{room} is no room of the list: add it to its place");
            continue;
        };
        let text = std::fs::read_to_string(&file).expect("sources are UTF-8");
        for (number, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let name: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let Some(other) = order.get(name.as_str()) else { continue };
                uses += 1;
                if other > own {
                    faults.push(format!("{}:{}: {room} uses {name}, which stands below it", inside.display(), number + 1));
                }
            }
        }
    }
    assert!(uses > 100, "the test reads the sources: it found {uses} uses");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("src is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
