//! The page of `hostbadge review` in a real browser, headless: nothing is wider than a window of 1280 or 400 pixels,
//! nothing else is requested, nothing runs, and it prints.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::callers::python;
use crate::review::{COVERED, review, reviewed_host};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/browser.py");
/// The first bytes of the files that the browser makes.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
const PDF: &[u8] = b"%PDF-";

#[test]
#[ignore = "run by make test-clients: it needs Chromium"]
fn chromium_shows_and_prints_the_page_at_two_widths() {
    let host = reviewed_host();
    // Names without a place to break them.
    let long = format!("https://{}.example.com/", "x".repeat(200));
    let grant = format!("[[grant]]\naudience = \"{long}\"\nscopes = [\"{}\"]\n", "y".repeat(200));
    host.agents_file(
        &"n".repeat(40),
        &format!("name = \"{}\"\n[match]\nuser = 4713\n{grant}", "n".repeat(40)),
    );
    let file = host.path("review.html");
    let json: Value = serde_json::from_slice(
        &review(&host, &["--json", "--since", COVERED, "--html", file.to_str().unwrap()]).stdout,
    )
    .unwrap();
    // They stay after the test, for a person to look at.
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("review-page");
    fs::create_dir_all(&shots).unwrap();
    let output = Command::new(python())
        .arg(SCRIPT)
        .arg("chromium")
        .args([&host.path("browser"), &file, &shots])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let views = found["views"].as_array().unwrap();
    assert_eq!(views.len(), 4, "two widths, light and dark");
    for view in views {
        assert_eq!(view["requested"], json!([found["url"]]), "only the page itself");
        assert_eq!(view["said"], json!([]), "the console is silent");
        for measured in [&view["folded"], &view["unfolded"]] {
            assert_eq!(measured["scroll_width"], view["asked_width"], "{measured}");
            assert_eq!((&measured["wider"], &measured["cut"]), (&json!([]), &json!([])), "{}", view["name"]);
            assert_eq!(measured["scripts"], 0);
        }
        let totals = &json["totals"];
        let unused: u64 = ["audiences", "scopes", "credentials"]
            .iter()
            .map(|kind| totals["rights"][kind]["unused"].as_u64().unwrap())
            .sum();
        let expected = [
            &totals["agents"],
            &json!(unused),
            &totals["narrow"],
            &totals["unused"],
            &totals["not_seen"],
            &totals["unknown"],
        ];
        let expected: Vec<String> = expected.iter().map(|figure| figure.to_string()).collect();
        assert_eq!(view["folded"]["tiles"], json!(expected));
        assert_eq!(view["folded"]["cards"], json!(json["agents"].as_array().unwrap().len() + 1));
        let name = view["name"].as_str().unwrap();
        let image = fs::read(shots.join(format!("{name}.png"))).unwrap();
        let width = u32::from_be_bytes(image[16..20].try_into().unwrap());
        assert!(image.starts_with(PNG) && json!(width) == view["asked_width"], "{name}: {width}");
        assert!(fs::read(shots.join(format!("{name}.pdf"))).unwrap().starts_with(PDF), "{name}");
    }
    let colors = |scheme: &str| {
        let view = views.iter().find(|view| view["scheme"] == scheme).unwrap();
        (view["folded"]["background"].clone(), view["folded"]["ink"].clone())
    };
    assert_ne!(colors("light"), colors("dark"));
}
