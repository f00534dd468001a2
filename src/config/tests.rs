use super::durations::{DAY, YEAR};
use super::*;
use crate::risk::RiskClass;

/// The configuration of a file with this text, or its first fault.
pub(super) fn read_config(text: &str) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, text).unwrap();
    Config::read(&file, Paths::default()).map_err(|diagnostics| {
        let lines: Vec<String> = diagnostics.iter().map(Diagnostic::to_string).collect();
        lines.join("\n").replace(dir.path().to_str().unwrap(), "")
    })
}

#[test]
fn empty_file_gives_defaults() {
    let config = read_config("").unwrap();
    assert_eq!(config.limits.rate, 50);
    assert_eq!(config.limits.burst, 200);
    assert_eq!(config.paths, Paths::default());
    assert_eq!(config.tpm.tcti, "device:/dev/tpmrm0");
}

#[test]
fn all_errors_are_reported_with_line_numbers() {
    let errors =
        read_config("trust_domain = \"Example Org\"\nissuer = \"http://x\"\n[paths]\nstate = \"var\"\n")
            .unwrap_err();
    let lines: Vec<&str> = errors.lines().collect();
    assert!(lines[0].starts_with("/c.toml:1: trust_domain must be"), "{errors}");
    assert!(lines[1].starts_with("/c.toml:2: issuer must be"), "{errors}");
    assert!(lines[2].starts_with("/c.toml:4: must be an absolute path"), "{errors}");
}

#[test]
fn invalid_durations_and_unknown_keys_are_rejected() {
    assert!(
        read_config("[tpm]\ndeadline = \"5 parsecs\"")
            .unwrap_err()
            .contains(":2: \"5 parsecs\" must be a duration")
    );
    let error = read_config("[tpm]\nprobe_every = \"1ms\"").unwrap_err();
    assert!(
        error.contains(":2: \"1ms\" must be a duration from \"100ms\" to \"1h\", such as \"1500ms\""),
        "{error}"
    );
    assert!(read_config("[limits]\nrate = -1").unwrap_err().contains(":2:"));
    assert!(read_config("[limits]\nrate = 0").unwrap_err().contains("limits.rate is 0"));
    assert!(read_config("[limits]\ntpm_burst = 0").unwrap_err().contains("limits.tpm_burst is 0"));
    assert!(read_config("[tmp]\n").unwrap_err().contains("unknown key `tmp`; did you mean `tpm`?"));
}

#[test]
fn all_faults_of_types_keys_and_values_are_reported_at_once() {
    let errors = read_config(
        "trust_domain = 3\nissuer = \"http://x\"\nrate = 5\n[tpm]\ndeadline = \"5 parsecs\"\n\
         probe_every = \"1ms\"\n[limits]\nrate = -1\nburst = \"2\"\nbrust = 2\n[log]\nto = \"file\"\n\
         [[admin]]\ngroup = \"x\"\n",
    )
    .unwrap_err();
    let lines: Vec<&str> = errors.lines().collect();
    let expected = [
        "/c.toml:1: trust_domain must be text in quotes, such as \"example.org\"; this is the number 3",
        "/c.toml:2: issuer must be",
        "/c.toml:3: unknown key `rate`; it belongs below [limits]",
        "/c.toml:5: \"5 parsecs\" must be a duration",
        "/c.toml:6: \"1ms\" must be a duration",
        "/c.toml:8: rate must be a whole number from 0 to 4294967295, without quotes; this is the number",
        "/c.toml:9: burst must be a whole number",
        "/c.toml:10: unknown key `brust` in [limits]; did you mean `burst`?",
        "/c.toml:12: to must be \"auto\" or \"journal\" or \"stderr\"; this is the text \"file\"",
        "/c.toml:13: expected a table `[admin]`; this is a list of tables",
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
    assert_eq!(lines.len(), expected.len(), "{errors}");
}

/// A key in one of both only would be refused, or accepted without effect.
#[test]
fn each_key_is_read() {
    fn value(kind: Kind) -> String {
        match kind {
            Kind::Text(example) | Kind::Duration(example) | Kind::TextMap(example) => example.to_owned(),
            Kind::Choice(choices) => format!("\"{}\"", choices[0]),
            Kind::Date(example) => example.to_owned(),
            Kind::ByteList(example) | Kind::TextList(example) => example.to_owned(),
            Kind::Boolean => "true".to_owned(),
            Kind::Integer(_) | Kind::UserOrGroup => "1".to_owned(),
            Kind::Table(keys) => {
                let members = keys.iter().map(|key| format!("{} = {}", key.name, value(key.kind)));
                format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
            }
            Kind::Tables(_) => "[]".to_owned(),
            Kind::NamedTables(keys) => format!("{{ name = {} }}", value(Kind::Table(keys))),
        }
    }
    let mut text = String::new();
    for key in keys::KEYS {
        match key.kind {
            Kind::Table(inner) | Kind::NamedTables(inner) => {
                let is_named = matches!(key.kind, Kind::NamedTables(_));
                text += &format!("[{}{}]\n", key.name, if is_named { ".name" } else { "" });
                for key in inner {
                    text += &format!("{} = {}\n", key.name, value(key.kind));
                }
            }
            kind => text += &format!("{} = {}\n", key.name, value(kind)),
        }
    }
    // Values that do not fit each other.
    text = text.replace("publish_before = \"30d\"", "publish_before = \"1d\"");
    text = text.replace("every = \"5s\"", "every = \"1s\"");
    assert_eq!(read_config(&text).map(drop), Ok(()), "{text}");
}

#[test]
fn posture_settings_are_validated() {
    let posture = read_config("").unwrap().posture;
    assert_eq!((posture.mode, posture.every().as_secs()), (PostureMode::Off, 24));
    let posture =
        read_config("[posture]\nmode = \"enforce\"\npcrs = [0, 7]\nmax_age = \"10s\"").unwrap().posture;
    assert_eq!((posture.mode, posture.every().as_secs()), (PostureMode::Enforce, 4));
    for (text, expected) in [
        ("\nmode = \"on\"", ":3: mode must be \"off\" or \"warn\" or \"enforce\""),
        ("\npcrs = [7, 0]", ":2: posture.pcrs must be PCR numbers"),
        ("\npcrs = []", ":2: posture.pcrs must be PCR numbers"),
        ("\npcrs = [0, 10]", ":2: posture.pcrs: PCR 10 changes"),
        ("\npcrs = [23]", ":2: posture.pcrs: PCR 23 can be reset"),
        ("\npcrs = [24]", ":2: posture.pcrs: there is no PCR 24"),
        ("\npcrs = [256]", ":3: pcrs must be a list of numbers"),
        ("\nmax_age = \"10ms\"", ":2: posture.max_age must be at least"),
        ("\nevery = \"31s\"", ":2: posture.every must be from"),
    ] {
        let error = read_config(&format!("\n[posture]{text}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn certificate_ttl_is_bounded() {
    assert_eq!(read_config("").unwrap().certificates.ttl.as_secs(), 3600);
    assert_eq!(read_config("[certificates]\nttl = \"1d\"").unwrap().certificates.ttl, DAY);
    for ttl in ["59s", "25h"] {
        let error = read_config(&format!("\n[certificates]\nttl = \"{ttl}\"")).unwrap_err();
        assert!(error.contains(":2: certificates.ttl must be from"), "{error}");
    }
}

#[test]
fn key_rotation_settings_are_validated() {
    let keys = read_config("").unwrap().keys;
    assert_eq!((keys.rotate_every(), keys.publish_before), (DAY * 30, DAY));
    assert_eq!((keys.risk, keys.rotate_encryption_every), (RiskClass::Moderate, YEAR));
    assert_eq!(keys.rotate_rsa_every, YEAR);
    let text = "[keys]\nrisk = \"low\"\nrotate_every = \"1y\"\npublish_before = \"90d\"";
    let keys = read_config(text).unwrap().keys;
    assert_eq!((keys.rotate_every(), keys.publish_before), (YEAR, DAY * 90));
    let keys = read_config("[keys]\nrisk = \"high\"").unwrap().keys;
    assert_eq!(keys.rotate_every(), DAY * 14);
    for (text, expected) in [
        ("\nrotate_every = \"59m\"\npublish_before = \"1m\"", ":2: keys.rotate_every must be"),
        ("\nrotate_every = \"2y\"", ":3: \"2y\" must be a duration"),
        ("\nrotate_every = \"0s\"", ":3: \"0s\" must be a duration"),
        ("\nrotate_every = 30", ":2: keys.rotate_every must be at least \"1h\""),
        ("\nrotate_every = \"93d\"", "must be at most \"92d\" with keys.risk = \"moderate\""),
        ("\nrisk = \"high\"\nrotate_every = \"15d\"", "must be at most \"14d\" with keys.risk = \"high\""),
        ("\nrisk = \"none\"", ":3: risk must be \"moderate\" or \"high\" or \"low\""),
        ("\nrotate_encryption_every = \"1h\"", "keys.rotate_encryption_every must be from \"1d\""),
        ("\nrotate_rsa_every = \"23h\"", ":2: keys.rotate_rsa_every must be from \"1d\""),
        ("\nrotate_rsa_every = \"1d\"", ":2: keys.rotate_rsa_every must be longer than keys.publish_before"),
        ("\nrotate_every = true", ":3: rotate_every must be a duration"),
        ("\nrotate_every = \"20h\"", ":2: keys.publish_before must be shorter"),
        ("\nrotate_each = \"20h\"", ":3: unknown key `rotate_each` in [keys]; did you mean `rotate_every`?"),
    ] {
        let error = read_config(&format!("\n[keys]{text}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
