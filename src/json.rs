//! JSON texts that have to be objects.

use serde::Deserialize;
use serde::de::Error;

/// Deserializes an object. serde reads an array as the members of a struct, in the order of their
/// declaration, so a text that is anything but an object is refused before.
pub(crate) fn from_object<'a, T: Deserialize<'a>>(text: &'a [u8]) -> serde_json::Result<T> {
    if !is_object(text) {
        return Err(serde_json::Error::custom("not a JSON object"));
    }
    serde_json::from_slice(text)
}

/// Whether a JSON text is an object, as its first character says.
pub(crate) fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"{")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::{Path, PathBuf};

    /// Modules that read JSON of callers, of other hosts or of other trust domains.
    const READERS: [&str; 5] = ["api", "enroll", "federation", "service", "verify"];

    #[derive(Deserialize, Debug, PartialEq)]
    struct Pair {
        name: String,
        number: u64,
    }

    #[test]
    fn an_array_of_the_members_is_no_object() {
        let pair = Pair { name: "a".into(), number: 1 };
        assert_eq!(serde_json::from_str::<Pair>(r#"["a",1]"#).unwrap(), pair, "serde reads it");
        for text in [r#"["a",1]"#, r#" ["a",1]"#, "\"a\"", "1", "null", ""] {
            assert!(from_object::<Pair>(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(from_object::<Pair>(b" \n{\"name\":\"a\",\"number\":1}").unwrap(), pair);
        assert!(from_object::<Pair>(b"{\"name\":\"a\",\"number\":1} x").is_err());
    }

    #[test]
    fn every_text_from_outside_is_read_as_an_object() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut faults = Vec::new();
        for module in READERS {
            for file in rust_files(&source.join(module)) {
                let text = fs::read_to_string(&file).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                for (number, line) in code.lines().enumerate() {
                    if line.contains("serde_json::from_slice") || line.contains("serde_json::from_str") {
                        faults.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
                    }
                }
            }
        }
        assert!(faults.is_empty(), "read these by json::from_object:\n{}", faults.join("\n"));
    }

    fn rust_files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        let is_source =
            |file: &PathBuf| file.extension().is_some_and(|end| end == "rs") && !file.ends_with("tests.rs");
        files.into_iter().filter(is_source).chain(dirs.iter().flat_map(|dir| rust_files(dir))).collect()
    }
}
